"""How good picks are, as the field counts: one pick a particle, best score first, within a part of the diameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import spatial

Float = npt.NDArray[np.float64]
HIT, MISS, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class ScoredDetections:
    """Picks of one micrograph against its truth; lengths in pixels.

    Attributes
    ----------
    xy_px, score : (n, 2), (n,) float
        Picks.
    true_xy_px : (m, 2) float
        Particles.
    ignored_xy_px : (k, 2) float
        Places where experts differ: a pick there counts neither way.
    diameter_px
        Of the particle.
    data_set
        Macro figures are means over data sets.
    """

    xy_px: Float
    score: Float
    true_xy_px: Float
    ignored_xy_px: Float
    diameter_px: float
    data_set: str = ""


def match_outcomes(micrograph: ScoredDetections, within_diameters: float) -> npt.NDArray[np.int8]:
    """Return `HIT`, `MISS` or `IGNORED` for each pick; the nearest free particle is taken, best pick first.

    Returns
    -------
    (n,) int8
    """
    n = len(micrograph.score)
    result = np.full(n, MISS, np.int8)
    reach = within_diameters * micrograph.diameter_px
    if not n:
        return result
    order = np.argsort(-micrograph.score, kind="stable")
    taken = np.zeros(len(micrograph.true_xy_px), bool)
    if len(taken):
        tree = spatial.cKDTree(micrograph.true_xy_px)
        near = tree.query_ball_point(micrograph.xy_px, reach)
        for i in order:
            free = [j for j in near[i] if not taken[j]]
            if free:
                distance = ((micrograph.true_xy_px[free] - micrograph.xy_px[i]) ** 2).sum(axis=1)
                taken[free[int(np.argmin(distance))]] = True
                result[i] = HIT
    if len(micrograph.ignored_xy_px):
        distance, _ = spatial.cKDTree(micrograph.ignored_xy_px).query(micrograph.xy_px)
        result[(result == MISS) & (distance <= reach)] = IGNORED
    return result


@dataclass(frozen=True)
class DetectionFigures:
    """Figures of one data set, or of several."""

    average_precision: float
    best_f1: float
    best_threshold: float
    precision: float
    recall: float
    f1: float
    n_true: int
    n_picks: int


def figures(micrographs: Sequence[ScoredDetections], within_diameters: float, threshold: float) -> DetectionFigures:
    """Return the figures of some micrographs taken together; precision, recall and F1 at a threshold."""
    score = np.concatenate([m.score for m in micrographs]) if micrographs else np.zeros(0)
    result = np.concatenate([match_outcomes(m, within_diameters) for m in micrographs]) if micrographs else np.zeros(0)
    n_true = sum(len(m.true_xy_px) for m in micrographs)
    counted = result != IGNORED
    score, hit = score[counted], result[counted] == HIT
    order = np.argsort(-score, kind="stable")
    score, hit = score[order], hit[order]
    hits = np.cumsum(hit)
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / max(n_true, 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    average = float((envelope * np.diff(recall, prepend=0)).sum()) if n_true else float("nan")
    f1 = 2 * hits / np.maximum(np.arange(1, len(hits) + 1) + n_true, 1)
    best = int(np.argmax(f1)) if len(f1) else 0
    kept = int((score >= threshold).sum())
    kept_hits = int(hits[kept - 1]) if kept else 0
    return DetectionFigures(
        average_precision=average,
        best_f1=float(f1[best]) if len(f1) else 0.0,
        best_threshold=float(score[best]) if len(score) else float("nan"),
        precision=kept_hits / kept if kept else float("nan"),
        recall=kept_hits / n_true if n_true else float("nan"),
        f1=2 * kept_hits / (kept + n_true) if kept + n_true else float("nan"),
        n_true=n_true,
        n_picks=kept,
    )


def macro(of_sets: Sequence[DetectionFigures]) -> dict[str, float]:
    """Return the means over data sets; a data set without a particle has no part in averages of recall."""
    names = ("average_precision", "best_f1", "precision", "recall", "f1")
    return {n: float(np.nanmean([getattr(f, n) for f in of_sets])) if of_sets else float("nan") for n in names}
