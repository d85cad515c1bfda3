"""Which picks are the same particle as which reference picks.

Both sides are matched one to one within a radius. *Greedy* takes the nearest pair first; *optimal* takes as many pairs
as there can be, and of those assignments the one with the smallest sum of distances. Where particles touch, greedy can
lose a pair that optimal finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Method = Literal["greedy", "optimal"]


@dataclass(frozen=True)
class Matches:
    """Pairs of one micrograph.

    Attributes
    ----------
    reference, pick : (n,) int
        Rows of the two lists that belong together.
    distance_px : (n,) float
    """

    reference: npt.NDArray[np.intp]
    pick: npt.NDArray[np.intp]
    distance_px: npt.NDArray[np.float64]


def match_picks(
    reference_xy_px: npt.ArrayLike, picks_xy_px: npt.ArrayLike, radius_px: float, *, method: Method = "optimal"
) -> Matches:
    """Match two lists of positions one to one.

    Parameters
    ----------
    reference_xy_px, picks_xy_px : (n, 2), (m, 2) float, x first
        Both in the pixels of one micrograph.
    radius_px
        Pairs farther apart than this are none.

    Returns
    -------
    Matches
        Sorted by row of the reference. The same for the same input, whatever the order of equals.

    Raises
    ------
    ValueError
        Where the radius is not positive: a defect of the caller.
    """
    if not radius_px > 0:
        raise ValueError(f"the radius is positive, not {radius_px}")
    reference = np.asarray(reference_xy_px, np.float64).reshape(-1, 2)
    picks = np.asarray(picks_xy_px, np.float64).reshape(-1, 2)
    i, j, distance = _near(reference, picks, radius_px)
    choose = {"greedy": _greedy, "optimal": _optimal}[method]
    chosen = choose(i, j, distance, len(reference), len(picks))
    chosen = chosen[np.argsort(i[chosen], kind="stable")]
    return Matches(i[chosen], j[chosen], distance[chosen])


def _near(
    reference: npt.NDArray[np.float64], picks: npt.NDArray[np.float64], radius_px: float
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return all pairs within the radius, sorted by row of reference and pick."""
    if len(reference) == 0 or len(picks) == 0:
        return np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0)
    pairs = cKDTree(reference).sparse_distance_matrix(cKDTree(picks), radius_px, output_type="ndarray")
    pairs = pairs[np.lexsort((pairs["j"], pairs["i"]))]
    return pairs["i"].astype(np.intp), pairs["j"].astype(np.intp), pairs["v"].astype(np.float64)


def _greedy(
    i: npt.NDArray[np.intp], j: npt.NDArray[np.intp], distance: npt.NDArray[np.float64], n: int, m: int
) -> npt.NDArray[np.intp]:
    taken_i, taken_j = [False] * n, [False] * m
    chosen = []
    order = np.argsort(distance, kind="stable")
    for k, a, b in zip(order.tolist(), i[order].tolist(), j[order].tolist(), strict=True):
        if not (taken_i[a] or taken_j[b]):
            taken_i[a] = taken_j[b] = True
            chosen.append(k)
    return np.array(chosen, np.intp)


def _optimal(
    i: npt.NDArray[np.intp], j: npt.NDArray[np.intp], distance: npt.NDArray[np.float64], n: int, m: int
) -> npt.NDArray[np.intp]:
    """Return the assignment problem falls apart into small groups of picks that are near to each other."""
    if len(i) == 0:
        return np.zeros(0, np.intp)
    graph = coo_array((np.ones(len(i)), (i, n + j)), shape=(n + m, n + m))
    group = connected_components(graph, directed=False)[1][i]
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order])) + 1
    chosen = []
    for pairs in np.split(order, bounds):
        if len(pairs) == 1:
            chosen.append(int(pairs[0]))
            continue
        rows, row = np.unique(i[pairs], return_inverse=True)
        columns, column = np.unique(j[pairs], return_inverse=True)
        never = 1e3 * (1 + float(distance[pairs].sum()))  # dearer than all true pairs together
        cost = np.full((len(rows), len(columns)), never)
        cost[row, column] = distance[pairs]
        place = np.full(cost.shape, -1, np.intp)
        place[row, column] = pairs
        best = place[linear_sum_assignment(cost)]
        chosen.extend(best[best >= 0].tolist())
    return np.array(chosen, np.intp)


def without_duplicates(xy_px: npt.NDArray[np.float64], radius_px: float) -> npt.NDArray[np.bool_]:
    """Return which picks to keep so that no two are within the radius: of two, the one that came first.

    Parameters
    ----------
    xy_px : (n, 2) float, x first
        In pixels of the micrograph.
    radius_px
        0 or less keeps all picks.

    Returns
    -------
    (n,) bool
    """
    keep = np.ones(len(xy_px), bool)
    if len(xy_px) < 2 or radius_px <= 0:
        return keep
    pairs = cKDTree(xy_px).query_pairs(radius_px, output_type="ndarray")
    for a, b in sorted(map(tuple, pairs.tolist())):
        if keep[a]:
            keep[b] = False
    return keep
