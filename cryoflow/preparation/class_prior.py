"""Positives hidden among unlabeled picks: estimate their share, and weight the labels by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED

Float = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
Groups = npt.NDArray[np.integer]

LEAST_POSITIVES = 0.3
"""Least share of the positives above a threshold that the class prior is estimated from: fewer are left to chance."""


@dataclass(frozen=True)
class ClassPrior:
    """Share of positives among unlabeled picks, with its 95 % interval."""

    value: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def estimate_class_prior(
    scores: Float, labels: Labels, *, at_most: float, micrograph: Groups | None = None
) -> ClassPrior:
    """Estimate the share of positives among unlabeled picks from scores of micrographs that were not learned from.

    Above any threshold t lie at least the hidden positives, of which as large a share lies there as of the labeled
    ones. So U(t) / P(t), the shares of unlabeled picks and of positives above t, bounds the prior from above, and
    closely where few negatives score that high (best-bin estimate, Garg et al. 2021). The estimate is the least of
    these ratios, each plus its standard error: the least ratio itself would be low, for it is the one that chance made
    least.

    Parameters
    ----------
    scores : (n,) float
        Higher means more likely positive.
    labels : (n,) int8
        `POSITIVE`, `NEGATIVE` or `UNLABELED`.
    at_most
        Upper limit of value and interval; also the value where no positive is labeled.
    micrograph : (n,) int, optional
        Which micrograph each pick is from: the interval is from micrographs drawn with replacement, else from picks.
    """
    n_unlabeled, n_positive = int((labels == UNLABELED).sum()), int((labels == POSITIVE).sum())
    if not n_unlabeled:
        return ClassPrior()
    if not n_positive:
        return ClassPrior(at_most, 0.0, at_most)
    chosen = labels != NEGATIVE
    scores, is_unlabeled = scores[chosen], labels[chosen] == UNLABELED
    groups = np.arange(len(scores)) if micrograph is None else np.unique(micrograph[chosen], return_inverse=True)[1]
    order = np.argsort(-scores, kind="stable")
    ranked, is_unlabeled, groups = scores[order], is_unlabeled[order], groups[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    value = _best_bin(is_unlabeled, np.ones(len(ranked)), last)
    rng = np.random.default_rng(0)
    n_groups = int(groups.max()) + 1
    draws = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), 100)
    found = [_best_bin(is_unlabeled, draw[groups].astype(np.float64), last) for draw in draws]
    known = [v for v in found if np.isfinite(v)]
    low, high = np.quantile(known, (0.025, 0.975)) if known else (0.0, at_most)
    limited = np.minimum([value, min(low, value), max(high, value)], at_most)
    return ClassPrior(*(float(v) for v in limited))


def _best_bin(is_unlabeled: npt.NDArray[np.bool_], weights: Float, last: npt.NDArray[np.intp]) -> float:
    """Return the least U(t) / P(t) plus its standard error, of thresholds that keep enough positives."""
    unlabeled, positive = np.cumsum(weights * is_unlabeled)[last], np.cumsum(weights * ~is_unlabeled)[last]
    if not unlabeled[-1] or not positive[-1]:
        return float("nan")
    u, p = unlabeled / unlabeled[-1], positive / positive[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = u / p
        # The last term stands for the one pick that may lie above a threshold by chance where none does.
        variance = u * (1 - u) / unlabeled[-1] + ratio**2 * p * (1 - p) / positive[-1] + 1 / unlabeled[-1] ** 2
        return float(np.where(p >= LEAST_POSITIVES, ratio + np.sqrt(variance) / p, np.inf).min())


def class_weights(labels: Labels, class_prior: float | Float) -> tuple[Float, Float]:
    """Return how much each pick counts as positive and as negative.

    A labeled pick counts once. An unlabeled one counts as negative; the positives hidden among them are represented by
    the labeled positives, which count more as positive and, by as much, less than nothing as negative.

    Parameters
    ----------
    labels : (n,) int8
        `POSITIVE`, `NEGATIVE` or `UNLABELED`.
    class_prior
        Share of positives among unlabeled picks, one for all or (n,) float, one for each pick.

    Returns
    -------
    positive_weight, negative_weight : (n,) float
    """
    positive, negative, unlabeled = labels == POSITIVE, labels == NEGATIVE, labels == UNLABELED
    hidden = float((class_prior * unlabeled).sum()) / max(int(positive.sum()), 1) if positive.any() else 0.0
    return positive * (1.0 + hidden), negative + unlabeled - positive * hidden
