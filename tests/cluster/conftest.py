"""What the tests of the cluster share."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from slurm_folder import FakeSlurm

FAKE = Path(__file__).parent / "fake_slurm.py"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    programs = tmp_path / "slurm programs"
    programs.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scontrol", "scancel"):
        (programs / name).symlink_to(FAKE)
    folder = tmp_path / "slurm"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return FakeSlurm(folder)


@pytest.fixture(scope="session")
def cpu_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CPU image, built by the project's own script from a base that needs no registry; once a session.

    CRYOFLOW_CPU_IMAGE names one that is built already.
    """
    if built := os.environ.get("CRYOFLOW_CPU_IMAGE"):
        return Path(built)
    folder = tmp_path_factory.mktemp("images")
    base = folder / "base"
    if not (maker := ROOT.parent / "shared" / "testbed" / "docker-engine").exists():
        pytest.skip("no base image: CRYOFLOW_CPU_IMAGE names no image, and there is no testbed")
    subprocess.run([str(maker), "base", str(base)], check=True, capture_output=True)
    for device in (base / "dev").iterdir():
        if device.is_symlink() or not device.is_dir():
            device.unlink()  # device files cannot be made in a build without privileges
    build = ROOT / "containers" / "build"
    subprocess.run([str(build), "--apptainer", "--output", str(folder), "--base", str(base), "cpu"], check=True)
    return folder / "cryoflow-cpu.sif"
