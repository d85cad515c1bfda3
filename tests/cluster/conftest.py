"""What the tests of the cluster share."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cpu_image as images
import pytest
from real_site import RealSite, postgres
from slurm_folder import FakeSlurm

FAKE = Path(__file__).parent / "fake_slurm.py"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    programs = tmp_path / "slurm programs"
    programs.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        # not `env python3`, which may be a version manager's script that takes longer than the command itself
        line = shlex.join((sys.executable, "-IS", str(FAKE), name))
        (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
        (programs / name).chmod(0o755)
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return FakeSlurm(folder)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    """PostgreSQL, a server, and a worker on the real SLURM without containers; modules that need no other share it."""
    with postgres() as database:
        site = RealSite(tmp_path_factory.mktemp("site"), database=database)
        try:
            site.start_server()
            site.set_up()
            site.start_worker()
            yield site
        finally:
            site.close()


@pytest.fixture(scope="session")
def docker_image(request: pytest.FixtureRequest) -> Iterator[str]:
    """The CPU image in Docker Engine: the files of the Apptainer image, and what the Dockerfile says of how they run.

    Both are made by the same script from the same base, so that one build serves both. CRYOFLOW_DOCKER_IMAGE names an
    image that is built already.
    """
    if built := os.environ.get("CRYOFLOW_DOCKER_IMAGE"):
        yield built
        return
    image: Path = request.getfixturevalue("cpu_image")
    last_stage = (ROOT / "containers" / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    kept = re.findall(r"^(?:ENV|USER|WORKDIR|CMD) .*", last_stage, re.MULTILINE)
    assert {line.split()[0] for line in kept} == {"ENV", "USER", "WORKDIR", "CMD"}
    files = ["apptainer", "exec", "--cleanenv", "--no-home", "--no-mount", "cwd,tmp", "--pwd", "/", str(image)]
    left_out = [f"--exclude=./{name}" for name in ("proc", "sys", "dev", "var/cache", "var/lib/apt")]
    files += ["tar", "-C", "/", "--one-file-system", *left_out, "-c", "."]
    usual = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # the base's, which files do not have
    changes = [word for line in kept for word in ("--change", line.replace("$PATH", usual))]
    name = "cryoflow-test:cpu"
    with subprocess.Popen(files, stdout=subprocess.PIPE) as tar:
        subprocess.run(
            ["docker", "import", *changes, "-", name], stdin=tar.stdout, check=True, stdout=subprocess.DEVNULL
        )
    subprocess.run(["docker", "run", "--rm", name, "id", "-u"], check=True)
    yield name
    subprocess.run(["docker", "image", "rm", "--force", name], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def cpu_image() -> Path:
    """The CPU image, built by the project's own script; once for each state of the sources, whatever uses it.

    CRYOFLOW_CPU_IMAGE names one that is built already.
    """
    if built := os.environ.get("CRYOFLOW_CPU_IMAGE"):
        return Path(built)
    if not images.BASE_MAKER.exists():
        pytest.skip("no base image: CRYOFLOW_CPU_IMAGE names no image, and there is no testbed")
    return images.cpu_image()
