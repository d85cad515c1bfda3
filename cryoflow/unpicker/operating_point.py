"""What a trained network decides by: temperature and threshold from validation micrographs, and how good they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.calibration import choose_threshold, estimate_class_prior, temperature
from cryoflow.preparation.metrics import Counts, average_precision, calibration_error, roc_auc
from cryoflow.preparation.picked import NEGATIVE, POSITIVE, UNLABELED
from cryoflow.unpicker.bundle import ModelBundle, sigmoid
from cryoflow.unpicker.train_options import TrainOptions


def with_decision(
    bundle: ModelBundle,
    logits: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int8],
    options: TrainOptions,
    *,
    micrograph: npt.NDArray[np.integer] | None = None,
) -> ModelBundle:
    """A bundle with temperature, threshold and metrics from the logits of its validation micrographs.

    Parameters
    ----------
    micrograph : (n,) int, optional
        Which micrograph each pick is from, so that the threshold does not hang on one of them.
    """
    share = estimate_class_prior(logits, labels, at_most=options.class_prior)
    heat = temperature(logits, labels, class_prior=share)
    probabilities = sigmoid(logits / heat)
    chosen = choose_threshold(probabilities, labels, options.goal, class_prior=share, micrograph=micrograph)
    return replace(
        bundle,
        temperature=heat,
        threshold=chosen.probability,
        metrics={
            **{f"validation_{k}": v for k, v in measured(probabilities, labels, chosen.probability).items()},
            "validation_precision_estimated": chosen.precision,
            "validation_recall_estimated": chosen.recall,
            "goal_reached": float(chosen.reached),
            "class_prior_estimated": share,
        },
    )


def measured(
    probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int8], threshold: float
) -> dict[str, float]:
    """Numbers about labeled picks; where none is labeled wrong, those not known stand in for them."""
    scored = labels != UNLABELED if (labels == NEGATIVE).any() else np.ones(len(labels), bool)
    right, p = labels[scored] == POSITIVE, probabilities[scored]
    counts = Counts.of(right, p >= threshold)
    return {
        "n": float(len(p)),
        "error": counts.error,
        "precision": counts.precision,
        "recall": counts.recall,
        "f1": counts.f1,
        "roc_auc": roc_auc(right, p),
        "average_precision": average_precision(right, p),
        "calibration_error": calibration_error(right, p),
    }
