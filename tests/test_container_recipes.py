"""The recipes of the images agree: Docker's and Apptainer's make the same image of each kind, and name no registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

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


def test_the_builder_says_how_it_is_used_when_it_is_told_what_it_does_not_know() -> None:
    done = subprocess.run([ROOT / "containers" / "build", "--gpu"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "containers/build [--docker | --apptainer]" in done.stdout
