"""Numbers about scores: ranking, precision and recall, calibration, and intervals from a bootstrap over micrographs.

`positive` is (n,) bool, `scores` (n,) float, higher meaning more likely positive. Every function takes optional
`weights`, (n,): whole numbers in a bootstrap, where a micrograph is drawn several times or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def roc_auc(positive: Bool, scores: Float, weights: Float | None = None) -> float:
    """Return the probability that a positive scores above a negative, ties counting half; NaN with one class only.

    Parameters
    ----------
    positive : (n,) bool
    scores : (n,) float
    weights : (n,) float, optional
        How often each pick counts; 1 without.
    """
    w = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    _, level = np.unique(scores, return_inverse=True)
    positives = np.bincount(level, w * positive)
    negatives = np.bincount(level, w * ~positive)
    total = positives.sum() * negatives.sum()
    below = np.cumsum(negatives) - negatives
    return float((positives * (below + negatives / 2)).sum() / total) if total else float("nan")


def cumulative_curve(scores: Float, positive_weight: Float, negative_weight: Float) -> tuple[Float, Float, Float]:
    """Return each different score, highest first, and the weights of positives and negatives of at least that score.

    Every precision-recall curve of cryoflow comes from here: of labels, of weighted labels, of expectations.

    Parameters
    ----------
    scores : (n,) float
    positive_weight, negative_weight : (n,) float
        How much each pick counts as positive and as negative.

    Returns
    -------
    thresholds : (m,) float
        The different scores, highest first.
    positives, negatives : (m,) float
        Sum of each weight over all picks of at least that score.
    """
    if not len(scores):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    thresholds: Float = scores[order][last]
    return thresholds, np.cumsum(positive_weight[order])[last], np.cumsum(negative_weight[order])[last]


def precision_recall(positive: Bool, scores: Float, weights: Float | None = None) -> tuple[Float, Float, Float]:
    """Return precision and recall of keeping all scores of at least a threshold, for each threshold, highest first.

    Parameters
    ----------
    positive : (n,) bool
    scores : (n,) float
    weights : (n,) float, optional
        How often each pick counts; 1 without.

    Returns
    -------
    precision, recall, thresholds : (m,) float
        One entry for each different score.
    """
    w = np.ones(len(scores)) if weights is None else np.asarray(weights, np.float64)
    thresholds, hits, false_hits = cumulative_curve(scores, w * positive, w * ~positive)
    if not len(thresholds):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hits + false_hits > 0, hits / (hits + false_hits), 1.0)
        recall = hits / hits[-1]
    return precision, recall, thresholds


def average_precision(positive: Bool, scores: Float, weights: Float | None = None) -> float:
    """Return the area below the precision-recall curve as a sum of steps; NaN without positive picks.

    Parameters
    ----------
    positive : (n,) bool
    scores : (n,) float
    weights : (n,) float, optional
        How often each pick counts; 1 without.
    """
    precision, recall, _ = precision_recall(positive, scores, weights)
    return float((precision * np.diff(recall, prepend=0.0)).sum()) if len(recall) else float("nan")


@dataclass(frozen=True)
class Counts:
    """The four outcomes of a decision, as numbers of picks."""

    true_positives: float
    false_positives: float
    false_negatives: float
    true_negatives: float

    @classmethod
    def of(cls, positive: Bool, kept: Bool, weights: Float | None = None) -> Counts:
        """Count (or sum weights).

        Parameters
        ----------
        positive : (n,) bool
        kept : (n,) bool
            The decision on each pick.
        weights : (n,) float, optional
            How often each pick counts; 1 without.
        """
        w = np.ones(len(positive)) if weights is None else weights
        return cls(*(float((w * a * b).sum()) for b in (kept, ~kept) for a in (positive, ~positive)))

    @property
    def error(self) -> float:
        """Return the share of wrong decisions."""
        return _ratio(self.false_positives + self.false_negatives, sum(vars(self).values()))

    @property
    def precision(self) -> float:
        """Return the share of positive picks among the kept."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """Return the share of kept picks among the positive."""
        return _ratio(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Return the harmonic mean of precision and recall."""
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def calibration_curve(
    positive: Bool, probabilities: Float, weights: Float | None = None, *, bins: int = 10
) -> tuple[Float, Float, Float]:
    """Return confidence (mean probability), accuracy (share of positives) and number of picks in equal bins.

    Parameters
    ----------
    positive : (n,) bool
    probabilities : (n,) float
        0 to 1.
    weights : (n,) float, optional
        How often each pick counts; 1 without.

    Returns
    -------
    confidence, accuracy : (bins,) float
        NaN in an empty bin.
    number : (bins,) float
        Sum of the weights.
    """
    w = np.ones(len(probabilities)) if weights is None else np.asarray(weights, np.float64)
    index = np.clip((probabilities * bins).astype(int), 0, bins - 1)
    number: Float = np.bincount(index, w, bins).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        confidence = np.bincount(index, w * probabilities, bins) / number
        accuracy = np.bincount(index, w * positive, bins) / number
    return confidence, accuracy, number


def calibration_error(positive: Bool, probabilities: Float, weights: Float | None = None) -> float:
    """Return the expected calibration error: mean distance of confidence from accuracy over bins of equal width.

    Parameters
    ----------
    positive : (n,) bool
    probabilities : (n,) float
        0 to 1.
    weights : (n,) float, optional
        How often each pick counts; 1 without.
    """
    confidence, accuracy, number = calibration_curve(positive, probabilities, weights)
    filled = number > 0
    return _ratio(float((np.abs(confidence - accuracy)[filled] * number[filled]).sum()), float(number.sum()))


def bootstrap(
    measure: Callable[[Float], float], micrograph: npt.NDArray[np.integer], *, rounds: int = 500, seed: int = 0
) -> Interval:
    """Return a measure with its 95 % interval over micrographs drawn with replacement.

    The draws are moved so that their mean is the measure of the whole: the calibration error of a draw, in which picks
    come several times, is larger than that of the whole, so that the whole could lie outside its own interval.

    Parameters
    ----------
    measure
        From weights, (n,) float, to a number between 0 and 1.
    micrograph : (n,) int
        Which micrograph each pick is from: picks of one micrograph are alike and are drawn together.
    """
    groups, member = np.unique(micrograph, return_inverse=True)
    rng = np.random.default_rng(seed)
    whole = measure(np.ones(len(micrograph)))
    draws = rng.multinomial(len(groups), np.full(len(groups), 1 / max(len(groups), 1)), rounds)
    values = np.array([measure(times[member].astype(np.float64)) for times in draws])
    values = values[np.isfinite(values)]
    if len(values) < 2 or len(groups) < 2:
        return Interval(whole, float("nan"), float("nan"))
    low, high = np.clip(np.quantile(values, (0.025, 0.975)) + whole - values.mean(), 0, 1)
    return Interval(whole, float(low), float(high))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
