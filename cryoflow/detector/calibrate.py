"""Calibration of a detector's logits, and a threshold that needs no labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.calibration import Calibration, Curve, log_loss

Float = npt.NDArray[np.float64]

LISTED_PROBABILITY = 0.05
"""No derived threshold is lower: there are thousands of such peaks, and hardly one is right."""

SPREAD_OF_OFFSETS = 2.5
"""Standard deviation of the offsets that `best_threshold` averages over.

Chosen on validation specimens of the trained families: a larger one loses precision there for no gain in F1.
"""

_PRIOR_LOG_SCALE, _PRIOR_BIAS = 1.0, 5.0
"""Standard deviations of the prior about a calibration that changes nothing."""
_N_OFFSETS = 9
_SMALLEST = 1e-6


def fit_calibration(logit: Float, hit: npt.NDArray[np.bool_]) -> Calibration:
    """Return the likeliest calibration; the plain one where only one kind of peak is there.

    It has a bias too: the focal loss leaves logits too low as well as too flat. A weak Gaussian prior about the plain
    one keeps the probabilities of a few peaks, which some threshold may separate without an error, from becoming 0
    and 1; beside hundreds of peaks it does not count.

    Parameters
    ----------
    logit : (n,) float
        Of peaks.
    hit : (n,) bool
        Whether each peak is a particle.
    """
    from scipy.optimize import minimize

    if not hit.any() or hit.all():
        return Calibration()
    right: Float = hit.astype(np.float64)

    def loss(x: Float) -> float:
        prior = 0.5 * (x[0] / _PRIOR_LOG_SCALE) ** 2 + 0.5 * (x[1] / _PRIOR_BIAS) ** 2
        return float(log_loss(logit * np.exp(x[0]) + x[1], right, 1 - right) + prior) / len(right)

    found = minimize(loss, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7, "maxiter": 2000})
    return Calibration(float(np.exp(-found.x[0])), float(found.x[1]))


def expected_f1_threshold(probability: npt.ArrayLike) -> tuple[float, float]:
    """Return the threshold of the greatest expected F1, and that F1, from calibrated probabilities alone.

    Keeping the n best picks, sum(p of these) of them are expected to be right, of sum(all p) particles that were
    listed: F1 = 2 sum(p of these) / (n + sum(all p)).

    Parameters
    ----------
    probability : (n,) float
        Calibrated, in any order.
    """
    curve = Curve.expected(np.asarray(probability, np.float64).ravel())
    if not len(curve.scores):
        return 0.5, 0.0
    best = int(np.argmax(curve.f1))
    return curve.below(best), float(curve.f1[best])


def best_threshold(probability: npt.ArrayLike) -> tuple[float, float]:
    """Return the threshold for picks of one specimen, and the F1 that their probabilities promise at it.

    Probabilities are right for many specimens together; those of one specimen are too high or too low by a common
    offset of the logit, which no label tells. The threshold has the greatest expected F1 averaged over offsets from a
    normal distribution, and is at least `LISTED_PROBABILITY`. It is lower than the one of `expected_f1_threshold`
    where scores are low: hundreds of particles of a faint specimen are lost otherwise, for few wrong picks.

    Parameters
    ----------
    probability : (n,) float
        Calibrated, in any order.
    """
    p = np.sort(np.asarray(probability, np.float64).ravel())[::-1]
    if not len(p):
        return 0.5, 0.0
    logit = np.log(np.clip(p, _SMALLEST, 1 - _SMALLEST)) - np.log1p(-np.clip(p, _SMALLEST, 1 - _SMALLEST))
    kept = np.arange(1, len(p) + 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_N_OFFSETS)
    mean_f1 = np.zeros(len(p))
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        hits = np.cumsum(1 / (1 + np.exp(-(logit + SPREAD_OF_OFFSETS * node))))
        mean_f1 += weight * 2 * hits / (kept + hits[-1])
    best = int(np.argmax(mean_f1))
    lower = p[best + 1] if best + 1 < len(p) else 0.0
    threshold = max(float(p[best] + lower) / 2, LISTED_PROBABILITY)
    n_kept = int((p >= threshold).sum())
    return threshold, float(2 * p[:n_kept].sum() / (n_kept + p.sum()))
