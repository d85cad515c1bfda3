"""One pair of finished projects, made once; no test may change it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def finished_projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CryoSPARC and a RELION project around three small micrographs."""
    from cryosparc_projects import write_cryosparc_project
    from relion_projects import write_relion_project

    from cryoflow.simulate.simulation import simulate_dataset

    folder = tmp_path_factory.mktemp("promises")
    dataset = simulate_dataset(folder / "raw", n_micrographs=3, shape_yx=(480, 640), seed=3, workers=1)
    root = folder / "projects"
    root.mkdir()
    write_cryosparc_project(root / "CS-demo", dataset)
    write_relion_project(root / "relion", dataset)
    return root
