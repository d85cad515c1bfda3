"""Particles that a dataset holds several times: symmetry-expanded copies and repeated uids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.projects.cryosparc.columns import ColumnPlan, X, Y
from cryoflow.projects.cryosparc.join import Joined


def folded(
    joined: Joined, planned: ColumnPlan, keep: npt.NDArray[np.bool_], counts: dict[str, int], notes: list[str]
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
    columns = (joined.columns[X], joined.columns[Y])
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
