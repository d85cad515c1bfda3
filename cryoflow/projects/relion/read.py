"""The picks of a RELION job: one set an output."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.formats.pick_tables.relion_list import SUFFIX_FILE
from cryoflow.formats.pick_tables.relion_star import SCORE
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.picks import Kind, PickSet, Provenance
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention, apply
from cryoflow.projects.duplicates import HELICAL_NOTE, distance_px, fold_duplicates
from cryoflow.projects.found import Job, JobStatus, Output, with_errors
from cryoflow.projects.relion.binned import scale_to_files
from cryoflow.projects.relion.coordinates import read_coordinates
from cryoflow.projects.relion.diameter import diameter_A, positive
from cryoflow.projects.relion.extracted_stacks import extracted_sample
from cryoflow.projects.relion.job_graph import Pipeline, load_pipeline
from cryoflow.projects.relion.lineage import option_of_ancestor
from cryoflow.projects.relion.micrographs import Tabulated, tabulate
from cryoflow.projects.relion.particles import Particles, read_particles, subtract_origins
from cryoflow.projects.relion.sniff import sniff
from cryoflow.projects.relion.usable import RelionMicrographs, micrographs_of, why_unusable
from cryoflow.projects.same_file import merge_names
from cryoflow.storage.files import is_file
from cryoflow.storage.fingerprints import source_file

_ATTEMPTS = 3


@dataclass(frozen=True)
class _Context:
    """State that the outputs of one job share while they are read."""

    job: Job
    pipeline: Pipeline
    process: str
    finder: Finder
    micrographs: RelionMicrographs
    binning: float | None
    flip: AxisConvention = AS_STORED


def read_job(
    job: Job,
    *,
    remaps: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    include_unfinished: bool = False,
    classes: Collection[int] | None = None,
    flip: AxisConvention = AS_STORED,
) -> list[PickSet]:
    """Return the picks of a job, one set an output: each class of a 3D classification and each split is its own.

    Parameters
    ----------
    job
        From `find_jobs`.
    remaps
        Old folder -> new folder of micrographs that were moved.
    include_unfinished
        Read jobs that run, failed or have not converged, too.
    classes
        Only particles of these classes, counted from 1, as one set; needed for a Class2D job. Jobs that are no
        classifications are not touched by it.
    flip
        What sets the project's convention right, where its picks do not lie where RELION's do.

    Raises
    ------
    BadInput
        Where the job cannot be used, or its files are damaged or changed while they were read.
    MissingMetadata
        Where the files do not say which micrographs their particles are on.
    """
    is_classification = job.kind in (Kind.CLASS_2D, Kind.CLASS_3D)
    wanted = frozenset(classes) if classes is not None and is_classification else None
    by_class = job.status is JobStatus.NOT_OF_INTEREST and wanted is not None
    if not job.status.is_readable(include_unfinished) and not by_class:
        raise BadInput(job.folder, f"is {job.status.value}: {job.reason}.")
    if not job.outputs:
        raise BadInput(job.folder, "has no file with picks.")
    context = _context(job, Finder(job.project, dict(remaps)), flip)
    if wanted is not None:
        suffix = "class" + "+".join(str(k) for k in sorted(wanted))
        return [_read_unchanged(context, replace(job.outputs[0], suffix=suffix), wanted)]
    picksets: list[PickSet] = []
    errors: list[CryoflowError] = []
    for output in job.outputs:
        of_class = None if output.class_number is None else frozenset([output.class_number])
        try:
            pickset = _read_unchanged(context, output, of_class)
        except CryoflowError as error:
            errors.append(error)
            continue
        if len(pickset) or of_class is None:
            picksets.append(pickset)
    return with_errors(picksets, errors)


def read_output(job: Job, output: Output, finder: Finder, flip: AxisConvention = AS_STORED) -> PickSet:
    """Return the picks of one file of a job, whatever the job's status; micrographs are found by `finder`."""
    return _read_unchanged(_context(job, finder, flip), output, None)


def _context(job: Job, finder: Finder, flip: AxisConvention) -> _Context:
    pipeline = load_pipeline(job.project)
    process = str(job.detail.get("process", ""))
    micrographs = micrographs_of(pipeline, process)
    if not process:
        return _Context(job, pipeline, process, finder, micrographs, None, flip)
    binning = option_of_ancestor(pipeline, process, "MotionCorr", "bin_factor")
    try:
        factor = float(binning) if binning else None
    except ValueError:
        factor = None
    return _Context(job, pipeline, process, finder, micrographs, factor, flip)


def _read_unchanged(context: _Context, output: Output, classes: frozenset[int] | None) -> PickSet:
    """Read an output, again where RELION rewrote it meanwhile."""
    path = context.job.folder / output.group
    for _ in range(_ATTEMPTS):
        try:
            before = _stamp(path)
            pickset = _read(context, path, output, classes)
        except FileNotFoundError as error:
            raise BadInput(path, "is gone.", "The job was re-run or cleaned since it was found.") from error
        if before == _stamp(path):
            return pickset
    raise BadInput(path, f"changed each of {_ATTEMPTS} times that it was read.", "Is the job still running?")


def _stamp(path: Path) -> tuple[int, int]:
    """Return time and size of a file. Of a `coords_suffix` file that is not there, its coordinate files are what
    counts."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        if not path.name.startswith(SUFFIX_FILE):
            raise
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)


def _read(context: _Context, path: Path, output: Output, classes: frozenset[int] | None) -> PickSet:
    unusable = why_unusable(context.pipeline, context.process, path, context.micrographs)
    if unusable and unusable.status is not JobStatus.EMPTY:
        raise unusable.error
    is_list = sniff(path).is_coordinate_list
    lost: frozenset[str] = frozenset()
    if is_list:
        particles, sources, lost = read_coordinates(
            context.job.project, path, context.micrographs.known, context.micrographs.searched
        )
    else:
        only = context.micrographs.known.names[0] if len(context.micrographs.known.names) == 1 else ""
        particles, sources = read_particles(path, classes, only), [path]
    searched = context.micrographs.searched or (context.micrographs.known.names if is_list else ())
    searched = tuple(name for name in searched if name not in lost)
    tabulated = tabulate(particles.own, context.micrographs.values, searched, context.finder, context.binning)
    micrographs, notes = tabulated.table, tabulated.notes
    row_of = {name: row for row, name in enumerate(micrographs["name"])}
    rows = np.array([row_of[name] for name in particles.names], np.int32)
    scale, new_notes = _scaled(context, particles, tabulated, rows)
    notes += new_notes
    extracted = None
    if not is_list:
        project = context.job.project
        extracted = extracted_sample(project, path, particles, micrographs, scale, context.flip)
    pixel_size_A = micrographs["pixel_size_A"].to_numpy(np.float64)
    subtract_origins(particles, pixel_size_A[rows])
    diameter, new_notes = diameter_A(context.pipeline, context.process) if context.process else (None, [])
    notes += new_notes
    box_px = _box_px(context, particles, pixel_size_A[rows], scale[rows])
    closest_px = distance_px(diameter, pixel_size_A[rows], box_px, is_helical=particles.is_helical)
    if len(rows):
        particles.columns["micrograph"] = rows[particles.columns["micrograph"]]
    micrographs, extracted, merged = merge_names(particles.columns, micrographs, extracted)
    notes += merged
    counts = dict(particles.counts)
    if n := fold_duplicates(particles.columns, closest_px):
        counts["duplicate"] = n
    notes += apply(particles.columns, micrographs, context.flip, path)
    if particles.is_helical:
        notes.append(HELICAL_NOTE)
    return PickSet.build(
        _provenance(context, output, sources),
        micrographs,
        pd.DataFrame(particles.columns, copy=False),
        box_px=box_px,
        diameter_A=diameter,
        score_kind=SCORE if "score" in particles.columns else "",
        counts=counts,
        notes=(*context.micrographs.values.notes, *notes, *particles.notes),
        extracted=extracted,
    )


def _scaled(
    context: _Context, particles: Particles, tabulated: Tabulated, rows: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """Bring the positions onto binned copies, in place; the scale of each micrograph, and notes."""
    columns = particles.columns
    names = ("y_px", "x_px") if context.flip.swap_xy else ("x_px", "y_px")
    x_px, y_px = (np.asarray(columns[name], np.float64) for name in names)
    of_picks = rows[columns["micrograph"]] if len(rows) else np.zeros(0, np.int32)
    scale, notes = scale_to_files(
        tabulated.table,
        tabulated.header_pixel_size_A,
        context.micrographs.values.metadata,
        context.job.project,
        of_picks,
        x_px,
        y_px,
    )
    if (scale != 1).any():
        for name in names:
            columns[name] = np.asarray(columns[name], np.float64) * scale[of_picks]
    return scale, notes


def _provenance(context: _Context, output: Output, sources: list[Path]) -> Provenance:
    job = context.job
    fingerprints = {p: source_file(p) for p in (*sources, *output.files) if is_file(p)}
    return Provenance(
        program="relion",
        project=job.project,
        project_name=job.project_name,
        job=job.job,
        kind=job.kind,
        job_type=job.job_type,
        output_group=output.group,
        suffix=output.suffix,
        program_version=str(job.detail.get("program_version", "")),
        title=job.title or job.alias,
        sources=tuple(fingerprints[p] for p in sorted(fingerprints)),
    )


def _box_px(
    context: _Context,
    particles: Particles,
    pixel_size_A: npt.NDArray[np.float64],
    scale: npt.NDArray[np.float64],
) -> float | None:
    """Return the edge of the box in micrograph pixels: from the optics, else from Extract; None where it differs."""
    known = np.unique(np.round(pixel_size_A[np.isfinite(pixel_size_A)], 4))
    if np.isfinite(particles.box_A) and len(known) == 1:
        return round(float(particles.box_A / known[0]), 1)
    scales = np.unique(scale)
    if not context.process or len(scales) != 1:
        return None
    extract_px = positive(option_of_ancestor(context.pipeline, context.process, "Extract", "extract_size"))
    return round(extract_px * float(scales[0]), 1) if extract_px else None
