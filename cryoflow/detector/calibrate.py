"""From logits to probabilities that mean what they say, and a threshold that needs no labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

LISTED_PROBABILITY = 0.05
"""No derived threshold is lower: there are thousands of such peaks, and hardly one is right."""


@dataclass(frozen=True)
class DetectorCalibration:
    """probability = sigmoid(logit / temperature + offset): the focal loss leaves logits too low as well as too flat."""

    temperature: float = 1.0
    offset: float = 0.0

    def probability(self, logit: npt.ArrayLike) -> Float:
        """Return the calibrated probability of logits."""
        from scipy.special import expit

        probability: Float = expit(np.asarray(logit, np.float64) / self.temperature + self.offset)
        return probability


def fit_calibration(
    logit: Float, hit: npt.NDArray[np.bool_], weight: npt.NDArray[np.floating] | None = None
) -> DetectorCalibration:
    """Return the calibration of least negative log-likelihood; the plain one where only one kind of peak is there."""
    from scipy.optimize import minimize

    if not hit.any() or hit.all():
        return DetectorCalibration()
    w = np.ones(len(logit)) if weight is None else np.asarray(weight, np.float64)

    def loss(x: Float) -> float:
        z = logit * np.exp(x[0]) + x[1]
        return float((w * np.where(hit, np.logaddexp(0, -z), np.logaddexp(0, z))).sum() / w.sum())

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7, "maxiter": 2000})
    return DetectorCalibration(float(np.exp(-found.x[0])), float(found.x[1]))


def expected_f1_threshold(probability: npt.ArrayLike) -> tuple[float, float]:
    """Return the threshold of the greatest expected F1, and that F1, from calibrated probabilities alone.

    Keeping the n best picks, sum(p of these) of them are expected to be right, of sum(all p) particles that were
    listed: F1 = 2 sum(p of these) / (n + sum(all p)).
    """
    p = -np.sort(-np.asarray(probability, np.float64).ravel())
    if not len(p):
        return 0.5, 0.0
    f1 = 2 * np.cumsum(p) / (np.arange(1, len(p) + 1) + p.sum())
    best = int(np.argmax(f1))
    lower = p[best + 1] if best + 1 < len(p) else 0.0
    return float((p[best] + lower) / 2), float(f1[best])


def best_threshold(probability: npt.ArrayLike) -> tuple[float, float]:
    """Return the threshold of the greatest expected F1, at least `LISTED_PROBABILITY`, and that F1."""
    threshold, f1 = expected_f1_threshold(probability)
    return max(threshold, LISTED_PROBABILITY), f1
