"""Which rows of a CryoSPARC dataset are picks, their positions in the frame of `cryoflow.picks`, their attributes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.errors import MissingMetadata
from cryoflow.formats.cs_header import Array
from cryoflow.projects.cryosparc import columns as plan
from cryoflow.projects.cryosparc.job_types import Role
from cryoflow.projects.cryosparc.join import Joined
from cryoflow.projects.cryosparc.micrographs import CryosparcMicrographs

_ROWS_AT_A_TIME = 1 << 16


def kept_rows(
    joined: Joined,
    planned: plan.ColumnPlan,
    micrographs: CryosparcMicrographs,
    role: Role,
    classes: frozenset[int] | None,
    counts: dict[str, int],
    notes: list[str],
) -> npt.NDArray[np.int32]:
    """Return the rows to keep, in order of micrograph and then of the file; count what is left out."""
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


def positions(
    joined: Joined,
    planned: plan.ColumnPlan,
    micrographs: CryosparcMicrographs,
    rows: npt.NDArray[np.int32],
    box_A: float | None,
    notes: list[str],
) -> dict[str, Array]:
    """Return micrograph, position and applied shift of the picks in `rows`; take the columns out of `joined`."""
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


def attributes(joined: Joined, planned: plan.ColumnPlan, role: Role, rows: npt.NDArray[np.int32]) -> dict[str, Array]:
    """Return what else is known of the picks in `rows`; take the columns out of `joined`."""
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
    """Return a column in the rows that are kept, which is taken out of `joined`; a piece at a time, to save memory."""
    column: Array = joined.columns.pop(name)
    kept = np.empty(len(rows), dtype)
    for start in range(0, len(rows), _ROWS_AT_A_TIME):
        kept[start : start + _ROWS_AT_A_TIME] = column[rows[start : start + _ROWS_AT_A_TIME]]
    return kept


def folded(
    joined: Joined, planned: plan.ColumnPlan, keep: npt.NDArray[np.bool_], counts: dict[str, int], notes: list[str]
) -> None:
    """Take all but the first of each particle's copies out of `keep` (n,) in place, and count them.

    Copies of one `sym_expand/src_uid` are one particle. Rows of one uid are one particle where they lie at one place;
    at several places (datasets that were joined by hand) they are several particles, and a note says so.
    """
    uid = joined.columns["uid"].astype(np.uint64, copy=False)
    if planned.source_uid:
        sources = joined.columns[planned.source_uid].astype(np.uint64)
        own = sources == 0
        sources[own] = uid[own]
        counts["symmetry_copies"] = _drop_later(sources[:, None], keep)
        return
    uids = np.sort(uid)
    if not (uids[1:] == uids[:-1]).any():
        return
    columns = (joined.columns[plan.X], joined.columns[plan.Y])
    places = np.stack([uid, joined.distinct.codes.astype(np.uint64), *map(_whole, columns)], 1)
    counts["duplicate"] = _drop_later(places, keep)
    left = np.sort(uid[keep])
    if n_shared := int((left[1:] == left[:-1]).sum()):
        notes.append(f"{n_shared} picks share their uid with another at a different place; all were kept")


def _whole(fractions: npt.NDArray[np.generic]) -> npt.NDArray[np.uint64]:
    """Return positions as whole numbers, to a millionth of the micrograph; all that are not numbers are one."""
    millionths = np.round(fractions.astype(np.float64) * 1e6)
    millionths[~(np.abs(millionths) < 1e15)] = -1e15
    return millionths.astype(np.int64).astype(np.uint64)


def _drop_later(keys: npt.NDArray[np.uint64], keep: npt.NDArray[np.bool_]) -> int:
    rows = np.flatnonzero(keep)
    _, first = np.unique(keys[rows], axis=0, return_index=True)
    is_first = np.zeros(len(rows), bool)
    is_first[first] = True
    keep[rows[~is_first]] = False
    return int((~is_first).sum())
