"""Un-picking with a detector: keep the picks that it takes for particles. No label is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cryoflow.detector.model import Detector
from cryoflow.detector.pick import score_picks
from cryoflow.errors import BadInput
from cryoflow.picks import PickSet
from cryoflow.preparation.picked import picked_micrographs
from cryoflow.unpicker.scoring import ScoredMicrograph
from cryoflow.unpicker.unpick import UnpickReport, keep_above

KEEP_FROM = 0.5
"""Least probability of a pick that is kept, where none is given: fewest picks are misjudged there."""

OnScored = Callable[[ScoredMicrograph | BadInput], None]


def unpick_with_detector(
    detector: Detector,
    picks: PickSet,
    *,
    diameter_A: float | None = None,
    threshold: float | None = None,
    on_scored: OnScored | None = None,
) -> tuple[PickSet, UnpickReport]:
    """Score the picks of a set and keep those of at least the threshold; see `cryoflow.unpicker.unpick.unpick`.

    Raises
    ------
    BadInput
        Where the particle diameter is not known, or none of the picks can be scored.
    """
    micrographs, notes = picked_micrographs(picks, diameter_A=diameter_A)
    limit = KEEP_FROM if threshold is None else threshold
    scored: list[ScoredMicrograph] = []
    failed: list[BadInput] = []
    for m in micrographs:
        result: ScoredMicrograph | BadInput
        try:
            across = diameter_A or m.diameter_A
            found: npt.NDArray[np.float64] = score_picks(detector, m.path, m.pixel_size_A, across, m.centers_xy_px)
            result = ScoredMicrograph(m, found, found >= limit)
            scored.append(result)
        except BadInput as error:
            result = error
            failed.append(error)
        if on_scored:
            on_scored(result)
    report = UnpickReport(tuple(scored), tuple(failed), tuple(notes))
    return keep_above(replace(detector, threshold=limit), picks, report), report
