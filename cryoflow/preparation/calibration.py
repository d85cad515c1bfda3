"""From scores to decisions: calibration of probabilities, and thresholds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.class_prior import class_weights
from cryoflow.preparation.score_metrics import cumulative_curve

Float = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]
Groups = npt.NDArray[np.integer]

MINIMUM_KEPT = 0.90
"""Share of the positives that a threshold keeps, where nothing else was asked for: losing particles costs more than
keeping some negatives, which a 2D classification removes later."""

SLACK = (0.005, 0.03)
"""Least and greatest difference in F1 that counts as chance."""

SPREAD_OF_LOG_TEMPERATURE, SPREAD_OF_BIAS = 0.25, 1.0
"""How far projects are expected to differ from the pooled calibration (standard deviations of the Gaussian prior)."""


@dataclass(frozen=True)
class Goal:
    """Aim of a threshold. With none set: the best F1 that keeps at least `MINIMUM_KEPT` of the positives."""

    precision: float | None = None
    recall: float | None = None
    keep: int | None = None
    """Number of picks."""
    threshold: float | None = None

    def __str__(self) -> str:
        if self.threshold is not None:
            return f"threshold of {self.threshold:g}"
        if self.keep is not None:
            return f"best {self.keep} picks"
        if self.precision is not None:
            return f"precision of at least {self.precision:g}"
        return "best F1" if self.recall is None else f"recall of at least {self.recall:g}"


@dataclass(frozen=True)
class Calibration:
    """Map from logits to probabilities: sigmoid(logit / temperature + bias)."""

    temperature: float = 1.0
    bias: float = 0.0

    def probabilities(self, logits: Float) -> Float:
        """Return calibrated probabilities.

        Parameters
        ----------
        logits : (n,) float

        Returns
        -------
        (n,) float
        """
        from scipy.special import expit

        probabilities: Float = expit(logits / self.temperature + self.bias)
        return probabilities


@dataclass(frozen=True)
class Threshold:
    """A threshold, and the precision and recall that it gives on the picks that it was chosen on."""

    probability: float
    precision: float
    recall: float
    reached: bool = True
    """Whether the goal can be reached; otherwise the nearest threshold is given."""


def fit_temperature(logits: Float, labels: Labels, *, class_prior: float | Float = 0.0) -> Calibration:
    """Return the calibration without bias that fits the labels best.

    Least negative log-likelihood for temperatures of 0.1 to 20; a temperature of 1 where one class is missing.
    Unlabeled picks count as positive and negative in the proportion of the class prior.

    Parameters
    ----------
    logits : (n,) float
    labels : (n,) int8
        1 positive, -1 negative, 0 unlabeled.
    class_prior
        Share of positives among unlabeled picks, one for all or (n,) float, one for each pick.
    """
    from scipy.optimize import minimize_scalar

    positive_weight, negative_weight = class_weights(labels, class_prior)
    if not positive_weight.sum() > 0 or not negative_weight.sum() > 0:
        return Calibration()

    def loss(log_temperature: float) -> float:
        return log_loss(logits / np.exp(log_temperature), positive_weight, negative_weight)

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(20)), method="bounded")
    return Calibration(float(np.exp(found.x)))


def fit_project(logits: Float, labels: Labels, pooled: Calibration, *, class_prior: float = 0.0) -> Calibration:
    """Return the calibration of one project, shrunk towards the pooled one: the more, the fewer labels there are.

    Maximum a posteriori with a Gaussian prior around the pooled calibration, so that a project with no labels gets the
    pooled one, and one with thousands its own.

    Parameters
    ----------
    logits : (n,) float
    labels : (n,) int8
        1 positive, -1 negative, 0 unlabeled.
    pooled
        Calibration of all projects.
    class_prior
        Share of positives among unlabeled picks.
    """
    from scipy.optimize import minimize

    positive_weight, negative_weight = class_weights(labels, class_prior)

    def loss(x: Float) -> float:
        z = logits / (pooled.temperature * np.exp(x[0])) + pooled.bias + x[1]
        prior = (x[0] / SPREAD_OF_LOG_TEMPERATURE) ** 2 / 2 + (x[1] / SPREAD_OF_BIAS) ** 2 / 2
        return log_loss(z, positive_weight, negative_weight) + float(prior)

    found = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(-1.5, 1.5), (-6.0, 6.0)]).x
    return Calibration(pooled.temperature * float(np.exp(found[0])), pooled.bias + float(found[1]))


def log_loss(logits: Float, positive_weight: Float, negative_weight: Float) -> float:
    """Return the negative log-likelihood of weighted picks, each positive and negative by its two weights.

    Parameters
    ----------
    logits : (n,) float
    positive_weight, negative_weight : (n,) float
        How much each pick counts as positive and as negative; see `class_weights`.
    """
    return float((positive_weight * np.logaddexp(0, -logits) + negative_weight * np.logaddexp(0, logits)).sum())


@dataclass(frozen=True)
class Curve:
    """Precision and recall of keeping everything of at least a score, for each different score, highest first.

    Attributes
    ----------
    scores : (m,) float
        The different scores, highest first.
    kept : (m,) float
        Number of picks that are kept.
    precision, recall, f1 : (m,) float
    n_positive
        Number of positives, kept or not; estimated where labels are missing.
    """

    scores: Float
    kept: Float
    precision: Float
    recall: Float
    f1: Float
    n_positive: float

    @classmethod
    def labeled(cls, probabilities: Float, labels: Labels, class_prior: float | Float = 0.0) -> Curve:
        """Return the curve of picks with labels.

        Where picks are unlabeled, precision is estimated: recall (known from the positives) times the number of
        positives there must be, over the number that is kept.

        Parameters
        ----------
        probabilities : (n,) float
        labels : (n,) int8
            1 positive, -1 negative, 0 unlabeled.
        class_prior
            Share of positives among unlabeled picks, one for all or (n,) float, one for each pick.
        """
        return cls._of(probabilities, *class_weights(labels, class_prior))

    @classmethod
    def expected(cls, probabilities: Float) -> Curve:
        """Return the curve that calibrated probabilities let expect, without any label.

        Parameters
        ----------
        probabilities : (n,) float
        """
        return cls._of(probabilities, probabilities, 1 - probabilities)

    @classmethod
    def _of(cls, scores: Float, positive_weight: Float, negative_weight: Float) -> Curve:
        thresholds, hits, false_hits = cumulative_curve(scores, positive_weight, negative_weight)
        kept = np.maximum(hits + false_hits, hits)  # weights of hidden positives may be negative
        n_positive = float(positive_weight.sum())
        some = max(n_positive, 1e-12)
        precision = hits / np.maximum(kept, 1e-12)
        return cls(thresholds, kept, precision, hits / some, 2 * hits / (kept + some), n_positive)

    def below(self, at: int | np.integer) -> float:
        """Return the threshold half way to the next lower score, so that rounding does not change what is kept."""
        lower = self.scores[at + 1] if at + 1 < len(self.scores) else 0.0
        return float((self.scores[at] + lower) / 2)

    def at(self, threshold: float) -> Threshold:
        """Return precision and recall of a given threshold."""
        n = int((self.scores >= threshold).sum())
        if not n:
            return Threshold(threshold, float("nan"), 0.0)
        return Threshold(threshold, float(self.precision[n - 1]), float(self.recall[n - 1]))

    def choose(self, goal: Goal, *, slack: float | None = None, minimum_kept: float = MINIMUM_KEPT) -> Threshold:
        """Return the threshold for a goal.

        Parameters
        ----------
        slack
            Difference in F1 that is chance: the threshold is then the middle of all those whose F1 is within it of the
            maximum. The best threshold of a few micrographs alone lies at random in that range.
        minimum_kept
            Least share of the positives that the best F1 keeps.
        """
        if goal.threshold is not None:
            return self.at(goal.threshold)
        if not self.n_positive > 0 or not len(self.scores):
            return Threshold(0.5, float("nan"), float("nan"), reached=False)
        if goal.keep is not None:
            return self._keeping(goal.keep)
        enough = self.recall >= minimum_kept - 1e-9
        if goal.precision is not None:
            good, best, nearest = self.precision >= goal.precision, self.recall, self.precision
        elif goal.recall is not None:
            good, best, nearest = self.recall >= goal.recall - 1e-9, self.precision, self.recall
        else:
            good, best, nearest = enough, self.f1, self.recall
        at = int(np.argmax(np.where(good, best, -1))) if good.any() else int(np.argmax(nearest))
        if goal == Goal() and slack is not None:
            as_good = np.flatnonzero(enough & (self.f1 >= self.f1[at] - slack))
            middle = (self.below(as_good[0]) + self.below(as_good[-1])) / 2
            # The curve is ragged: take a point of it that is as good, not whatever lies in the middle.
            at = int(min(as_good, key=lambda i: abs(self.below(i) - middle)))
        return Threshold(self.below(at), float(self.precision[at]), float(self.recall[at]), bool(good.any()))

    def _keeping(self, number: int) -> Threshold:
        fitting = np.flatnonzero(self.kept <= number + 1e-6)
        if not len(fitting):
            return Threshold(min(1.0, float(self.scores[0]) + 1e-9), float("nan"), 0.0, reached=False)
        at = int(fitting[-1])
        reached = bool(number <= self.kept[-1] + 1e-6)
        return Threshold(self.below(at), float(self.precision[at]), float(self.recall[at]), reached)

    def looser(self, than: Threshold) -> Threshold:
        """Return the threshold that loses half as many positives."""
        return self.choose(Goal(recall=(1 + than.recall) / 2))

    def stricter(self, than: Threshold) -> Threshold:
        """Return the threshold that keeps half as large a share of negatives, or the nearest to it."""
        return self.choose(Goal(precision=(1 + than.precision) / 2))


def choose_threshold(
    probabilities: Float,
    labels: Labels,
    goal: Goal,
    *,
    class_prior: float | Float = 0.0,
    micrograph: Groups | None = None,
    minimum_kept: float = 0.0,
) -> Threshold:
    """Return the threshold for a goal from labeled picks; see `Curve`.

    Parameters
    ----------
    probabilities : (n,) float
    labels : (n,) int8
        1 positive, -1 negative, 0 unlabeled.
    class_prior
        Share of positives among unlabeled picks, one for all or (n,) float, one for each pick.
    micrograph : (n,) int, optional
        Which micrograph each pick is from. With it, the threshold for the best F1 is the middle of all those within one
        standard error of F1, from a bootstrap over micrographs.
    """
    curve = Curve.labeled(probabilities, labels, class_prior)
    best = curve.choose(goal, minimum_kept=minimum_kept)
    if micrograph is None or goal != Goal() or not curve.n_positive > 0:
        return best
    slack = _chance(probabilities, labels, class_prior, micrograph, best.probability)
    return curve.choose(goal, slack=slack, minimum_kept=minimum_kept)


def guarded_share(n_positive: int) -> float:
    """Return the share of validation positives to keep so that at least `MINIMUM_KEPT` is likely kept elsewhere.

    One standard error above `MINIMUM_KEPT`, for few positives say little about the others of their project.
    """
    margin = np.sqrt(MINIMUM_KEPT * (1 - MINIMUM_KEPT) / max(n_positive, 1))
    return float(min(MINIMUM_KEPT + margin, 0.98))


def _chance(
    probabilities: Float,
    labels: Labels,
    class_prior: float | Float,
    micrograph: Groups,
    threshold: float,
) -> float:
    """Return the standard error of F1 at a threshold, from micrographs drawn with replacement; within `SLACK`."""
    positive_weight, negative_weight = class_weights(labels, class_prior)
    groups, member = np.unique(micrograph, return_inverse=True)
    kept = probabilities >= threshold
    hits, kept_negative, positives = (
        np.bincount(member, w, len(groups)) for w in (positive_weight * kept, negative_weight * kept, positive_weight)
    )
    rng = np.random.default_rng(0)
    draws = rng.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), 200)
    some_kept = np.maximum(draws @ (hits + kept_negative), 0.0)
    f1 = 2 * (draws @ hits) / np.maximum(some_kept + draws @ positives, 1e-12)
    return float(np.clip(f1.std(), *SLACK))
