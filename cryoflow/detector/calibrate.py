"""Calibration of a detector's logits, and a threshold that needs no labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.calibration import Calibration, Curve, log_loss

Float = npt.NDArray[np.float64]

LISTED_PROBABILITY = 0.05
"""No derived threshold is lower: there are thousands of such peaks, and hardly one is right."""


def fit_calibration(logit: Float, hit: npt.NDArray[np.bool_]) -> Calibration:
    """Return the calibration of least negative log-likelihood; the plain one where only one kind of peak is there.

    It has a bias too: the focal loss leaves logits too low as well as too flat.
    """
    from scipy.optimize import minimize

    if not hit.any() or hit.all():
        return Calibration()
    right: Float = hit.astype(np.float64)

    def loss(x: Float) -> float:
        return log_loss(logit * np.exp(x[0]) + x[1], right, 1 - right) / len(right)

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7, "maxiter": 2000})
    return Calibration(float(np.exp(-found.x[0])), float(found.x[1]))


def expected_f1_threshold(probability: npt.ArrayLike) -> tuple[float, float]:
    """Return the threshold of the greatest expected F1, and that F1, from calibrated probabilities alone.

    Keeping the n best picks, sum(p of these) of them are expected to be right, of sum(all p) particles that were
    listed: F1 = 2 sum(p of these) / (n + sum(all p)).
    """
    curve = Curve.expected(np.asarray(probability, np.float64).ravel())
    if not len(curve.scores):
        return 0.5, 0.0
    best = int(np.argmax(curve.f1))
    return curve.below(best), float(curve.f1[best])


def best_threshold(probability: npt.ArrayLike) -> tuple[float, float]:
    """Return the threshold of the greatest expected F1, at least `LISTED_PROBABILITY`, and that F1."""
    threshold, f1 = expected_f1_threshold(probability)
    return max(threshold, LISTED_PROBABILITY), f1
