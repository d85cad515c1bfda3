"""Operating points: how a model turns logits into probabilities and decisions, for each project that it learned from.

Every project has its own calibration and threshold, from its own validation micrographs and shrunk towards those of all
projects where it has few labels. Picks of other projects are decided by the expected F1 of their own probabilities.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.calibration import (
    Calibration,
    Curve,
    Goal,
    Threshold,
    choose_threshold,
    fit_project,
    fit_temperature,
    guarded_share,
)
from cryoflow.preparation.class_prior import ClassPrior, estimate_class_prior
from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED
from cryoflow.preparation.score_metrics import Counts, average_precision, calibration_error, roc_auc

Float = npt.NDArray[np.float64]


_SHRINKAGE_PICKS = 40
"""Positives at which the threshold of a project and that of all projects have the same weight."""
_CURVE_POINTS = 40


@dataclass(frozen=True)
class OperatingPoint:
    """Calibration and threshold of a model for the picks of one project.

    Attributes
    ----------
    temperature, bias
        Probability = sigmoid(logit / temperature + bias).
    threshold
        Picks of at least this probability are kept.
    precision, recall
        Estimated on validation micrographs, at the threshold.
    n_positive, n_negative, n_unlabeled
        Picks of validation micrographs.
    class_prior, class_prior_low, class_prior_high
        Estimated share of positives among unlabeled picks, with its 95 % interval.
    goal_reached
        Whether a threshold reaches the goal.
    curve
        Rows of (threshold, share of picks kept, precision, recall) on validation micrographs.
    """

    temperature: float = 1.0
    bias: float = 0.0
    threshold: float = 0.5
    precision: float = float("nan")
    recall: float = float("nan")
    n_positive: int = 0
    n_negative: int = 0
    n_unlabeled: int = 0
    class_prior: float = 0.0
    class_prior_low: float = 0.0
    class_prior_high: float = 0.0
    goal_reached: bool = True
    curve: tuple[tuple[float, float, float, float], ...] = ()

    @property
    def calibration(self) -> Calibration:
        """Return temperature and bias."""
        return Calibration(self.temperature, self.bias)

    def alternatives(self) -> dict[str, tuple[float, float, float, float]]:
        """Return the rows of the curve to choose from: a looser one, the chosen one, a stricter one.

        The looser one loses half as many positives, the stricter one keeps half as large a share of negatives, as far
        as the curve goes.
        """
        if not self.curve:
            return {}
        chosen = min(self.curve, key=lambda row: abs(row[0] - self.threshold))
        kept = max((row for row in self.curve if row[0] >= self.threshold), key=lambda row: row[1], default=chosen)
        looser = [row for row in self.curve if row[3] >= (1 + self.recall) / 2]
        stricter = [row for row in self.curve if row[2] >= (1 + self.precision) / 2]
        return {
            "looser": min(looser, key=lambda row: row[3], default=self.curve[-1]),
            "chosen": (self.threshold, kept[1], self.precision, self.recall),
            "stricter": max(stricter, key=lambda row: row[3], default=self.curve[0]),
        }

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> OperatingPoint:
        """Build the point that `to_json` described.

        Raises
        ------
        ValueError, TypeError
            Where a field is missing, unknown or not a number.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        if set(values) != fields:
            raise ValueError(f"an operating point with fields {sorted(values)}")
        known = dict(values)
        curve = known.pop("curve")
        numbers = {k: float("nan") if v is None else v for k, v in known.items()}
        if not all(isinstance(v, bool | int | float) for v in numbers.values()) or not isinstance(curve, list):
            raise ValueError("an operating point with values that are no numbers")
        return cls(**numbers, curve=tuple(tuple(float(v) for v in row) for row in curve))  # type: ignore[arg-type,misc]


@dataclass(frozen=True)
class Decided:
    """Operating points from the validation micrographs: the pooled one, that of each project, and measures."""

    pooled: OperatingPoint
    projects: Mapping[str, OperatingPoint]
    metrics: Mapping[str, float]


def decide(
    logits: Float,
    labels: npt.NDArray[np.int8],
    project: npt.NDArray[np.str_],
    micrograph: npt.NDArray[np.integer],
    *,
    goal: Goal,
    at_most: float,
) -> Decided:
    """Choose calibrations and thresholds from the logits of validation micrographs.

    Parameters
    ----------
    project, micrograph : (n,)
        Which project and which micrograph each pick is from.
    at_most
        Upper limit of the class prior.
    """
    priors = class_priors(logits, labels, project, micrograph, at_most=at_most)
    prior_of_pick = np.array([priors[name].value for name in project.tolist()], np.float64)
    pooled_calibration = fit_temperature(logits, labels, class_prior=prior_of_pick)
    pooled = _pooled_point(pooled_calibration, logits, labels, prior_of_pick, micrograph, goal)
    projects = {}
    probabilities = np.zeros(len(logits))
    kept = np.zeros(len(logits), bool)
    for name in np.unique(project).tolist():
        mine = project == name
        point = _project_point(pooled, logits[mine], labels[mine], priors[name], micrograph[mine], goal)
        projects[name] = point
        probabilities[mine] = point.calibration.probabilities(logits[mine])
        kept[mine] = probabilities[mine] >= point.threshold
    metrics = {f"validation_{k}": v for k, v in measured(probabilities, labels, kept).items()}
    return Decided(pooled, projects, metrics)


def class_priors(
    logits: Float,
    labels: npt.NDArray[np.int8],
    project: npt.NDArray[np.str_],
    micrograph: npt.NDArray[np.integer],
    *,
    at_most: float,
) -> dict[str, ClassPrior]:
    """Estimate the class prior of each project; where it has fewer than 10 picks of either kind, that of all."""
    pooled: ClassPrior | None = None
    priors = {}
    for name in np.unique(project).tolist():
        mine = project == name
        n_unlabeled, n_positive = ((labels[mine] == label).sum() for label in (UNLABELED, POSITIVE))
        if n_unlabeled and min(n_unlabeled, n_positive) < 10:
            pooled = pooled or estimate_class_prior(logits, labels, at_most=at_most, micrograph=micrograph)
            priors[name] = pooled
        else:
            priors[name] = estimate_class_prior(
                logits[mine], labels[mine], at_most=at_most, micrograph=micrograph[mine]
            )
    return priors


def _pooled_point(
    calibration: Calibration,
    logits: Float,
    labels: npt.NDArray[np.int8],
    prior_of_pick: Float,
    micrograph: npt.NDArray[np.integer],
    goal: Goal,
) -> OperatingPoint:
    probabilities = calibration.probabilities(logits)
    guard = guarded_share(int((labels == POSITIVE).sum())) if goal == Goal() else 0.0
    chosen = choose_threshold(
        probabilities, labels, goal, class_prior=prior_of_pick, micrograph=micrograph, minimum_kept=guard
    )
    unlabeled = labels == UNLABELED
    prior = float(prior_of_pick[unlabeled].mean()) if unlabeled.any() else 0.0
    return _point(calibration, chosen, probabilities, labels, ClassPrior(prior, prior, prior))


def _project_point(
    pooled: OperatingPoint,
    logits: Float,
    labels: npt.NDArray[np.int8],
    prior: ClassPrior,
    micrograph: npt.NDArray[np.integer],
    goal: Goal,
) -> OperatingPoint:
    n_positive = int((labels == POSITIVE).sum())
    calibration = fit_project(logits, labels, pooled.calibration, class_prior=prior.value)
    probabilities = calibration.probabilities(logits)
    if not n_positive:
        chosen = Curve.expected(probabilities).choose(goal)
        return _point(calibration, chosen, probabilities, labels, prior)
    guard = guarded_share(n_positive) if goal == Goal() else 0.0
    chosen = choose_threshold(
        probabilities, labels, goal, class_prior=prior.value, micrograph=micrograph, minimum_kept=guard
    )
    curve = Curve.labeled(probabilities, labels, prior.value)
    if goal == Goal():
        weight = n_positive / (n_positive + _SHRINKAGE_PICKS)
        shrunk = weight * chosen.probability + (1 - weight) * pooled.threshold
        # The mean with the threshold of all projects must not cost this one its particles.
        most = curve.choose(Goal(recall=guard)).probability
        chosen = replace(curve.at(min(shrunk, most)), reached=chosen.reached)
    return _point(calibration, chosen, probabilities, labels, prior)


def _point(
    calibration: Calibration, chosen: Threshold, probabilities: Float, labels: npt.NDArray[np.int8], prior: ClassPrior
) -> OperatingPoint:
    curve = Curve.labeled(probabilities, labels, prior.value)
    total = max(float(curve.kept[-1]), 1e-12) if len(curve.kept) else 1.0
    rows = np.unique(np.linspace(0, len(curve.scores) - 1, _CURVE_POINTS).round().astype(int)) if total else ()
    return OperatingPoint(
        calibration.temperature,
        calibration.bias,
        chosen.probability,
        chosen.precision,
        chosen.recall,
        int((labels == POSITIVE).sum()),
        int((labels == NEGATIVE).sum()),
        int((labels == UNLABELED).sum()),
        prior.value,
        prior.low,
        prior.high,
        chosen.reached,
        tuple(
            (curve.below(i), float(curve.kept[i] / total), float(curve.precision[i]), float(curve.recall[i]))
            for i in rows
        ),
    )


def measured(probabilities: Float, labels: npt.NDArray[np.int8], kept: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return measures of labeled picks; where none is labeled negative, unlabeled ones count as negative."""
    known = labels != UNLABELED if (labels == NEGATIVE).any() else np.ones(len(labels), bool)
    positive, p = labels[known] == POSITIVE, probabilities[known]
    counts = Counts.of(positive, kept[known])
    return {
        "n": float(len(p)),
        "error": counts.error,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "roc_auc": roc_auc(positive, p),
        "average_precision": average_precision(positive, p),
        "calibration_error": calibration_error(positive, p),
    }
