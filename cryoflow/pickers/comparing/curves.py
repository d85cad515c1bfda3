"""Training curves, read from what the pickers leave behind, and drawn."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pandas as pd

from cryoflow.storage import inputs
from cryoflow.storage.files import write_if_changed

COLUMNS = ("epoch", "split", "metric", "value")
_EPOCH = re.compile(r"^Epoch (\d+)/\d+", re.MULTILINE)
_CENTERNET = re.compile(r"epoch: (\d+) \|(?:.*\|)?\s*loss +([-+]?(?:\d[\d.eE+-]*|nan|inf)) *\|")
_METRIC = re.compile(r"(?<![\w.])(val_)?(loss): ([-+.\deEinfa]+)")


def keras_curve(log: Path) -> pd.DataFrame:
    """Return loss and validation loss by epoch, from the log of a Keras 2 training (crYOLO's).

    Keras redraws one line many times; the last value of an epoch counts.
    """
    try:
        text = inputs.read_text(log, errors="replace").replace("\b", "")
    except OSError:  # a training is not lost for want of its curve
        text = ""
    starts = list(_EPOCH.finditer(text))
    rows: dict[tuple[int, str], float] = {}
    for start, following in zip(starts, [*starts[1:], None], strict=False):
        part = text[start.end() : following.start() if following else len(text)]
        for validation, _, value in _METRIC.findall(part):
            try:
                rows[int(start.group(1)), "validation" if validation else "train"] = float(value)
            except ValueError:
                continue
    return pd.DataFrame(
        [(epoch, split, "loss", value) for (epoch, split), value in rows.items()], columns=list(COLUMNS)
    )


def centernet_curve(log: Path) -> pd.DataFrame:
    """Return loss by epoch, from the log of a CenterNet training (EPicker's): `TIME: epoch: 3 |loss 0.25 | hm_loss ...
    |`."""
    try:
        text = inputs.read_text(log, errors="replace")
    except OSError:
        return pd.DataFrame(columns=list(COLUMNS))
    rows = [(int(m[1]), "train", "loss", float(m[2])) for m in _CENTERNET.finditer(text)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def topaz_curve(table: Path) -> pd.DataFrame:
    """Return all metrics by epoch, from the table of `topaz train -o`: the mean of an epoch's iterations for
    training."""
    try:
        with inputs.opened_table(table) as file:
            wide = pd.read_csv(file, sep="\t", na_values=["-"])
        metrics = [c for c in wide.columns if c not in ("epoch", "iter", "split")]
        long = wide.melt(id_vars=["epoch", "split"], value_vars=metrics, var_name="metric").dropna()
    except (OSError, ValueError, KeyError):  # a training is not lost for want of its curve
        return pd.DataFrame(columns=list(COLUMNS))
    long["split"] = long["split"].map({"train": "train", "test": "validation"})
    long["value"] = pd.to_numeric(long["value"], errors="coerce")
    means = long.groupby(["metric", "split", "epoch"])["value"].mean().reset_index()
    return means[list(COLUMNS)]


def plot_curve(curve: pd.DataFrame, title: str, path: Path) -> None:
    """Draw a training curve as PNG: loss, and the area under the precision-recall curve where there is one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    metrics = [m for m in ("loss", "auprc") if m in set(curve["metric"])]
    figure = Figure(figsize=(4.5 * len(metrics), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    names = {"loss": "Loss", "auprc": "Area under precision-recall curve"}
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        for split, color, marker in (("train", "#4c72b0", "o"), ("validation", "#dd8452", "s")):
            part = curve[(curve["metric"] == metric) & (curve["split"] == split)].sort_values("epoch")
            if len(part):
                axes.plot(part["epoch"], part["value"], color=color, marker=marker, markersize=3, label=split)
        axes.set_xlabel("Epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(names[metric])
        axes.legend(frameon=False)
    figure.suptitle(title)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120, metadata={"Software": ""})
    write_if_changed(path, picture.getvalue())
