"""The demo: two simulated projects, whose true particles are known, through the whole pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from prefect import flow, task

from cryoflow.database import Database
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.simulate import SimulatedDataset, simulate_dataset
from cryoflow.simulate.cryosparc_project import write_cryosparc_project
from cryoflow.simulate.relion_project import write_relion_project
from flows.parameters import DemoParameters, PipelineParameters
from flows.pipeline import PipelineResult, pipeline
from flows.run_page import log, run_name

Writer = Callable[[Path, SimulatedDataset], Path]

PROJECTS: Mapping[str, tuple[str, Writer]] = {
    "relion-barrel": ("barrel", lambda folder, data: write_relion_project(folder, data, version="5.0")),
    "CS-large": ("large", lambda folder, data: write_cryosparc_project(folder, data, version="4.5")),
}
"""Project -> specimen, and the function that writes the finished project around its micrographs."""
SHAPE_YX = (1440, 1792)


@flow(name="demo", flow_run_name=run_name("demo", lambda p: p.output.name))
def demo(parameters: DemoParameters) -> PipelineResult:
    """Simulate a RELION 5 and a CryoSPARC 4 project, run the pipeline, and compare with the ground truth."""
    output = parameters.output.absolute()
    for name in PROJECTS:
        simulate_project.with_options(task_run_name=f"simulate {name}")(parameters, name)
    return pipeline(
        PipelineParameters(
            roots=(output / "projects",),
            output=output,
            epochs=parameters.epochs,
            patience=parameters.epochs,
            test=0.25,
            seed=parameters.seed,
            reference_database=output / "truth",
        )
    )


@task
def simulate_project(parameters: DemoParameters, name: str) -> Path:
    """Write micrographs and the project around them, and add the ground truth to a database of its own."""
    output = parameters.output.absolute()
    specimen, write_project = PROJECTS[name]
    micrographs, project = output / "micrographs" / name, output / "projects" / name
    dataset = simulate_dataset(
        micrographs,
        specimen=specimen,
        n_micrographs=parameters.n_micrographs,
        shape_yx=SHAPE_YX,
        seed=parameters.seed,
    )
    truth = Database(output / "truth")
    if not project.is_dir():
        write_project(project, dataset)
    log.info("simulated project: %s, %d micrographs of %s", project, len(dataset.micrographs), specimen)
    if not any(entry.project_path == project for entry in truth.entries()):
        truth.add(true_picks(dataset, project))
    return project


def true_picks(dataset: SimulatedDataset, project: Path) -> PickSet:
    """Return the true particles of simulated micrographs as picks of a project."""
    ms = dataset.micrographs
    table = micrograph_table(
        {
            "name": [m.path.name for m in ms],
            "path": [str(m.path) for m in ms],
            "status": ["found"] * len(ms),
            "ny": [m.shape_yx[0] for m in ms],
            "nx": [m.shape_yx[1] for m in ms],
            "pixel_size_A": [m.pixel_size_A for m in ms],
        }
    )
    xy = np.concatenate([m.true_xy_px for m in ms])
    rows = np.repeat(np.arange(len(ms)), [len(m.true_xy_px) for m in ms])
    picks = pd.DataFrame({"micrograph": rows.astype(np.int32), "x_px": xy[:, 0], "y_px": xy[:, 1]})
    who = Provenance("cryoflow", project, project.name, "truth", Kind.IMPORT, job_type="cryoflow.simulate")
    return PickSet.build(who, table, picks, diameter_A=dataset.diameter_A)
