"""Charts: learning curves, precision and recall, calibration, and histograms of scores, as matplotlib Figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cryoflow.drawing.figures import FAINT, INK, KEPT, NEUTRAL, REMOVED, dress, new_figure, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curves(history: Mapping[str, Sequence[float]], *, best_epoch: int | None = None) -> Figure:
    """Return loss, and what else was recorded, by epoch; training dashed, validation solid. Names are Keras'
    (`val_...`)."""
    from matplotlib.ticker import MaxNLocator

    names = [n for n in history if not n.startswith("val_") and n not in ("learning_rate", "epoch")]
    figure = new_figure((3.6 * max(1, len(names)), 2.7))
    for k, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), k + 1)
        for key, style, label in ((name, "--", "training"), (f"val_{name}", "-", "validation")):
            if len(values := history.get(key, ())):
                axes.plot(np.arange(1, len(values) + 1), values, style, color=NEUTRAL, lw=1.6, label=label)
        if best_epoch:
            axes.axvline(best_epoch, color=FAINT, lw=0.8, ls=":")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        dress(axes, name.replace("_", " "), "epoch", "")
        axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    return figure


@dataclass(frozen=True)
class PlotLine:
    """One line of a plot, with a point on it marked where `at` gives its x and y."""

    x: npt.NDArray[np.float64]
    y: npt.NDArray[np.float64]
    label: str
    color: str = NEUTRAL
    at: tuple[float, float] | None = None


def precision_recall(curves: Sequence[PlotLine], *, title: str = "precision and recall") -> Figure:
    """Return precision against recall, one line a set of picks; the chosen threshold as a dot."""
    figure = new_figure((3.8, 3.4))
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(curve.x, curve.y, color=curve.color, lw=1.7, label=shown(curve.label))
        if curve.at:
            axes.plot(*curve.at, "o", color=curve.color, ms=6, mec="white")
    axes.set_xlim(0, 1.01)
    axes.set_ylim(0, 1.01)
    dress(axes, title, "recall", "precision")
    axes.legend(frameon=False, fontsize=7, loc="lower left")
    figure.tight_layout()
    return figure


def calibration(curves: Sequence[PlotLine]) -> Figure:
    """Return observed fraction of positives against predicted probability; the diagonal is what honest numbers
    give."""
    figure = new_figure((3.8, 3.4))
    axes = figure.add_subplot()
    axes.plot((0, 1), (0, 1), color=FAINT, lw=0.8, ls=":")
    for curve in curves:
        axes.plot(curve.x, curve.y, "o-", color=curve.color, lw=1.4, ms=4, label=shown(curve.label), clip_on=False)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    dress(axes, "calibration", "predicted probability", "fraction of positives")
    axes.legend(frameon=False, fontsize=7, loc="upper left")
    figure.tight_layout()
    return figure


def score_histogram(
    scores: npt.NDArray[np.float64],
    is_positive: npt.NDArray[np.bool_] | None = None,
    *,
    threshold: float | None = None,
    name: str = "score",
) -> Figure:
    """Return how scores are spread, positive and negative picks apart where labels are given, with the threshold."""
    figure = new_figure((4.4, 2.8))
    axes = figure.add_subplot()
    bins: list[float] = (np.histogram_bin_edges(scores, bins=40) if len(scores) else np.linspace(0, 1, 41)).tolist()
    if is_positive is None:
        axes.hist(scores, bins=bins, color=NEUTRAL, alpha=0.8)
    else:
        axes.hist(scores[~is_positive], bins=bins, color=REMOVED, alpha=0.6, label="negative")
        axes.hist(scores[is_positive], bins=bins, color=KEPT, alpha=0.6, label="positive")
        axes.legend(frameon=False, fontsize=7)
    if threshold is not None:
        axes.axvline(threshold, color=INK, lw=1, ls="--")
        axes.text(threshold, axes.get_ylim()[1], f" {threshold:.3g}", fontsize=7, va="top", color=INK)
    dress(axes, f"{name} of all picks", name, "picks")
    figure.tight_layout()
    return figure
