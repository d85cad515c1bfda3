"""From scores to decisions, on validation micrographs: a temperature that makes probabilities honest, a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.picked import NEGATIVE, POSITIVE, UNLABELED

Float = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]

SLACK = (0.005, 0.03)
"""Least and greatest distance in F1 that is put down to chance."""


@dataclass(frozen=True)
class Goal:
    """What a threshold is chosen for: the best F1, or the least loss that reaches a precision or a recall."""

    precision: float | None = None
    recall: float | None = None

    def __str__(self) -> str:
        if self.precision is not None:
            return f"precision of at least {self.precision:g}"
        return "best F1" if self.recall is None else f"recall of at least {self.recall:g}"


@dataclass(frozen=True)
class Threshold:
    """A threshold and what it gave on the picks that it was chosen on."""

    probability: float
    precision: float
    recall: float
    reached: bool = True
    """Whether what was goal could be had; else the nearest is given."""


def temperature(logits: Float, labels: Labels, *, class_prior: float = 0.0) -> float:
    """The number that logits are divided by so that their probabilities fit the labels best.

    Least negative log-likelihood over 0.1 to 20. Unlabelled picks count as right and wrong in their known proportion:
    as wrong, less the share that right picks have in them. 1 where one class is missing.
    """
    from scipy.optimize import minimize_scalar

    positive_weight, negative_weight = class_weights(labels, class_prior)
    if not positive_weight.sum() > 0 or not negative_weight.sum() > 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        return float((positive_weight * np.logaddexp(0, -z) + negative_weight * np.logaddexp(0, z)).sum())

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def choose_threshold(
    probabilities: Float,
    labels: Labels,
    goal: Goal,
    *,
    class_prior: float = 0.0,
    micrograph: npt.NDArray[np.integer] | None = None,
) -> Threshold:
    """The threshold for what is goal.

    Where picks are unlabeled, precision is estimated: recall (known from the right picks) times the number of right
    picks there must be, over the number that is kept.

    Parameters
    ----------
    micrograph : (n,) int, optional
        Which micrograph each pick is from. With it, the threshold for the best F1 is the middle of all those whose F1
        is as good as the best one's but for chance: the best one of a few micrographs lies now here, now there.
    """
    curve = _Curve.of(probabilities, labels, class_prior)
    if not curve.all_right > 0:
        return Threshold(0.5, float("nan"), float("nan"), reached=False)
    precision, recall, f1 = curve.precision, curve.recall, curve.f1
    if goal.precision is not None:
        good, best, spare = precision >= goal.precision, recall, precision
    elif goal.recall is not None:
        good, best, spare = recall >= goal.recall, precision, recall
    else:
        good, best, spare = np.ones(len(f1), bool), f1, f1
    at = int(np.argmax(np.where(good, best, -1))) if good.any() else int(np.argmax(spare))
    value = curve.below(at)
    if goal == Goal() and micrograph is not None:
        slack = _chance(probabilities, labels, class_prior, micrograph, value)
        as_good = np.flatnonzero(f1 >= f1[at] - slack)
        middle = (curve.below(as_good[0]) + curve.below(as_good[-1])) / 2
        at = int(min(as_good, key=lambda i: abs(curve.below(i) - middle)))  # the curve is ragged: not into a dip
        value = curve.below(at)
    return Threshold(value, float(precision[at]), float(recall[at]), bool(good.any()))


@dataclass(frozen=True)
class _Curve:
    """Precision and recall where everything of at least a score is kept, for each different score, highest first."""

    scores: Float
    precision: Float
    recall: Float
    f1: Float
    all_right: float

    @classmethod
    def of(cls, probabilities: Float, labels: Labels, class_prior: float) -> _Curve:
        positive_weight, negative_weight = class_weights(labels, class_prior)
        order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[order]
        last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
        hits = np.cumsum(positive_weight[order])[last]
        kept = np.maximum(hits + np.cumsum(negative_weight[order])[last], hits)
        all_right = float(positive_weight.sum())
        some = max(all_right, 1e-12)
        return cls(ranked[last], hits / np.maximum(kept, 1e-12), hits / some, 2 * hits / (kept + some), all_right)

    def below(self, at: int | np.integer) -> float:
        """Half way to the next lower score: a score that is equal but for rounding falls on the same side."""
        lower = self.scores[at + 1] if at + 1 < len(self.scores) else 0.0
        return float((self.scores[at] + lower) / 2)


def _chance(
    probabilities: Float,
    labels: Labels,
    class_prior: float,
    micrograph: npt.NDArray[np.integer],
    threshold: float,
    *,
    rounds: int = 200,
) -> float:
    """Standard error of F1 at a threshold, from micrographs drawn with replacement; within 0.005 and 0.03."""
    positive_weight, negative_weight = class_weights(labels, class_prior)
    groups, member = np.unique(micrograph, return_inverse=True)
    kept = probabilities >= threshold
    hits, false_positives, right = (
        np.bincount(member, w, len(groups)) for w in (positive_weight * kept, negative_weight * kept, positive_weight)
    )
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), rounds)
    some_kept = np.maximum(draws @ (hits + false_positives), 0.0)
    f1 = 2 * (draws @ hits) / np.maximum(some_kept + draws @ right, 1e-12)
    return float(np.clip(f1.std(), *SLACK))


def estimate_class_prior(probabilities: Float, labels: Labels, *, at_most: float) -> float:
    """Share of right picks among those not known, as far as the scores allow; never above `at_most`.

    Above any threshold there are at least the hidden right picks, of which as large a share lies there as of the
    labeled ones. So the share of unlabeled picks above it over that of the right ones bounds what is hidden (best-bin
    estimate, Garg et al. 2021); the least such bound is taken, of thresholds that keep half of the right ones. The
    bound means something only for micrographs that were not learnt from.
    """
    right, unknown = probabilities[labels == POSITIVE], probabilities[labels == UNLABELED]
    if not len(unknown):
        return 0.0
    if not len(right):
        return at_most
    thresholds = np.sort(right)[: len(right) // 2 + 1]
    of_positive = 1 - np.searchsorted(np.sort(right), thresholds) / len(right)
    above = len(unknown) - np.searchsorted(np.sort(unknown), thresholds)
    return float(min(at_most, ((above + 1) / (len(unknown) + 1) / of_positive).min()))


def class_weights(labels: Labels, class_prior: float) -> tuple[Float, Float]:
    """How much each pick counts as right and as wrong, (n,) each.

    A labeled pick counts once. An unlabeled one counts as wrong; the right picks that hide among them are stood for
    by the labeled right ones, which count more as right and, by as much, less than nothing as wrong.
    """
    right, wrong, unknown = labels == POSITIVE, labels == NEGATIVE, labels == UNLABELED
    hidden = class_prior * unknown.sum() / max(right.sum(), 1) if right.any() else 0.0
    return right * (1.0 + hidden), wrong + unknown - right * hidden
