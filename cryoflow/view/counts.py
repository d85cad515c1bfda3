"""Counts of what is kept: in the whole entry, and on each micrograph."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.view.candidates import Candidates, Float
from cryoflow.view.review import Review, kept_by, labels_by


@dataclass(frozen=True)
class Tally:
    """Counts at a threshold.

    Attributes
    ----------
    n, n_kept
        Candidates and added picks, and how many of them are kept.
    precision
        Expected share of particles among the kept picks; NaN where scores are no probabilities.
    recall
        Expected share of the particles under all picks that is kept. Particles that no pick lies on are not counted.
        NaN where the scores of removed picks are unknown.
    """

    n: int
    n_kept: int
    precision: float
    recall: float


def tally(review: Review, threshold: float) -> Tally:
    """Count what is kept in the whole entry, and expect precision and recall from calibrated scores.

    A decision of a person counts as certain.
    """
    c, d = review.candidates, review.decisions
    kept = kept_by(c, d, threshold)
    bad = {m for m, mark in d.marks.items() if mark == "bad"}
    added = sum(sum(a.labels) for m, a in d.added.items() if m not in bad)
    n, n_kept = len(c) + added, int(kept.sum()) + added
    if not c.calibrated or not c.has_scores:
        return Tally(n, n_kept, math.nan, math.nan)
    labels = labels_by(c, d)
    known = np.flatnonzero(labels)
    p, is_positive = c.probabilities, labels[known] > 0
    surplus = is_positive - p[known]  # what decisions change in the sums of probabilities
    kept_positives = float(p[kept].sum()) + float(surplus[kept[known]].sum()) + added
    all_positives = float(p.sum()) + float(surplus.sum()) + added
    recall = math.nan if c.removed_without_score.any() else _ratio(kept_positives, all_positives)
    return Tally(n, n_kept, _ratio(kept_positives, n_kept), recall)


def doubt(candidates: Candidates) -> Float:
    """Return the expected number of wrong decisions on each micrograph; NaN where scores are no probabilities."""
    n = len(candidates.picks.micrographs)
    if not candidates.calibrated or not candidates.has_scores:
        return np.full(n, np.nan)
    p = candidates.probabilities
    expected: Float = np.bincount(candidates.micrograph, np.minimum(p, 1 - p), minlength=n).astype(np.float64)
    return expected


def per_micrograph(candidates: Candidates, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return how many of the chosen candidates each micrograph has."""
    return np.bincount(candidates.micrograph[chosen], minlength=len(candidates.picks.micrographs))


def names_of(people: Iterable[str]) -> str:
    """Return people's names as text, in a fixed order."""
    return ", ".join(sorted(people)) or "nobody"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
