"""Finished CryoSPARC projects around simulated micrographs: what the demo ingests, and what readers are tested with.

The jobs are the usual ones: micrographs are imported, picked by hand and by a permissive picker, extracted, classified
in 2D, selected, and what survives goes to ab-initio, heterogeneous, homogeneous and non-uniform refinement. Refined
shifts lead from each pick to the true centre: location minus shift.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from cryoflow.simulate.cryosparc_columns import PickColumns, rows
from cryoflow.simulate.cryosparc_files import JobWriter, SimulatedJob, SimulatedOutput, write_project_files
from cryoflow.simulate.cryosparc_scenario import Scenario
from cryoflow.simulate.dataset import SimulatedDataset
from cryoflow.storage.files import replacing_folder


def write_cryosparc_project(
    folder: str | Path,
    dataset: SimulatedDataset,
    *,
    version: str = "4.5",
    container: Literal["npy", "csdat"] = "npy",
    binning: int = 2,
    shuffle_passthrough: bool = False,
    superset_passthrough: bool = False,
    statuses: Mapping[str, str] | None = None,
    without_job_json: Collection[str] = (),
    without_csg: Collection[str] = (),
    without_location: Collection[str] = (),
    without_micrograph_paths: bool = False,
    without_project_json: bool = False,
    cleared: Collection[str] = (),
    pixel_size_in_location: bool | None = None,
    symmetry_copies: int = 1,
    repeated_rows: int = 0,
    nan_rows: int = 0,
    is_helical: bool = False,
    reextract_after_refinement: bool = False,
    only_multi_alignments: bool = False,
    extract_flips: Collection[str] = (),
    export: str = "",
) -> Path:
    """Write a project of one version of CryoSPARC and return its folder, complete or not at all.

    | job | type |
    |---|---|
    | J1, J2 | import of micrographs, CTF |
    | J3 | manual picker, on the first third of the micrographs: true centres |
    | J4, J5, J6 | blob picker, extraction, 2D classification of all picks, right and wrong |
    | J7 | Select 2D: right picks selected, wrong ones excluded |
    | J8, J9 | ab-initio and heterogeneous refinement into two classes, of which class 1 is good |
    | J10, J11 | homogeneous and non-uniform refinement |
    | J12 | a sharpening job without particles |
    | J13, J14 | symmetry expansion and re-extraction, where asked for |

    Parameters
    ----------
    folder
        The project's folder; replaced where it exists.
    dataset
        Micrographs and picks. Micrographs are linked, not copied, and need not exist.
    version
        2 to 5; it decides `job.json`, names of files and columns.
    container
        Of all datasets.
    binning
        Boxes are Fourier-cropped by this factor.
    shuffle_passthrough
        Passthrough datasets have their rows in another order.
    superset_passthrough
        They hold more particles than the output.
    statuses
        Status by job, where it is not `completed`.
    without_job_json, without_csg
        Jobs that lack these files.
    without_location
        Jobs whose outputs lack the slot `location`.
    without_micrograph_paths
        `location/micrograph_path` is empty; the micrograph is known by its uid alone.
    without_project_json
        `project.json`, `workspaces.json` and `job_manifest.json` were lost.
    cleared
        Jobs that were cleared: `job.json` is all that is left.
    pixel_size_in_location
        Whether `location/micrograph_psize_A` is there; by default from version 4.4 on.
    symmetry_copies
        More than 1 adds J13, in which each particle of J10 stands this many times.
    repeated_rows, nan_rows
        Rows of the picker's dataset that are there twice, and that have NaN for a position.
    is_helical
        Adds the slot `filament` to the picker.
    reextract_after_refinement
        Adds J14, which extracts J10's particles again, recentred.
    only_multi_alignments
        Jobs with classes have no `alignments3D` but, as from 4.5 on, arrays of one alignment a class.
    extract_flips
        Axes (`x`, `y`) in which J5 flipped micrographs before it extracted.
    export
        A job whose particles are exported to `exports/groups`, if it has any.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 (links stay as they are named)
    rng = np.random.default_rng([dataset.seed, 2025])
    numbers = tuple(int(part) for part in version.split(".")[:2])
    with replacing_folder(folder) as project:
        writer = JobWriter(project, version, container)
        columns = PickColumns(
            project,
            dataset,
            rng,
            numbers,
            binning,
            pixel_size_in_location if pixel_size_in_location is not None else numbers >= (4, 4),
            without_micrograph_paths,
        )
        jobs = Scenario(columns).jobs(is_helical, repeated_rows, nan_rows, symmetry_copies, reextract_after_refinement)
        for job in jobs:
            job = _disturbed(job, rng, shuffle_passthrough, superset_passthrough, job.uid in without_location)
            if only_multi_alignments and job.uid in ("J8", "J9"):
                job = replace(job, outputs=[_with_arrays(output) for output in job.outputs])
            if extract_flips and job.uid == "J5":
                job = replace(job, params={**job.params, **{f"flip_{axis}": True for axis in extract_flips}})
            if statuses and job.uid in statuses:
                job = replace(job, status=statuses[job.uid])
            writer.write(job)
        if not without_project_json:
            write_project_files(project, version, [job.uid for job in jobs], dataset.name)
        if export:
            _export(writer, next(job for job in jobs if job.uid == export))
        for uid in cleared:
            _remove(project / uid, lambda name: name != "job.json")
        for uid in without_job_json:
            (project / uid / "job.json").unlink()
        for uid in without_csg:
            _remove(project / uid, lambda name: name.endswith(".csg"))
    return folder


def _disturbed(
    job: SimulatedJob, rng: np.random.Generator, shuffle: bool, superset: bool, without_location: bool
) -> SimulatedJob:
    outputs = []
    for output in job.outputs:
        own, passed = output.own, output.passed
        if without_location:
            own, passed = ({n: v for n, v in c.items() if not n.startswith("location/")} for c in (own, passed))
        if passed and output.item_type == "particle":
            if superset:
                more = {n: v.copy() for n, v in rows(passed, np.arange(min(5, len(passed["uid"])))).items()}
                more["uid"] = more["uid"].astype(np.uint64) + np.uint64(1)
                passed = {n: np.concatenate([more[n], v]) for n, v in passed.items()}
            if shuffle:
                passed = rows(passed, rng.permutation(len(passed["uid"])))
        outputs.append(
            SimulatedOutput(output.name, own, passed, output.item_type, output.file, output.own_file, output.passed_as)
        )
    return SimulatedJob(job.uid, job.job_type, outputs, job.inputs, job.params, job.status, job.title)


def _with_arrays(output: SimulatedOutput) -> SimulatedOutput:
    """Its alignments as arrays of one a class, of which only that of the particle's class is right."""
    own = {name: values for name, values in output.own.items() if not name.startswith("alignments3D/")}
    classes = np.asarray(output.own["alignments3D/class"], np.int64)
    shift = np.asarray(output.own["alignments3D/shift"], np.float32)
    arrays = np.stack([shift + 9, shift + 9], axis=1)
    arrays[np.arange(len(classes)), classes] = shift
    own["alignments3D_multi/shift"] = arrays
    own["alignments3D_multi/psize_A"] = np.repeat(np.asarray(output.own["alignments3D/psize_A"])[:, None], 2, axis=1)
    own["alignments3D_multi/class"] = np.tile(np.arange(2, dtype=np.uint32), (len(classes), 1))
    return replace(output, own=own)


def _export(writer: JobWriter, job: SimulatedJob) -> None:
    """One merged dataset with its `.csg`, as "Export" writes them; paths inside start with `>`."""
    for output in job.outputs:
        if output.item_type != "particle":
            continue
        merged = {**output.passed, **output.own}
        for name in ("location/micrograph_path", "blob/path"):
            if name in merged:
                merged[name] = np.array([b">" + path for path in merged[name].tolist()])
        name = f"{job.uid}_{output.name}"
        target = JobWriter(writer.project / "exports" / "groups", writer.version, writer.container)
        (target.project / name).mkdir(parents=True, exist_ok=True)
        target.write(
            SimulatedJob(name, job.job_type, [SimulatedOutput(output.name, merged, own_file=f"{name}_exported.cs")])
        )
        for rest in ("job.json", "job.log", "events.bson"):
            (target.project / name / rest).unlink()


def _remove(folder: Path, is_unwanted: object) -> None:
    assert callable(is_unwanted)
    for entry in sorted(folder.iterdir()):
        if is_unwanted(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
