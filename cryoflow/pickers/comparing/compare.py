"""Compare picks with reference picks of the same micrographs: precision, recall, average precision, distance."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.parameters import MATCH_RADIUS
from cryoflow.pickers.comparing.matching import Method, match_picks
from cryoflow.pickers.training_sets.names import match_names
from cryoflow.picks import FloatArray, PickSet
from cryoflow.preparation.score_metrics import cumulative_curve


@dataclass(frozen=True)
class Scores:
    """Counts of one micrograph or of many, and the scores that follow from them. A share of nothing is NaN.

    Attributes
    ----------
    n_reference, n_picks, n_matched
        Reference picks, picks, and pairs of them.
    average_precision
        Area under the precision-recall curve over all thresholds; NaN where the picks have no scores.
    localisation_error_A
        Median distance of the pairs.
    """

    n_reference: int
    n_picks: int
    n_matched: int
    average_precision: float = float("nan")
    localisation_error_A: float = float("nan")

    @property
    def precision(self) -> float:
        """Return the share of the picks that match the reference."""
        return self.n_matched / self.n_picks if self.n_picks else float("nan")

    @property
    def recall(self) -> float:
        """Return the share of the reference that was found."""
        return self.n_matched / self.n_reference if self.n_reference else float("nan")

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall."""
        both = self.n_picks + self.n_reference
        return 2 * self.n_matched / both if both else float("nan")


@dataclass(frozen=True)
class Compared(Scores):
    """One micrograph; `name` as the picks' project has it."""

    name: str = ""


@dataclass(frozen=True)
class Comparison(Scores):
    """All micrographs that both have.

    Attributes
    ----------
    entry
        The picks' entry.
    radius_A
        Radius within which a pick matches.
    only_in_reference, only_in_picks
        Micrographs that only one of them has; they are not counted.
    curve : (2, n) float
        Recall and precision at each threshold, the highest first; empty without scores.
    """

    entry: str = ""
    micrographs: tuple[Compared, ...] = ()
    radius_A: float = float("nan")
    only_in_reference: int = 0
    only_in_picks: int = 0
    curve: FloatArray = field(default_factory=lambda: np.zeros((2, 0)), compare=False, repr=False)


def compare(
    picks: PickSet,
    reference: PickSet,
    *,
    radius: float = MATCH_RADIUS,
    diameter_A: float | None = None,
    only: Collection[str] | None = None,
    method: Method = "optimal",
) -> Comparison:
    """Match picks with reference picks, one to one, on every micrograph that both have.

    Parameters
    ----------
    radius
        A pick is right within so many particle diameters of a reference pick.
    diameter_A
        None takes the reference's, then the picks'.
    only
        Names of the micrographs to count, as the picks' project or the reference's has them; None counts all.
    method
        See `cryoflow.pickers.comparing.matching`.

    Raises
    ------
    MissingMetadata
        Where the diameter or a pixel size is not known.
    BadInput
        Where they have no micrograph in common, or the radius is none.
    """
    entry = f"{picks.provenance.project_name}/{picks.provenance.entry_name}"
    diameter = diameter_A or reference.diameter_A or picks.diameter_A
    if diameter is None:
        raise MissingMetadata(entry, "the particle diameter is not known.", "Give it in angstrom: --diameter.")
    radius_A = positive_radius_A(radius, diameter)
    found_A, reference_A = _in_angstrom(picks, entry), _in_angstrom(reference, "the reference")
    score = picks.picks["score"].to_numpy(np.float64) if "score" in picks.picks else None
    is_positive = np.zeros(len(picks), bool)
    scored = np.zeros(len(picks), bool)
    bounds, reference_bounds = picks.offsets.tolist(), reference.offsets.tolist()
    names, their_names = picks.micrographs["name"].tolist(), reference.micrographs["name"].tolist()
    compared, distances, in_both = [], [], 0
    for i, j in same_micrographs(picks, reference):
        in_both += 1
        if only is not None and names[i] not in only and their_names[j] not in only:
            continue
        mine, theirs = slice(bounds[i], bounds[i + 1]), slice(reference_bounds[j], reference_bounds[j + 1])
        pairs = match_picks(reference_A[theirs], found_A[mine], radius_A, method=method)
        is_positive[bounds[i] + pairs.pick] = True
        scored[mine] = True
        n_reference = reference_bounds[j + 1] - reference_bounds[j]
        average = float("nan") if score is None else average_precision(is_positive[mine], score[mine], n_reference)[0]
        counts = (n_reference, bounds[i + 1] - bounds[i], len(pairs.pick))
        compared.append(Compared(*counts, average, _median(pairs.distance_px), str(names[i])))
        distances.append(pairs.distance_px)
    if not compared:
        raise BadInput(entry, "has no micrograph in common with the reference.")
    n_reference = sum(m.n_reference for m in compared)
    average, curve = float("nan"), np.zeros((2, 0))
    if score is not None:
        average, curve = average_precision(is_positive[scored], score[scored], n_reference)
    return Comparison(
        n_reference,
        sum(m.n_picks for m in compared),
        sum(m.n_matched for m in compared),
        average,
        _median(np.concatenate(distances)),
        entry=entry,
        micrographs=tuple(compared),
        radius_A=radius_A,
        only_in_reference=len(reference.micrographs) - in_both,
        only_in_picks=len(picks.micrographs) - in_both,
        curve=curve,
    )


def positive_radius_A(radius: float, diameter_A: float) -> float:
    """Return radius in angstrom of a number of diameters.

    Raises
    ------
    BadInput
        Where it is not above 0.
    """
    if not (radius > 0 and np.isfinite(radius)):
        raise BadInput("--radius", f"is {radius:g}; it is a number of diameters, above 0.")
    if not (diameter_A > 0 and np.isfinite(diameter_A)):
        raise BadInput("--diameter", f"is {diameter_A:g}; it is a number of angstrom, above 0.")
    return radius * diameter_A


def average_precision(
    is_positive: npt.NDArray[np.bool_], score: FloatArray, n_reference: int
) -> tuple[float, FloatArray]:
    """Return the area under the precision-recall curve, and the curve.

    The sum over thresholds of precision times the gain in recall, without interpolation; picks of equal score come in
    together. Recall counts the whole reference, so what was never picked lowers the area.

    Parameters
    ----------
    is_positive : (m,) bool
        Whether each pick matches the reference.
    score : (m,) float
    n_reference
        Number of reference picks, matched or not.

    Returns
    -------
    area
        NaN without a reference, or if a score is not known.
    curve : (2, n) float
        Recall and precision.
    """
    if n_reference == 0 or not np.isfinite(score).all():
        return float("nan"), np.zeros((2, 0))
    if len(score) == 0:
        return 0.0, np.zeros((2, 0))
    _, hits, false_hits = cumulative_curve(score, is_positive.astype(np.float64), (~is_positive).astype(np.float64))
    precision, recall = hits / (hits + false_hits), hits / n_reference
    return float(np.sum(np.diff(recall, prepend=0) * precision)), np.stack([recall, precision])


def same_micrographs(picks: PickSet, reference: PickSet) -> Iterator[tuple[int, int]]:
    """Yield rows of the micrographs that both have: the same file where both were found, else the same name.

    Names are compared as in `cryoflow.pickers.training_sets.names`, without folders and uid prefixes where they differ
    in those.
    """
    row_of = {os.path.realpath(p): j for j, p in enumerate(reference.micrographs["path"]) if p is not None}
    pairs: dict[int, int] = {}
    for i, path in enumerate(picks.micrographs["path"]):
        if path is not None and (j := row_of.get(os.path.realpath(path))) is not None:
            pairs[i] = j
    left = [i for i in range(len(picks.micrographs)) if i not in pairs]
    free = sorted(set(range(len(reference.micrographs))) - set(pairs.values()))
    ours, theirs = picks.micrographs["name"].tolist(), reference.micrographs["name"].tolist()
    match = match_names([ours[i] for i in left], [theirs[j] for j in free])
    pairs |= {i: free[k] for i, k in zip(left, match.index.tolist(), strict=True) if k >= 0}
    yield from sorted(pairs.items())


def centers_of(picks: PickSet, micrograph: int) -> FloatArray:
    """Return positions of the picks of one micrograph.

    Parameters
    ----------
    micrograph
        Its row in `picks.micrographs`.

    Returns
    -------
    (n, 2) float, x first
        In pixels of the micrograph.
    """
    offsets = picks.offsets
    rows = slice(int(offsets[micrograph]), int(offsets[micrograph + 1]))
    return picks.picks[["x_px", "y_px"]].iloc[rows].to_numpy(np.float64)


def _in_angstrom(picks: PickSet, entry: str) -> FloatArray:
    size = picks.micrographs["pixel_size_A"].to_numpy(np.float64)[picks.picks["micrograph"].to_numpy()]
    if not np.isfinite(size).all():
        unknown = picks.micrographs["name"].iloc[picks.picks["micrograph"].to_numpy()[~np.isfinite(size)][0]]
        raise MissingMetadata(entry, f"the pixel size of {unknown} is not known.", "Ingest its project with one.")
    in_angstrom: FloatArray = picks.centers_xy_px * size[:, None]
    return in_angstrom


def _median(values: FloatArray) -> float:
    return float(np.median(values)) if len(values) else float("nan")
