"""Compare several pickers with one reference: a table, a figure, and the scores of every micrograph."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from cryoflow.pickers.comparing.compare import Comparison, Scores
from cryoflow.storage.files import write_if_changed
from cryoflow.storage.tab_separated import table_text

_COLUMNS = ("precision", "recall", "f1", "average_precision", "localisation_error_A")


def table_of(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return one row per entry, the best F1 first."""
    rows = [{"entry": c.entry, **_numbers(c), "micrographs": len(c.micrographs)} for c in comparisons]
    table = pd.DataFrame(rows, columns=["entry", "micrographs", "n_reference", "n_picks", "n_matched", *_COLUMNS])
    return table.sort_values("f1", ascending=False, kind="stable", ignore_index=True)


def per_micrograph(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return one row per entry and micrograph."""
    rows = [{"entry": c.entry, "micrograph": m.name, **_numbers(m)} for c in comparisons for m in c.micrographs]
    return pd.DataFrame(rows, columns=["entry", "micrograph", "n_reference", "n_picks", "n_matched", *_COLUMNS])


def write_evaluation(comparisons: Sequence[Comparison], reference: str, folder: Path) -> dict[Path, bool]:
    """Write `evaluation.tsv`, `micrographs.tsv` and `evaluation.png` into a folder; returns which files changed."""
    contents: dict[str, str | bytes] = {
        "evaluation.tsv": table_text(table_of(comparisons), "%.6g"),
        "micrographs.tsv": table_text(per_micrograph(comparisons), "%.6g"),
        "evaluation.png": plot(comparisons, reference),
    }
    return {folder / name: write_if_changed(folder / name, content) for name, content in contents.items()}


def plot(comparisons: Sequence[Comparison], reference: str) -> bytes:
    """Return a PNG: precision against recall, a curve if picks have scores; precision, recall and F1 as bars."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    colors = ("#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860", "#da8bc3", "#8c8c8c")
    figure = Figure(figsize=(10, 4.2 + 0.18 * len(comparisons)), layout="constrained")
    FigureCanvasAgg(figure)
    curves, bars = figure.subplots(1, 2)
    height = 0.8 / max(1, len(comparisons))
    for k, comparison in enumerate(comparisons):
        color = colors[k % len(colors)]
        average = f", AP {comparison.average_precision:.3f}" if comparison.curve.size else ""
        if comparison.curve.size:
            curves.plot(*comparison.curve, color=color, linewidth=1.5)
        label = f"{comparison.entry}{average}"
        curves.plot(comparison.recall, comparison.precision, "o", color=color, markersize=8, label=label)
        for place, name in enumerate(("precision", "recall", "f1")):
            value = getattr(comparison, name)
            y = place + (k - (len(comparisons) - 1) / 2) * height
            bars.barh(y, value, height * 0.92, color=color)
            bars.text(value + 0.01, y, f"{value:.3f}", va="center", fontsize=8)
    curves.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="Recall", ylabel="Precision")
    curves.grid(alpha=0.3)
    bars.set_yticks(range(3), ["Precision", "Recall", "F1"])
    bars.set(xlim=(0, 1.14))
    bars.set_xticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    bars.invert_yaxis()
    for side in ("top", "right"):
        bars.spines[side].set_visible(False)
    radius = f"within {comparisons[0].radius_A:.3g} Å" if comparisons else ""
    figure.suptitle(f"Against {reference}, {radius}", fontsize=11)
    figure.legend(*curves.get_legend_handles_labels(), loc="outside lower center", frameon=False, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=130, metadata={"Software": ""})
    return picture.getvalue()


def _numbers(scores: Scores) -> dict[str, float]:
    return {name: getattr(scores, name) for name in ("n_reference", "n_picks", "n_matched", *_COLUMNS)}
