"""What the tests of the cluster share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from slurm_folder import FakeSlurm

FAKE = Path(__file__).parent / "fake_slurm.py"


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
