"""Simulated CryoSPARC projects with what real ones have at times: lost files, cleared jobs, odd rows, exports."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cryoflow.simulate.cryosparc_columns import PickColumns, only, rows
from cryoflow.simulate.cryosparc_files import (
    Columns,
    JobWriter,
    SimulatedJob,
    SimulatedOutput,
    write_project_files,
)
from cryoflow.simulate.cryosparc_scenario import Scenario
from cryoflow.simulate.simulated_dataset import SimulatedDataset
from cryoflow.storage.folders import replacing_folder


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
    """Write the project of `cryoflow.simulate.cryosparc_project`, changed as the options say.

    Parameters
    ----------
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
        Adds J14, which extracts J10's particles again, recentered.
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
        columns = _Columns(project, dataset, rng, numbers)
        columns.binning = binning
        columns.without_paths, columns.with_pixel_size = without_micrograph_paths, pixel_size_in_location
        more = _Additions(columns)
        jobs = more.disorder(Scenario(columns).jobs(), is_helical, repeated_rows, nan_rows)
        if symmetry_copies > 1:
            jobs.append(more.symmetry_expanded(jobs, symmetry_copies))
        if reextract_after_refinement:
            jobs.append(more.reextracted(jobs))
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


class _Columns(PickColumns):
    """Columns of another version, or without the paths of micrographs."""

    without_paths = False
    with_pixel_size: bool | None = None

    def located(self, positions: list[npt.NDArray[np.float64]]) -> Columns:
        columns = super().located(positions)
        if self.without_paths:
            columns["location/micrograph_path"] = np.full(len(columns["uid"]), b"", "S1")
        if self.with_pixel_size is not None:
            columns.pop("location/micrograph_psize_A", None)
        if self.with_pixel_size:
            size_A = self.dataset.micrographs[0].pixel_size_A
            columns["location/micrograph_psize_A"] = np.full(len(columns["uid"]), size_A, np.float32)
        return columns


@dataclass(frozen=True)
class _Additions:
    """Rows and jobs that few projects have."""

    columns: PickColumns

    def disorder(
        self, jobs: list[SimulatedJob], is_helical: bool, repeated_rows: int, nan_rows: int
    ) -> list[SimulatedJob]:
        return [
            replace(
                job,
                outputs=[
                    replace(o, own=self._disorder(o.own, is_helical, repeated_rows, nan_rows))
                    if o.name == "particles"
                    else o
                    for o in job.outputs
                ],
            )
            if job.uid == "J4"
            else job
            for job in jobs
        ]

    def _disorder(self, columns: Columns, is_helical: bool, repeated_rows: int, nan_rows: int) -> Columns:
        columns, n = dict(columns), len(columns["uid"])
        if is_helical:
            columns["filament/filament_uid"] = self.columns.uids(n)
            columns["filament/position_A"] = np.zeros(n, np.float32)
        if repeated_rows:
            columns = {name: np.concatenate([values, values[:repeated_rows]]) for name, values in columns.items()}
        if nan_rows:
            x = columns["location/center_x_frac"].copy()
            x[repeated_rows : repeated_rows + nan_rows] = np.nan
            columns["location/center_x_frac"] = x
        return columns

    @staticmethod
    def _refined(jobs: list[SimulatedJob]) -> tuple[Columns, Columns]:
        (output,) = next(job for job in jobs if job.uid == "J10").outputs
        passed = {name: v for name, v in output.passed.items() if not name.startswith("alignments_class_")}
        return output.own, passed

    def symmetry_expanded(self, jobs: list[SimulatedJob], copies: int) -> SimulatedJob:
        own, passed = self._refined(jobs)
        repeated = {name: np.repeat(values, copies, axis=0) for name, values in {**own, **passed}.items()}
        columns: Columns = {"uid": self.columns.uids(len(repeated["uid"])), "sym_expand/src_uid": repeated.pop("uid")}
        columns["sym_expand/idx"] = np.tile(np.arange(copies, dtype=np.uint32), len(own["uid"]))
        output = SimulatedOutput("particles", {**columns, **repeated}, own_file="expanded_particles.cs")
        return SimulatedJob("J13", "sym_expand", [output], [("J10", "particles")])

    def reextracted(self, jobs: list[SimulatedJob]) -> SimulatedJob:
        """Recentered: the location moves by whole pixels, and the shift keeps the rest."""
        own, passed = self._refined(jobs)
        shift = own["alignments3D/shift"].astype(np.float64) * self.columns.binning
        whole = np.round(shift)
        shapes = passed["location/micrograph_shape"].astype(np.float64)
        moved = dict(passed)
        for axis, name in ((0, "location/center_x_frac"), (1, "location/center_y_frac")):
            size = shapes[:, 1 - axis]
            moved[name] = (passed[name].astype(np.float64) - whole[:, axis] / size).astype(np.float32)
        rest = {"alignments3D/shift": ((shift - whole) / self.columns.binning).astype(np.float32)}
        output = SimulatedOutput(
            "particles",
            {**own, **only(moved, "location"), **rest},
            {"uid": own["uid"], **only(passed, "ctf")},
            own_file="extracted_particles.cs",
        )
        params = {"box_size_pix": next(job for job in jobs if job.uid == "J5").params["box_size_pix"]}
        return SimulatedJob("J14", "extract_micrographs_multi", [output], [("J10", "particles")], params)


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


def _remove(folder: Path, is_unwanted: Callable[[str], bool]) -> None:
    for entry in sorted(folder.iterdir()):
        if is_unwanted(entry.name):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
