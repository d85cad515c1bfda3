"""How good a detector is on micrographs whose particles are known."""

from __future__ import annotations

import math

import numpy as np

from cryoflow.detector.bundle import Detector
from cryoflow.detector.calibrate import best_threshold
from cryoflow.detector.estimate_diameter import estimate_diameter
from cryoflow.detector.loading import check_diameter, none_usable
from cryoflow.detector.pick import PickedResult, pick
from cryoflow.detector.pick_metrics import HIT, IGNORED, ScoredDetections, figures, match_outcomes
from cryoflow.detector.pick_set import items_of
from cryoflow.errors import BadInput
from cryoflow.picks import PickSet
from cryoflow.preparation.score_metrics import calibration_error

WITHIN = (0.5, 0.25)
"""Parts of the diameter within which a pick counts: the field's, and a stricter one."""


def evaluate_set(
    detector: Detector, truth: PickSet, *, diameter_A: float | None = None, limit: int | None = None
) -> dict[str, object]:
    """Pick the micrographs of a set and compare with its picks, which are taken as all particles that there are.

    Micrographs without a particle count: every pick there is wrong.

    Parameters
    ----------
    diameter_A
        None takes the set's; where that is unknown, it is estimated for picking.
    limit
        Most micrographs, evenly spread; None takes all.

    Raises
    ------
    BadInput
        Where no micrograph can be picked.
    """
    items, n_missing = items_of(truth, None)
    if limit is not None and limit < len(items):
        items = [items[i] for i in np.linspace(0, len(items) - 1, limit).round().astype(int)]
    diameter = diameter_A or truth.diameter_A or estimate_diameter(detector, items).diameter_A
    check_diameter(diameter)
    rows = {str(name): i for i, name in enumerate(truth.micrographs["name"])}
    offsets, centers = truth.offsets, truth.centers_xy_px
    scored: list[ScoredDetections] = []
    failed: list[BadInput] = []
    for result in pick(detector, items, diameter):
        if not isinstance(result, PickedResult):
            failed.append(result)
            continue
        i = rows[result.name]
        true_xy = centers[offsets[i] : offsets[i + 1]]
        across = diameter / result.pixel_size_A
        scored.append(ScoredDetections(result.xy_px, result.probability, true_xy, np.zeros((0, 2)), across))
    if not scored:
        raise none_usable(failed)
    return {
        "entry": f"{truth.provenance.project_name}/{truth.provenance.entry_name}",
        "micrographs": len(scored),
        "not_picked": len(failed) + n_missing,
        "diameter_A": round(diameter, 1),
        **figures_of(scored),
    }


def figures_of(scored: list[ScoredDetections]) -> dict[str, object]:
    """Return the figures of some micrographs as one flat record; unknown ones are None."""
    probability = np.concatenate([s.score for s in scored]) if scored else np.zeros(0)
    threshold = best_threshold(probability)[0]
    row: dict[str, object] = {"threshold": round(threshold, 4)}
    for within in WITHIN:
        of_all = figures(scored, within, threshold)
        row["true_particles"], row["picks"] = of_all.n_true, of_all.n_picks
        for name in ("average_precision", "precision", "recall", "f1", "best_f1"):
            value = float(getattr(of_all, name))
            row[f"{name}_d/{1 / within:g}"] = round(value, 4) if math.isfinite(value) else None
    outcome = np.concatenate([match_outcomes(s, WITHIN[0]) for s in scored]) if scored else np.zeros(0, np.int8)
    counted = outcome != IGNORED
    if counted.any():
        row["calibration_error"] = round(calibration_error(outcome[counted] == HIT, probability[counted]), 4)
    return row
