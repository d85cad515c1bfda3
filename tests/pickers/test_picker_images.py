"""The real Topaz in a real Docker and a real Apptainer image: what it sees, who it is, and what it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryoflow.errors import ToolFailed
from cryoflow.execution.executor import Executor, Step, run_steps
from cryoflow.execution.resources import Resources
from cryoflow.pickers.comparing.compare import compare
from cryoflow.pickers.running.run_picker import pick, train
from cryoflow.pickers.running.work_folder import work_folder
from cryoflow.pickers.training_sets.export import export
from cryoflow.picks import PickSet

TESTBED = Path(__file__).resolve().parents[2].parent / "shared" / "testbed" / "docker-engine"
NAME = "cryoflow-test-topaz"
TOPAZ = '#!/bin/sh\nPYTHONPATH=/opt/topaz/packages exec /usr/bin/python3 /opt/topaz/run.py "$@"\n'
SPEAKS = """
echo "user $(id -u)"
echo "here $PWD"
echo "packages <$PYTHONPATH> $PYTHONNOUSERSITE"
cat "$1/secret" && touch "$1/new" || echo "read only"
cat raw_01/000000__mic_0.mrc > copy
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, real_pickers: Path) -> Path:
    """A Debian with the Topaz of this machine in it, as a folder; its files are hard links where that can be."""
    if not TESTBED.exists():
        pytest.skip("no base image: there is no testbed")
    folder = tmp_path_factory.mktemp("image") / "root"
    subprocess.run([TESTBED, "base", folder], check=True, capture_output=True)
    for device in (folder / "dev").iterdir():
        if device.is_symlink() or not device.is_dir():
            device.unlink()
    (packages,) = (real_pickers.parent / "topaz" / "lib").glob("python3.11/site-packages")
    leave_out = shutil.ignore_patterns("include", "test", "tests", "pip")
    shutil.copytree(packages, folder / "opt/topaz/packages", copy_function=_link_or_copy, ignore=leave_out)
    shutil.copy(real_pickers.parent / "topaz" / "run.py", folder / "opt/topaz")
    program = folder / "usr/local/bin/topaz"
    program.write_text(TOPAZ)
    program.chmod(0o755)
    return folder


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def docker_image(root: Path) -> Iterator[str]:
    with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
        subprocess.run(["docker", "import", "-", NAME], stdin=tar.stdout, check=True, capture_output=True)
    yield NAME
    subprocess.run(["docker", "image", "rm", "--force", NAME], check=True, capture_output=True)


@pytest.fixture(scope="module")
def apptainer_image(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    image = tmp_path_factory.mktemp("sif") / "topaz.sif"
    plain = "-noI -noD -noF -noX"  # compressing would take a minute
    subprocess.run(["apptainer", "--quiet", "build", "--mksquashfs-args", plain, image, root], check=True)
    return str(image)


@pytest.fixture(
    params=[
        pytest.param("docker", marks=[pytest.mark.docker, pytest.mark.pickers]),
        pytest.param("apptainer", marks=[pytest.mark.apptainer, pytest.mark.pickers]),
    ]
)
def executor(request: pytest.FixtureRequest) -> Executor:
    image = request.getfixturevalue(f"{request.param}_image")
    return Executor(request.param, image, resources=Resources((), 2), timeout_s=500)


def test_topaz_trains_and_picks_in_an_image(make_entry, tmp_path, executor):
    entry = make_entry('P 12, "the" one\'s', n=3, n_empty=0, shape_yx=(272, 384))
    projects = tmp_path / "projects"
    before = _state_of(projects)
    settings = {"epochs": 1, "epoch_size": 20, "minibatch_size": 32, "downsampling": 2}
    folder = export("topaz", [entry], tmp_path / 'a "set", its 2nd', settings=settings).folder
    trained = train("topaz", folder, executor)
    assert trained.model is not None
    assert trained.curve is not None
    new = PickSet.build(entry.provenance, entry.micrographs, entry.picks.iloc[:0], diameter_A=entry.diameter_A)
    (picks,) = pick("topaz", trained.model, [new], tmp_path / "picked here", executor, threshold=-2).picksets
    found = compare(picks, entry)
    assert found.recall > 0.8
    assert found.precision > 0.7
    assert _state_of(projects) == before


def test_a_program_in_an_image_is_its_user_and_cannot_write_to_projects(make_entry, tmp_path, executor, monkeypatch):
    """Apptainer's user is always the caller; Docker's is root where nobody says another."""
    monkeypatch.setenv("PYTHONPATH", "/of/this/machine")
    entry = make_entry(n=3, n_empty=0)
    folder = export("topaz", [entry], tmp_path / "a set", settings={"downsampling": 1}).folder
    micrographs = tmp_path / "projects" / "P12" / "mics"
    (micrographs / "secret").write_text("readable\n")
    me = os.getuid()
    if executor.container == "docker" and me == 0:
        me = 4711
        monkeypatch.setattr(os, "getuid", lambda: me)
        os.chown(folder, me, -1)
    run_steps(
        [Step("speak", ("sh", "-c", SPEAKS, "sh", str(micrographs)), ("copy",))],
        executor,
        work_folder(folder),
        folder / "log",
    )
    lines = (folder / "log").read_text().splitlines()
    said = [f"user {me}", f"here {folder}", "packages <> 1", "readable", "read only"]
    assert [line for line in lines if line in said] == said  # what Docker sends of stderr may come anywhere between
    assert not (micrographs / "new").exists()
    assert (folder / "copy").read_bytes() == (micrographs / "mic_0.mrc").read_bytes()
    assert (folder / "copy").stat().st_uid == me


def test_who_stops_waiting_ends_the_container(make_entry, tmp_path, executor):
    from dataclasses import replace

    folder = export("topaz", [make_entry(n=3)], tmp_path / "set", settings={"downsampling": 1}).folder
    sleep = Step("sleep", ("python3", "-c", "import time; print('asleep'); time.sleep(600.4711)"))
    with pytest.raises(ToolFailed, match=r"(?s)asleep.*longer than 60 s"):
        run_steps([sleep], replace(executor, timeout_s=60), work_folder(folder), folder / "log")
    processes = subprocess.run(["ps", "-e", "-o", "args"], capture_output=True, text=True, check=True).stdout
    assert "sleep(600.4711)" not in processes


def _state_of(folder: Path) -> dict[str, tuple[float, int]]:
    return {str(p): (p.stat().st_mtime, p.stat().st_size) for p in sorted(folder.rglob("*"))}
