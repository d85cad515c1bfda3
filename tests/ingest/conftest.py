"""Two finished projects around simulated micrographs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cryoflow.simulate.simulated_dataset import SimulatedDataset


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    """Three non-square micrographs with known particles."""
    from cryoflow.simulate.simulation import simulate_dataset

    folder = tmp_path_factory.mktemp("simulated")
    return simulate_dataset(folder / "raw", n_micrographs=3, shape_yx=(640, 896), seed=3, workers=1)


@pytest.fixture(scope="session")
def finished(simulated: SimulatedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CryoSPARC and a RELION project; not to be changed."""
    from cryosparc_projects import write_cryosparc_project
    from relion_projects import write_relion_project

    root = tmp_path_factory.mktemp("finished")
    write_cryosparc_project(root / "CS-demo", simulated)
    write_relion_project(root / "relion", simulated)
    return root


@pytest.fixture
def projects(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    root = tmp_path / "projects"
    shutil.copytree(finished, root, symlinks=True)
    return root
