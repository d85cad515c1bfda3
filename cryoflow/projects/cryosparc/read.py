"""The picks of a CryoSPARC job, in the frame of `cryoflow.picks`.

Where the rules come from: `micrograph_shape` is (ny, nx); y counts from the first stored row, without a flip; shifts
are (x, y) in pixels of the alignment's own `psize_A`, and the centre is the location minus the shift. All three were
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
from cryoflow.formats.cs_header import Array
from cryoflow.micrographs.find import Finder
from cryoflow.picks import ExtractedSample, Kind, PickSet, Program, Provenance
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention, apply
from cryoflow.projects.cryosparc import columns as plan
from cryoflow.projects.cryosparc import outputs as on_disk
from cryoflow.projects.cryosparc.exposures import as_text, find_exposures, own_exposures, uids_by_path
from cryoflow.projects.cryosparc.find import outputs_of
from cryoflow.projects.cryosparc.fold import folded
from cryoflow.projects.cryosparc.job_types import PICKING, Role
from cryoflow.projects.cryosparc.join import Joined, join
from cryoflow.projects.cryosparc.micrographs import CryosparcMicrographs, tabulate
from cryoflow.projects.duplicates import distance_px, fold_duplicates
from cryoflow.projects.extracted import choose, sample
from cryoflow.projects.found import Job, with_errors
from cryoflow.projects.same_file import merge_names
from cryoflow.storage.fingerprints import source_file

_ROWS_AT_A_TIME = 1 << 16
_ATTEMPTS = 3


@dataclass(frozen=True)
class Context:
    """What the outputs of one job share while they are read."""

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
    """The picks of a job, one set an output: each class of a 3D classification and excluded particles are their own.

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
    """The picks of one output: its positions from the nearest dataset that has those of all its particles."""
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
    """The columns of a plan, read again where CryoSPARC rewrote a dataset meanwhile."""
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
    rows = _rows(joined, planned, micrographs, role, context.classes, counts, notes)
    extracted = _extracted(context, output, planned, joined, micrographs, rows, box_A)
    picks = _positions(joined, planned, micrographs, rows, box_A, notes)
    picks |= _attributes(joined, planned, role, rows)
    table, extracted, said = merge_names(picks, micrographs.table, extracted)
    notes += said
    diameter_A, diameter_notes = plan.diameter_A(context.index, context.record)
    notes += diameter_notes
    pixel_sizes_A = np.unique(table["pixel_size_A"].dropna().round(4))
    box_px = box_A / float(pixel_sizes_A[0]) if box_A and len(pixel_sizes_A) == 1 else None
    is_helical = bool(job.detail.get("is_helical"))
    n_close = fold_duplicates(picks, distance_px(diameter_A, pixel_sizes_A, box_px, is_helical=is_helical))
    counts["duplicate"] = counts.get("duplicate", 0) + n_close
    notes += apply(picks, table, context.flip, job.folder)
    if is_helical:
        notes.append("helical: picks lie along filaments, and neighbours overlap")
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
    """Some of the particles in `rows` as the project extracted them, where the positions are those of the boxes."""
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


def _positions(
    joined: Joined,
    planned: plan.ColumnPlan,
    micrographs: CryosparcMicrographs,
    rows: npt.NDArray[np.int32],
    box_A: float | None,
    notes: list[str],
) -> dict[str, Array]:
    """Micrograph, position and applied shift of the picks in `rows`. Takes its columns out of `joined`."""
    x_frac, y_frac = joined.columns.pop(plan.X), joined.columns.pop(plan.Y)
    n, row_of, codes = len(rows), micrographs.row_of.astype(np.int32), joined.distinct.codes
    index, x_px, y_px = np.empty(n, np.int32), np.empty(n), np.empty(n)
    picks: dict[str, Array] = {"micrograph": index, "x_px": x_px, "y_px": y_px}
    if planned.alignments:
        shift = joined.columns.pop(f"{planned.alignments}/shift").astype(np.float32, copy=False)
        step_A = joined.columns.pop(f"{planned.alignments}/psize_A").astype(np.float32, copy=False)
        shift = shift[:, planned.class_number] if shift.ndim == 3 else shift
        step_A = step_A[:, planned.class_number] if step_A.ndim == 2 else step_A
        picks["shift_x_px"], picks["shift_y_px"] = (shift_px := np.empty((2, n)))
        longest_A = plan.MAX_SHIFT_OF_BOX * box_A if box_A else plan.MAX_SHIFT_A
        n_odd = 0
    for start in range(0, n, _ROWS_AT_A_TIME):
        part, here = rows[start : start + _ROWS_AT_A_TIME], slice(start, start + _ROWS_AT_A_TIME)
        code = codes[part]
        index[here] = row_of[code]
        with np.errstate(invalid="ignore"):  # a NaN may be one that warns
            x_px[here] = x_frac[part] * micrographs.shape_yx[code, 1]
            y_px[here] = y_frac[part] * micrographs.shape_yx[code, 0]
        if planned.alignments:
            with np.errstate(invalid="ignore"):
                shift_A = shift[part].T * step_A[part].astype(np.float64)
                moved_px = shift_A / micrographs.pixel_size_A[code]
                is_sane = (np.hypot(*shift_A) <= longest_A) & np.isfinite(moved_px).all(axis=0)
            moved_px[:, ~is_sane] = 0.0
            n_odd += int((~is_sane).sum())
            shift_px[:, here] = moved_px
            x_px[here] -= moved_px[0]
            y_px[here] -= moved_px[1]
    if planned.alignments and n_odd:
        notes.append(f"{n_odd} shifts were not applied: too large, not a number, or the pixel size is unknown")
    return picks


def _attributes(joined: Joined, planned: plan.ColumnPlan, role: Role, rows: npt.NDArray[np.int32]) -> dict[str, Array]:
    """What else is known of the picks in `rows`. Takes its columns out of `joined`."""
    picks: dict[str, Array] = {}
    if planned.score:
        picks["score"] = _taken(joined, planned.score, rows, np.float64)
    if planned.class_column:
        picks["class"] = _taken(joined, planned.class_column, rows, np.int32)
    elif role.class_number is not None:
        picks["class"] = np.full(len(rows), role.class_number, np.int32)
    if planned.posterior:
        posterior = joined.columns.pop(planned.posterior)[rows]
        picks["class_posterior"] = posterior if posterior.ndim == 1 else posterior[:, role.class_number or 0]
    if planned.psi:
        picks["psi_deg"] = np.degrees(_taken(joined, planned.psi, rows, np.float64))
    picks["uid"] = _taken(joined, "uid", rows, np.uint64)
    if role.label is not None:
        picks["label"] = np.full(len(rows), role.label, np.int8)
    groups = joined.distinct.columns.get("location/exp_group_id")
    if groups is not None and len(np.unique(groups)) > 1:
        picks["optics_group"] = groups.astype(np.int32)[joined.distinct.codes[rows]]
    return picks


def _taken(joined: Joined, name: str, rows: npt.NDArray[np.int32], dtype: npt.DTypeLike) -> Array:
    """A column in the rows that are kept, which is taken out of `joined`; a piece at a time, to save memory."""
    column: Array = joined.columns.pop(name)
    kept = np.empty(len(rows), dtype)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        kept[start : start + _ROWS_AT_A_TIME] = column[rows[start : start + _ROWS_AT_A_TIME]]
    return kept


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


def _rows(
    joined: Joined,
    planned: plan.ColumnPlan,
    micrographs: CryosparcMicrographs,
    role: Role,
    classes: frozenset[int] | None,
    counts: dict[str, int],
    notes: list[str],
) -> npt.NDArray[np.int32]:
    """Rows to keep, in order of micrograph and then of the file; what is left out is counted."""
    codes = joined.distinct.codes
    has_micrograph = (micrographs.row_of >= 0)[codes] if len(micrographs.row_of) else np.zeros(len(codes), bool)
    has_shape = np.isfinite(micrographs.shape_yx[:, 0])[codes] if len(micrographs.row_of) else has_micrograph
    keep = np.ones(len(codes), bool) if joined.is_located is None else joined.is_located.copy()
    for name, condition in (("no_micrograph", has_micrograph), ("no_micrograph_shape", has_shape)):
        counts[name] = int((keep & ~condition).sum())
        keep &= condition
    if joined.is_located is not None and len(codes) and not joined.is_located.any():
        raise MissingMetadata(
            planned.location.path,
            "has none of the particles whose positions it should hold: no uid is in both datasets.",
            "Is it of another job?",
        )
    if len(codes) and not keep.any():
        raise MissingMetadata(
            planned.location.path,
            "names no micrograph, or none whose shape is known, for any of its particles.",
            "The job that picked them, or its micrographs, must be in the project.",
        )
    if planned.class_column:
        of_class = joined.columns[planned.class_column]
        if planned.splits_classes:
            keep &= of_class == role.class_number
        elif classes is not None:
            is_wanted = np.isin(of_class, list(classes))
            counts["other_class"] = int((keep & ~is_wanted).sum())
            keep &= is_wanted
    folded(joined, planned, keep, counts, notes)
    rows = np.flatnonzero(keep).astype(np.int32)
    row_of: npt.NDArray[np.integer] = micrographs.row_of
    row_of = row_of.astype(np.uint16 if len(micrographs.table) < 1 << 16 else np.int32)  # short numbers sort fast
    index = np.empty(len(rows), row_of.dtype)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        index[start : start + _ROWS_AT_A_TIME] = row_of[codes[rows[start : start + _ROWS_AT_A_TIME]]]
    if len(index) and bool((index[1:] < index[:-1]).any()):
        rows = rows[np.argsort(index, kind="stable")]
    return rows
