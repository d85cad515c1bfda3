"""The recipes of the images agree: Docker's and Apptainer's make the same image of each kind, and name no registry."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCKER = (ROOT / "containers" / "Dockerfile").read_text()
APPTAINER = (ROOT / "containers" / "cryoflow.def").read_text()
BUILD = (ROOT / "containers" / "build").read_text()
INSTALL = (ROOT / "containers" / "install.sh").read_text()


def test_both_recipes_set_the_same_variables_and_labels() -> None:
    docker = dict(re.findall(r"([A-Z_]+)=(\S+)", re.findall(r"^ENV (PATH.*)", DOCKER, re.MULTILINE)[0]))
    apptainer = dict(re.findall(r"([A-Z_]+)=(\S+)", re.findall(r"^    export (.*)", APPTAINER, re.MULTILINE)[0]))
    assert docker == apptainer
    in_docker = set(re.findall(r"(org\.opencontainers\.image\.\w+|cryoflow\.kind)=", DOCKER))
    in_apptainer = set(re.findall(r"^    (org\.opencontainers\.image\.\w+|cryoflow\.kind) ", APPTAINER, re.MULTILINE))
    assert in_docker == in_apptainer
    assert {"org.opencontainers.image.version", "org.opencontainers.image.revision"} <= in_docker


def test_both_recipes_run_the_one_installer_which_knows_every_kind() -> None:
    assert 'install.sh "${KIND}" /source' in DOCKER
    assert "install.sh {{ kind }} /source" in APPTAINER
    kinds = re.search(r"kinds=\((\w.*?)\)$", BUILD, re.MULTILINE)
    assert kinds is not None
    assert [kind for kind in kinds[1].split() if not re.search(rf"^    {kind}\)", INSTALL, re.MULTILINE)] == []
    assert 'PIP_CONSTRAINT="$PWD/requirements.lock"' in INSTALL


def test_images_do_not_run_as_root_and_no_registry_is_named() -> None:
    assert int(re.findall(r"^USER (\w+)$", DOCKER, re.MULTILINE)[-1]) > 0
    for text in (DOCKER, APPTAINER, BUILD, INSTALL):
        assert "://" not in text
    bases = re.findall(r"^(?:ARG BASE|    base)=(\S+)", DOCKER + APPTAINER, re.MULTILINE)
    assert set(bases) == {"python:3.11-slim-bookworm"}


def test_a_build_writes_to_no_fixed_name_in_the_temporary_folder_that_it_may_share_with_its_host() -> None:
    """Another account's file of that name would end it, and a link would lead it elsewhere."""
    assert "mktemp" in BUILD
    for text in (DOCKER, APPTAINER, BUILD, INSTALL):
        assert re.findall(r"/tmp/\w+", text) == []


def test_the_builder_says_how_it_is_used_when_it_is_told_what_it_does_not_know() -> None:
    done = subprocess.run([ROOT / "containers" / "build", "--gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "containers/build [--docker | --apptainer]" in done.stdout


def build(tmp_path: Path, *options: str, account: str = "") -> subprocess.CompletedProcess[str]:
    """Run the builder with a stand-in of apptainer that copies a base that is a folder to `seen`."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apptainer").write_text(
        "#!/bin/bash\n"
        "for word; do case $word in base=*) base=${word#base=} ;; esac; done; image=${@: -2:1}\n"
        f'printf "%s\\n" "$@" > "{tmp_path}/words"\n'
        f'cp -r "$base" "{tmp_path}/seen"; touch "$image"\n'
    )
    (programs / "apptainer").chmod(0o755)
    environment = os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}
    argv = ["containers/build", "--apptainer", *options, "cpu"]
    if not account:
        return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    tmp_path.chmod(0o777)
    source = tmp_path / "source"  # Git refuses another account's checkout
    subprocess.run(["git", "clone", "-q", ROOT, source], check=True)
    shutil.copy(ROOT / "containers" / "build", source / "containers" / "build")
    subprocess.run(["chown", "-R", account, source], check=True)
    argv = ["runuser", "-u", account, "--", "env", f"HOME={tmp_path}", *argv]
    return subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a device node")
def test_device_nodes_of_a_base_are_left_out_for_they_cannot_be_made_without_privileges(tmp_path: Path) -> None:
    base = tmp_path / "the base"
    (base / "dev").mkdir(parents=True)
    (base / "usr").mkdir()
    (base / "usr" / "python").write_text("x")
    (base / "bin").symlink_to("usr")
    os.mknod(base / "dev" / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    done = build(tmp_path, "--output", str(tmp_path / "out"), "--base", str(base))
    assert done.returncode == 0, done.stderr
    seen = {str(path.relative_to(tmp_path / "seen")) for path in (tmp_path / "seen").rglob("*")}
    assert seen >= {"dev", "usr", "usr/python", "bin"}
    assert "dev/null" not in seen
    assert (tmp_path / "out" / "cryoflow-cpu.sif").exists()
    assert not list(tmp_path.glob("tmp.*"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another account")
def test_files_of_a_base_that_the_account_may_not_read_are_left_out_and_all_else_is_there() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as name:  # pytest's folder is closed to other accounts
        folder = Path(name)
        base = folder / "base"
        for each in ("etc/private", "root", "usr"):
            (base / each).mkdir(parents=True)
        for each, mode in {"etc/passwd": 0o644, "etc/shadow": 0o600, "etc/private/key": 0o644}.items():
            (base / each).write_text("x")
            (base / each).chmod(mode)
        for each in ("etc/private", "root"):
            (base / each).chmod(0o700)
        (base / "dangling").symlink_to("/nowhere")
        os.mknod(base / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        done = build(folder, "--output", str(folder / "out"), "--base", str(base), account="nobody")
        assert done.returncode == 0, done.stderr
        seen = {str(path.relative_to(folder / "seen")) for path in (folder / "seen").rglob("*")}
    assert seen == {"etc", "etc/passwd", "root", "usr", "dangling"}


@pytest.mark.parametrize(("base", "bootstrap"), [("base.sif", "localimage"), ("python:3.11", "docker")])
def test_a_base_that_is_an_image_file_is_taken_as_one_and_another_is_a_name(
    tmp_path: Path, base: str, bootstrap: str
) -> None:
    (tmp_path / "base.sif").touch()
    given = str(tmp_path / base) if base.endswith(".sif") else base
    build(tmp_path, "--output", str(tmp_path / "out"), "--base", given)  # the stand-in cannot copy a name
    words = (tmp_path / "words").read_text().splitlines()
    assert {f"bootstrap={bootstrap}", f"base={given}"} <= set(words)


def test_an_output_folder_that_cannot_be_made_is_refused_before_the_first_layer(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = build(tmp_path, "--output", str(tmp_path / "file" / "images"))
    assert done.returncode != 0
    assert "cannot be written to" in done.stderr
    assert not (tmp_path / "seen").exists()
