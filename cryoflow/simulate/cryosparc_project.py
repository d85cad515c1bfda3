"""Finished CryoSPARC projects around simulated micrographs, as the demo ingests them.

The jobs are the usual ones: micrographs are imported, picked by hand and by a permissive picker, extracted, classified
in 2D, selected, and what survives goes to ab-initio, heterogeneous, homogeneous and non-uniform refinement. Refined
shifts lead from each pick to the true center: location minus shift.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from cryoflow.simulate.cryosparc_columns import PickColumns
from cryoflow.simulate.cryosparc_files import JobWriter, write_project_files
from cryoflow.simulate.cryosparc_scenario import Scenario
from cryoflow.simulate.simulated_dataset import SimulatedDataset
from cryoflow.storage.folders import replacing_folder


def write_cryosparc_project(folder: str | Path, dataset: SimulatedDataset, *, version: str = "4.5") -> Path:
    """Write a project of one version of CryoSPARC and return its folder, complete or not at all.

    | job | type |
    |---|---|
    | J1, J2 | import of micrographs, CTF |
    | J3 | manual picker, on the first third of the micrographs: true centers |
    | J4, J5, J6 | blob picker, extraction, 2D classification of all picks, right and wrong |
    | J7 | Select 2D: right picks selected, wrong ones excluded |
    | J8, J9 | ab-initio and heterogeneous refinement into two classes, of which class 1 is good |
    | J10, J11 | homogeneous and non-uniform refinement |
    | J12 | a sharpening job without particles |

    Parameters
    ----------
    folder
        The project's folder; replaced where it exists.
    dataset
        Micrographs and picks. Micrographs are linked, not copied, and need not exist.
    version
        2 to 5; it decides `job.json`, names of files and columns.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (links stay as they are named)
    rng = np.random.default_rng([dataset.seed, 2025])
    numbers = tuple(int(part) for part in version.split(".")[:2])
    with replacing_folder(folder) as project:
        writer = JobWriter(project, version)
        jobs = Scenario(PickColumns(project, dataset, rng, numbers)).jobs()
        for job in jobs:
            writer.write(job)
        write_project_files(project, version, [job.uid for job in jobs], dataset.name)
    return folder
