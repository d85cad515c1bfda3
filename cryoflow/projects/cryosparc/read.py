"""The picks of a CryoSPARC job, in the frame of `cryoflow.picks`.

Where the rules come from: `micrograph_shape` is (ny, nx); y counts from the first stored row, without a flip; shifts
are (x, y) in pixels of the alignment's own `psize_A`, and the center is the location minus the shift. All three were
checked against simulations with known truth. Only shifts that belong to the same output as the location are
subtracted: after a re-extraction the location has moved already.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.cs import read_cs_rows
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.picks import ExtractedSample, Kind, PickSet, Program, Provenance
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention, apply
from cryoflow.projects.cryosparc import columns as plan
from cryoflow.projects.cryosparc import outputs as on_disk
from cryoflow.projects.cryosparc.exposures import as_text, find_exposures, own_exposures, uids_by_path
from cryoflow.projects.cryosparc.job_types import PICKING, Role
from cryoflow.projects.cryosparc.jobs import outputs_of
from cryoflow.projects.cryosparc.join import Joined, join
from cryoflow.projects.cryosparc.micrographs import CryosparcMicrographs, tabulate
from cryoflow.projects.cryosparc.rows import attributes, kept_rows, positions
from cryoflow.projects.duplicates import distance_px, fold_duplicates
from cryoflow.projects.extracted_sample import choose, sample
from cryoflow.projects.found import Job, with_errors
from cryoflow.projects.same_file import merge_names
from cryoflow.storage.fingerprints import source_file

_ATTEMPTS = 3


@dataclass(frozen=True)
class Context:
    """State that the outputs of one job share while they are read."""

    job: Job
    index: on_disk.ProjectIndex
    record: on_disk.Record
    finder: Finder
    classes: frozenset[int] | None
    flip: AxisConvention = AS_STORED
    program: Program = "cryosparc"


def read_job(
    job: Job,
    *,
    remaps: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    include_unfinished: bool = False,
    classes: Collection[int] | None = None,
    flip: AxisConvention = AS_STORED,
) -> list[PickSet]:
    """Return the picks of a job, one set an output: each class of a 3D classification and excluded particles are their
    own.

    Parameters
    ----------
    job
        From `find_jobs`.
    remaps
        Old folder -> new folder of micrographs that were moved.
    include_unfinished
        Read jobs that run, failed or whose `job.json` is stale, too.
    classes
        Only particles of these classes, counted from 0; all by default. A job without classes is not touched by it.
    flip
        What sets the project's convention right, where its picks do not lie where CryoSPARC's do.

    Raises
    ------
    BadInput
        Where the job cannot be used, or a dataset is damaged or changed while it was read.
    MissingMetadata
        Where micrographs or their shapes are not known.
    """
    if not job.status.is_readable(include_unfinished):
        raise BadInput(job.folder, f"is {job.status.value}: {job.reason}.")
    index = on_disk.ProjectIndex(job.project)
    record = index.record(job.job)
    wanted = None if classes is None else frozenset(classes)
    context = Context(job, index, record, Finder(job.project, dict(remaps)), wanted, flip)
    available = {(seen.group, seen.suffix): (output, role) for seen, output, role in outputs_of(index, record)}
    picksets: list[PickSet] = []
    errors: list[CryoflowError] = []
    for seen in job.outputs:
        if (seen.group, seen.suffix) not in available:
            raise BadInput(job.folder, f"has no output {seen.group} any more.", "It changed since it was crawled.")
        output, role = available[seen.group, seen.suffix]
        if wanted is None or role.class_number is None or role.class_number in wanted:
            try:
                picksets.append(read_output(context, output, role))
            except CryoflowError as error:
                errors.append(error)
    return with_errors(picksets, errors)


def read_output(context: Context, output: on_disk.OutputDatasets, role: Role) -> PickSet:
    """Return the picks of one output: its positions from the nearest dataset that has those of all its particles."""
    primary = output.primary
    if primary is None:
        raise BadInput(context.job.folder, f"has no dataset for its output {output.name}.")
    best: tuple[float, plan.ColumnPlan, Joined] | None = None
    for record, source in context.index.with_location(context.record, output):
        planned = plan.make(output, source, record, context.record.kind, role)
        if planned is None:
            continue
        joined = _joined(primary.path, planned)
        share = 1.0 if joined.is_located is None else float(joined.is_located.mean())
        if best is None or share > best[0]:
            best = (share, planned, joined)
        if share == 1.0:
            break
    if best is None:
        raise MissingMetadata(primary.path, f"has no positions for the output {output.name}, nor has an ancestor.")
    return _pickset(context, output, role, best[1], best[2])


def _joined(primary: Path, planned: plan.ColumnPlan) -> Joined:
    """Return the columns of a plan, read again where CryoSPARC rewrote a dataset meanwhile."""
    changed = primary
    for _ in range(_ATTEMPTS):
        before = [source_file(path) for path in planned.files(primary)]
        joined = join(primary, planned.wanted, (planned.location.path, planned.repeated))
        rewritten = [file.path for file in before if source_file(file.path) != file]
        if not rewritten:
            return joined
        changed = rewritten[0]
        del joined  # or two of them would be held
    raise BadInput(changed, f"changed each of {_ATTEMPTS} times that it was read.", "Is its job still running?")


def _pickset(
    context: Context, output: on_disk.OutputDatasets, role: Role, planned: plan.ColumnPlan, joined: Joined
) -> PickSet:
    job, primary = context.job, output.primary
    assert primary is not None
    notes = [*planned.notes, *plan.doubts(context.index, context.record)]
    counts: dict[str, int] = {}
    if planned.class_column and joined.columns[planned.class_column].ndim == 2:
        joined.columns["class"] = joined.columns[planned.class_column].argmax(axis=1).astype(np.int32)
        planned = replace(planned, class_column="class")
    box_A, box_pixel_size_A = plan.box(output, context.index, context.record)
    micrographs = _micrographs(context, joined, planned, box_pixel_size_A)
    notes += micrographs.notes
    if joined.is_located is not None:
        counts["no_location"] = int((~joined.is_located).sum())
    rows = kept_rows(joined, planned, micrographs, role, context.classes, counts, notes)
    extracted = _extracted(context, output, planned, joined, micrographs, rows, box_A)
    picks = positions(joined, planned, micrographs, rows, box_A, notes)
    picks |= attributes(joined, planned, role, rows)
    table, extracted, new_notes = merge_names(picks, micrographs.table, extracted)
    notes += new_notes
    diameter_A, diameter_notes = plan.diameter_A(context.index, context.record)
    notes += diameter_notes
    pixel_sizes_A = np.unique(table["pixel_size_A"].dropna().round(4))
    box_px = box_A / float(pixel_sizes_A[0]) if box_A and len(pixel_sizes_A) == 1 else None
    is_helical = bool(job.detail.get("is_helical"))
    n_close = fold_duplicates(picks, distance_px(diameter_A, pixel_sizes_A, box_px, is_helical=is_helical))
    counts["duplicate"] = counts.get("duplicate", 0) + n_close
    notes += apply(picks, table, context.flip, job.folder)
    if is_helical:
        notes.append("helical: picks lie along filaments, and neighbors overlap")
    if job.reason:
        notes.append(job.reason)
    if context.program == "cryosparc" and job.kind is Kind.OTHER:
        notes.append(f"its job type, {job.job_type or 'unknown'}, is not known: what its particles are is not certain")
    del rows
    provenance = Provenance(
        program=context.program,
        project=job.project,
        project_name=job.project_name,
        job=job.job,
        kind=job.kind,
        job_type=job.job_type,
        output_group=output.name,
        suffix=role.suffix,
        program_version=str(job.detail.get("program_version", "")),
        title=job.title,
        sources=tuple(source_file(path) for path in planned.files(primary.path)),
    )
    return PickSet.build(
        provenance,
        table,
        pd.DataFrame(picks, copy=False),
        box_px=box_px,
        diameter_A=diameter_A,
        score_kind=planned.score,
        counts={name: number for name, number in counts.items() if number},
        notes=tuple(dict.fromkeys(notes)),
        extracted=extracted,
    )


def _extracted(
    context: Context,
    output: on_disk.OutputDatasets,
    planned: plan.ColumnPlan,
    joined: Joined,
    micrographs: CryosparcMicrographs,
    rows: npt.NDArray[np.int32],
    box_A: float | None,
) -> ExtractedSample | None:
    """Return some of the particles in `rows` as the project extracted them, where the positions are those of the
    boxes."""
    blob = output.slots.get("blob")
    location = output.slots.get("location")
    if blob is None or location is None or location.table.path != planned.location.path:
        return None
    match = joined.matches.get(blob.table.path)
    if match is None or not (blob.table.has_text("blob/path") and blob.table.has("blob/idx")):
        return None
    some = rows[choose(micrographs.row_of[joined.distinct.codes[rows]], micrographs.table)]
    if match.found is not None:
        some = some[match.found[some]]
    its_rows = some if match.rows is None else match.rows[some]
    values = read_cs_rows(blob.table.path, ["blob/path", "blob/idx"], its_rows)
    code = joined.distinct.codes[some]
    fractions = np.stack([joined.columns[plan.X][some], joined.columns[plan.Y][some]], axis=1).astype(np.float64)
    return sample(
        micrographs.row_of[code],
        fractions * micrographs.shape_yx[code, ::-1],
        [as_text(path) for path in values["blob/path"].tolist()],
        values["blob/idx"].astype(np.int64),
        box_A,
        micrographs.table,
        context.job.project,
        context.flip,
    )


def _micrographs(
    context: Context, joined: Joined, planned: plan.ColumnPlan, box_pixel_size_A: float | None
) -> CryosparcMicrographs:
    distinct = joined.distinct
    located = {name.removeprefix("location/"): values for name, values in distinct.columns.items()}
    if "micrograph_uid" in located:
        exposures = find_exposures(context.index, context.record, located["micrograph_uid"].astype(np.uint64))
    else:
        exposures = find_exposures(context.index, context.record, None)
        paths = [as_text(path) for path in located.get("micrograph_path", np.zeros(0, "S1")).tolist()]
        located["micrograph_uid"] = uids_by_path(paths or [""] * len(distinct.first_row), exposures)
    searched = own_exposures(context.record) if context.record.kind in PICKING else None
    return tabulate(
        located,
        len(distinct.first_row),
        exposures,
        context.finder,
        codes=distinct.codes,
        searched=searched,
        particle_optics=plan.particle_optics(planned, joined),
        box_pixel_size_A=box_pixel_size_A,
    )
