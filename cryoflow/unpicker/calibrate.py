"""From scores to decisions, on validation micrographs: a temperature that makes probabilities honest, a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.unpicker.labelled import NOT_KNOWN, RIGHT, WRONG

Float = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Wanted:
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
    """Whether what was wanted could be had; else the nearest is given."""


def temperature(logits: Float, labels: Labels, *, unlabelled_right: float = 0.0) -> float:
    """The number that logits are divided by so that their probabilities fit the labels best.

    Least negative log-likelihood over 0.1 to 20. Unlabelled picks count as right and wrong in their known proportion:
    as wrong, less the share that right picks have in them. 1 where one class is missing.
    """
    from scipy.optimize import minimize_scalar

    weight_right, weight_wrong = class_weights(labels, unlabelled_right)
    if not weight_right.sum() > 0 or not weight_wrong.sum() > 0:
        return 1.0

    def loss(log_temperature: float) -> float:
        z = logits / np.exp(log_temperature)
        return float((weight_right * np.logaddexp(0, -z) + weight_wrong * np.logaddexp(0, z)).sum())

    found = minimize_scalar(loss, bounds=(np.log(0.1), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def choose_threshold(
    probabilities: Float, labels: Labels, wanted: Wanted, *, unlabelled_right: float = 0.0
) -> Threshold:
    """The threshold for what is wanted.

    Where picks are unlabelled, precision is estimated: recall (known from the right picks) times the number of right
    picks there must be, over the number that is kept.
    """
    weight_right, weight_wrong = class_weights(labels, unlabelled_right)
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order]
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    hits = np.cumsum(weight_right[order])[last]
    kept = np.maximum(hits + np.cumsum(weight_wrong[order])[last], hits)
    all_right = weight_right.sum()
    if not all_right > 0:
        return Threshold(0.5, float("nan"), float("nan"), reached=False)
    precision, recall = hits / np.maximum(kept, 1e-12), hits / all_right
    f1 = 2 * hits / (kept + all_right)
    if wanted.precision is not None:
        good, best = precision >= wanted.precision, recall
        spare = precision
    elif wanted.recall is not None:
        good, best = recall >= wanted.recall, precision
        spare = recall
    else:
        good, best = np.ones(len(f1), bool), f1
        spare = f1
    at = int(np.argmax(np.where(good, best, -1))) if good.any() else int(np.argmax(spare))
    # Half way to the next lower score: a score that is equal but for rounding falls on the same side.
    lower = ranked[last[at + 1]] if at + 1 < len(last) else 0.0
    value = (ranked[last[at]] + lower) / 2
    return Threshold(float(value), float(precision[at]), float(recall[at]), bool(good.any()))


def class_weights(labels: Labels, unlabelled_right: float) -> tuple[Float, Float]:
    """How much each pick counts as right and as wrong, (n,) each.

    A labelled pick counts once. An unlabelled one counts as wrong; the right picks that hide among them are stood for
    by the labelled right ones, which count more as right and, by as much, less than nothing as wrong.
    """
    right, wrong, unknown = labels == RIGHT, labels == WRONG, labels == NOT_KNOWN
    hidden = unlabelled_right * unknown.sum() / max(right.sum(), 1) if right.any() else 0.0
    return right * (1.0 + hidden), wrong + unknown - right * hidden
