"""Un-picking with a detector: keep the picks that it takes for particles. No label is needed."""

from __future__ import annotations

from cryoflow.detector.bundle import Detector
from cryoflow.detector.pick import score_picks
from cryoflow.errors import BadInput
from cryoflow.picks import PickSet
from cryoflow.preparation.calibration import Goal
from cryoflow.preparation.picked_micrograph import picked_micrographs
from cryoflow.shards import OnProgress
from cryoflow.unpicker.scoring import OnScored, Result, ScoredMicrograph
from cryoflow.unpicker.unpick import UnpickReport, keep_above, report_of

KEEP_FROM = 0.5
"""Least probability of a pick that is kept, where no goal is given: fewest picks are misjudged there."""


def unpick_with_detector(
    detector: Detector,
    picks: PickSet,
    *,
    diameter_A: float | None = None,
    goal: Goal | None = None,
    on_progress: OnProgress | None = None,
    on_scored: OnScored | None = None,
) -> tuple[PickSet, UnpickReport]:
    """Score the picks of a set and keep the good ones; see `cryoflow.unpicker.unpick.unpick`.

    Parameters
    ----------
    goal
        Aim of the threshold: precision and recall are those that the calibrated probabilities promise.

    Raises
    ------
    BadInput
        Where the particle diameter is not known, or none of the picks can be scored.
    """
    micrographs, notes = picked_micrographs(picks, diameter_A=diameter_A)
    results: list[Result] = []
    for m in micrographs:
        try:
            across = diameter_A or m.diameter_A
            probability = score_picks(detector, m.path, m.pixel_size_A, across, m.centers_xy_px)
            results.append(ScoredMicrograph(m, probability, probability >= KEEP_FROM))
        except BadInput as error:
            results.append(error)
        if on_progress:
            on_progress(len(results), len(micrographs))
    aim = Goal(threshold=KEEP_FROM) if goal is None or goal == Goal() else goal
    report = report_of({}, results, aim, notes, on_scored)
    return keep_above(detector, picks, report), report
