"""Picks that stand for one particle several times: two picks that a refinement moved onto one center, copied rows.

Two picks are one particle where they are closer than a tenth of its diameter. Centers that are found twice agree to a
few angstroms, and no two particles come that close, so that the number is not a delicate one. Segments of a helix
overlap on purpose: of those only what lies at one place is one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cryoflow.picks import is_diameter

Columns = dict[str, npt.NDArray[np.generic]]
OF_DIAMETER = 0.1
OF_BOX = 0.05
"""Where no diameter is known: boxes are commonly 1.5 to 2 diameters."""
ONE_PLACE_PX = 0.1
HELICAL_NOTE = "segments of helices: neighbors overlap on purpose"
_UNKNOWN_PX = 1.0
_MOST_CELLS = 1 << 20
_MARGIN = 16
_NEEDED = ("micrograph", "x_px", "y_px", "score")
_GRIDS = (0.0, 1 / 3, 2 / 3)
"""Offsets of grids along both axes, in cells. Between the x of two picks closer than a third of a cell at most one grid
has a line, and so between their y: in the third grid they share a cell."""
_PICKS_AT_A_TIME = 1 << 15
_SLOT_BITS = 18
_SLOTS = 1 << _SLOT_BITS
_SCATTER = np.uint64(0x9E3779B97F4A7C15)
"""Multiplication by this odd number spreads cells over the slots."""
_ROUNDS = 64
"""More are needed only by files that no program wrote."""


def fold_duplicates(columns: Columns, distance_px: float) -> int:
    """Drop all but the best pick of each particle, in place, and say how many were dropped.

    The best is the one of the highest score, of equals (or without scores) the first. Positions that are no numbers are
    left alone.

    Parameters
    ----------
    columns
        `micrograph`, `x_px`, `y_px`, perhaps `score`, and others.
    distance_px
        Two picks of one micrograph that are closer than this are one.
    """
    keep = np.ones(len(columns["micrograph"]), bool)
    slots = np.empty(_SLOTS, np.int64)
    for part in whole_micrographs(columns["micrograph"].astype(np.int32, copy=False)):
        here: Columns = {name: columns[name][part] for name in _NEEDED if name in columns}
        _fold(here, distance_px, keep[part], slots)
    n = len(keep) - int(np.count_nonzero(keep))
    if n:
        for name in list(columns):
            columns[name] = _kept(columns[name], keep)
    return n


def _kept(values: npt.NDArray[np.generic], keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.generic]:
    """Return the kept rows of a column, moved together in place where the column is an array of its own."""
    if values.base is not None or not values.flags.writeable:
        return values[keep]
    end = 0
    for start in range(0, len(values), _PICKS_AT_A_TIME):
        part = values[start : start + _PICKS_AT_A_TIME][keep[start : start + _PICKS_AT_A_TIME]]
        values[end : end + len(part)] = part
        end += len(part)
    return values[:end]


def distance_px(
    diameter_A: float | None, pixel_sizes_A: npt.NDArray[np.float64], box_px: float | None, *, is_helical: bool
) -> float:
    """Return how close two picks of one particle are, in pixels of the micrograph; of several pixel sizes the largest
    counts.

    >>> distance_px(120.0, np.array([1.5, np.nan]), None, is_helical=False)
    8.0
    """
    if is_helical:
        return ONE_PLACE_PX
    known = pixel_sizes_A[np.isfinite(pixel_sizes_A) & (pixel_sizes_A > 0)]
    if diameter_A and is_diameter(diameter_A) and len(known):
        return float(OF_DIAMETER * diameter_A / known.max())
    return OF_BOX * box_px if box_px else _UNKNOWN_PX


def whole_micrographs(micrograph: npt.NDArray[np.integer]) -> Iterator[slice]:
    """Yield slices of whole micrographs, a few ten thousand picks each; one of all where they are in no order."""
    if not bool(np.all(micrograph[1:] >= micrograph[:-1])):
        yield slice(0, len(micrograph))
        return
    start = 0
    while start < len(micrograph):
        last = micrograph[min(start + _PICKS_AT_A_TIME, len(micrograph)) - 1]
        end = int(np.searchsorted(micrograph, last, side="right"))
        yield slice(start, end)
        start = end


def _cells(columns: Columns, edge_px: float, shift: float) -> npt.NDArray[np.int64]:
    """Return the cell of a grid that each pick lies in, as one number; a cell of its own for what has no position."""
    numbers = columns["micrograph"].astype(np.int64)
    for axis in ("x_px", "y_px"):
        numbers <<= 20
        with np.errstate(all="ignore"):
            place = np.asarray(columns[axis], np.float64) * (1 / edge_px)
            place += shift + _MARGIN
            np.clip(place, 0, _MOST_CELLS - 1, out=place)
            numbers += place.astype(np.int64)
        lost = ~np.isfinite(np.asarray(columns[axis]))
        if lost.any():
            numbers[lost] = -1 - np.flatnonzero(lost)
    return numbers


def _fold(columns: Columns, distance_px: float, keep: npt.NDArray[np.bool_], slots: npt.NDArray[np.int64]) -> None:
    """Take all but the best pick of each particle out of `keep`, in place.

    Each cell has a slot, into which its picks write their row, the best last; so each pick that finds another row there
    meets the best pick of its cell, or of one that happens to have the same slot. Nothing has to be sorted.
    """
    x, y = (np.asarray(columns[axis], np.float64) for axis in ("x_px", "y_px"))
    worst_first = np.arange(len(x))[::-1]
    if "score" in columns:
        score = np.nan_to_num(np.asarray(columns["score"], np.float64), nan=-np.inf)
        worst_first = worst_first[np.argsort(score[worst_first], kind="stable")]
    for shift in _GRIDS:
        cells = _cells(columns, 3 * distance_px, shift)
        slot = ((cells.view(np.uint64) * _SCATTER) >> np.uint64(64 - _SLOT_BITS)).view(np.int64)
        rows = worst_first
        for _ in range(_ROUNDS):
            slots[slot[rows]] = rows
            best = slots[slot[rows]]
            is_other = best != rows
            if not is_other.any():
                break
            rows, best = rows[is_other], best[is_other]
            with np.errstate(all="ignore"):
                is_close = np.hypot(x[rows] - x[best], y[rows] - y[best]) < distance_px
            is_close &= (cells[rows] == cells[best]) & keep[best]
            keep[rows[is_close]] = False
            rows = rows[~is_close]
