"""Decisions: the threshold that the picks of one project are kept by, and which picks are doubtful."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.calibration import (
    Curve,
    Goal,
    Threshold,
)
from cryoflow.unpicker.operating_point import OperatingPoint

Float = npt.NDArray[np.float64]

DOUBTFUL = (0.3, 0.7)
"""Band of calibrated probabilities in which picks count as doubtful: nearly one in two such decisions is wrong."""


JOB_TYPE = "cryoflow.unpicker"
"""Of entries of picks that were un-picked."""

DOUBTFUL_SUFFIX = "doubtful"
"""Of entries of doubtful picks, kept or not."""


@dataclass(frozen=True)
class Decision:
    """Decision rule for the picks of one project, with a looser and a stricter alternative.

    Attributes
    ----------
    source
        Where the threshold is from: `validation micrographs`, `expected F1`, or what was asked for.
    precision, recall
        Estimated: on validation micrographs where the project has some, else from the probabilities.
    looser, stricter
        Threshold and number of picks that it would keep.
    shortfall
        How far the goal of this run was missed, a sentence; "" where it was reached.
    """

    project: str
    threshold: float
    source: str
    precision: float
    recall: float
    n_picks: int
    n_kept: int
    n_doubtful: int
    looser: tuple[float, int]
    stricter: tuple[float, int]
    reached: bool = True
    shortfall: str = ""

    def note(self) -> str:
        """Return the decision as a sentence for the entry's notes."""
        loose, strict = self.looser, self.stricter
        return (
            f"threshold {self.threshold:.3f} from {self.source}: kept {self.n_kept} of {self.n_picks} picks; "
            f"{self.n_doubtful} picks are doubtful, kept or not; {loose[0]:.3f} would keep {loose[1]}, "
            f"{strict[0]:.3f} would keep {strict[1]}"
        )


def decision_for(project: str, point: OperatingPoint | None, probabilities: Float, goal: Goal) -> Decision:
    """Choose the threshold for the picks of one project.

    Parameters
    ----------
    point
        The model's operating point of that project, None where it did not learn from it.
    probabilities : (n,)
        Of all its picks, calibrated; NaN where a pick could not be scored.
    """
    p = probabilities[np.isfinite(probabilities)]
    curve = Curve.expected(p)
    if goal == Goal() and point is not None:
        chosen = Threshold(point.threshold, point.precision, point.recall, point.goal_reached)
        source = "validation micrographs"
    else:
        chosen = curve.choose(goal)
        source = "expected F1" if goal == Goal() else str(goal)

    def count(threshold: float) -> int:
        return int((p >= threshold).sum())

    expected = curve.at(chosen.probability) if len(p) else chosen
    alternatives = [
        min(curve.looser(expected).probability, chosen.probability),
        max(curve.stricter(expected).probability, chosen.probability),
    ]
    looser, stricter = ((t, count(t)) for t in alternatives)
    return Decision(
        project,
        chosen.probability,
        source,
        chosen.precision,
        chosen.recall,
        len(p),
        count(chosen.probability),
        int(is_doubtful(p).sum()),
        looser,
        stricter,
        chosen.reached,
        _shortfall(project, goal, chosen, count(chosen.probability), len(p)),
    )


def _shortfall(project: str, goal: Goal, chosen: Threshold, n_kept: int, n_picks: int) -> str:
    # A default goal that a training missed is printed by the training.
    if chosen.reached or goal == Goal():
        return ""
    kept = f"{n_kept} of {n_picks} picks are kept"
    if goal.keep is not None:
        return f"{project}: {goal.keep} picks cannot be kept; {kept}"
    expected = f", at an expected precision of {chosen.precision:.2f} and recall of {chosen.recall:.2f}"
    return f"{project}: a {goal} cannot be reached; {kept}{expected if np.isfinite(chosen.precision) else ''}"


def is_doubtful(probabilities: Float) -> npt.NDArray[np.bool_]:
    """Return which picks are doubtful."""
    low, high = DOUBTFUL
    with np.errstate(invalid="ignore"):
        doubtful: npt.NDArray[np.bool_] = (probabilities >= low) & (probabilities < high)
    return doubtful
