"""A few extracted particles of a set, with where they were cut: the surest sign of whether coordinates are right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.picks import ExtractedSample
from cryoflow.projects.axis_convention import AxisConvention, apply
from cryoflow.storage.files import is_file

_MICROGRAPHS = 5
_EACH = 12
_TRIED = 50
_LOOKED_THROUGH = 100_000
"""Picks among which a few are chosen: of millions, every so-manieth will do."""


def choose(rows_of_picks: npt.NDArray[np.integer], micrographs: pd.DataFrame) -> npt.NDArray[np.intp]:
    """Return picks worth a look, at most a dozen on each of a few dozen micrographs that are there.

    Parameters
    ----------
    rows_of_picks : (n,) int
        Row of `micrographs` of each pick; negative where there is none.
    """
    step = max(1, len(rows_of_picks) // _LOOKED_THROUGH)
    rows_of_picks = rows_of_picks[::step]
    there = np.append((micrographs["status"] == "found").to_numpy(bool), False)  # the last is that of row -1
    candidates = np.flatnonzero(there[rows_of_picks])
    if not len(candidates):
        return np.zeros(0, np.intp)
    some = candidates[np.linspace(0, len(candidates) - 1, _TRIED).astype(np.intp)]
    wanted = np.unique(rows_of_picks[some])
    of_these = candidates[np.isin(rows_of_picks[candidates], wanted)]
    ordered = of_these[np.argsort(rows_of_picks[of_these], kind="stable")]
    row = rows_of_picks[ordered]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    return ordered[rank < _EACH] * step


def sample(
    rows: npt.NDArray[np.integer],
    cut_xy_px: npt.NDArray[np.float64],
    stacks: Sequence[str],
    sections: npt.NDArray[np.integer],
    box_A: float | None,
    micrographs: pd.DataFrame,
    project: Path,
    flip: AxisConvention,
) -> ExtractedSample | None:
    """Return the particles whose stacks are there, on a few micrographs of one pixel size; None where there is none.

    Parameters
    ----------
    rows : (n,) int
        Row of `micrographs` of each.
    cut_xy_px : (n, 2) float
        Where their boxes were cut, as recorded.
    stacks
        Their stacks, relative to the project.
    sections : (n,) int
        Which image of the stack, from 0.
    box_A
        What a box spans.
    flip
        What brings positions into the frame.
    """
    keep: list[int] = []
    is_there: dict[str, bool] = {}
    sizes = micrographs["pixel_size_A"].to_numpy(np.float64)
    shown: dict[int, None] = {}
    for i, (row, name) in enumerate(zip(rows.tolist(), stacks, strict=True)):
        if row not in shown and len(shown) == _MICROGRAPHS:
            continue
        if name not in is_there:
            is_there[name] = is_file(project / name)
        if is_there[name] and np.isfinite(cut_xy_px[i]).all() and sizes[row] == sizes[next(iter(shown), row)]:
            shown[row] = None
            keep.append(i)
    if not keep or not box_A or not np.isfinite(box_A):
        return None
    names = micrographs["name"].to_numpy()
    columns: dict[str, npt.NDArray[np.generic]] = {"micrograph": rows[keep]}
    columns["x_px"], columns["y_px"] = cut_xy_px[keep, 0], cut_xy_px[keep, 1]
    apply(columns, micrographs, flip, project)
    return ExtractedSample(
        tuple(str(names[row]) for row in rows[keep]),
        np.stack([columns["x_px"], columns["y_px"]], axis=1).astype(np.float64),
        tuple(str(project / stacks[i]) for i in keep),
        np.asarray(sections)[keep].astype(np.int64),
        float(box_A),
    )
