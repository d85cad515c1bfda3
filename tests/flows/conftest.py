"""Flows run against one Prefect server of the session's own, on one small simulated project."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _server(prefect_server: None) -> None:
    """Every test of flows needs it."""


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished CryoSPARC project of six small micrographs; its parent is the root to crawl."""
    from cryosparc_projects import write_cryosparc_project

    from cryoflow.simulate import simulate_dataset

    folder = tmp_path_factory.mktemp("simulated")
    dataset = simulate_dataset(
        folder / "micrographs", specimen="barrel", n_micrographs=6, shape_yx=(360, 480), pixel_size_A=4.0, seed=3
    )
    project = folder / "projects" / "CS-barrel"
    write_cryosparc_project(project, dataset)
    return project
