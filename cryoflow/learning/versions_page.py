"""One HTML page about models that keep learning.

For each model: which version is in use and why, what each version learned, which projects are quarantined, and F1 of
each project by version as table and plot.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.errors import BadInput
from cryoflow.learning.update import QUARANTINE
from cryoflow.learning.update_records import read_quarantined
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import ModelVersion, version_name
from cryoflow.storage.files import write_atomically
from cryoflow.storage.folders import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "learning.html"
DRAWN_PROJECTS = 40
"""Projects with a line of their own; of more, those whose F1 fell most since it was first measured are drawn."""
_COLORS = 8
_STYLES = ("o-", "s--", "^:", "d-.")
LISTED_PROJECTS = 20
"""Projects named as new in a version."""
LISTED_VERSIONS = 12
"""Newest versions with a column of their own."""


def f1_over_time(versions: Sequence[ModelVersion]) -> dict[str, list[float]]:
    """Return project -> F1 of each version on its held-out micrographs, NaN where it was not measured."""
    projects = sorted({p for v in versions for p in v.card.metrics})
    nan = float("nan")
    return {p: [v.card.metrics.get(p, {}).get("f1", nan) for v in versions] for p in projects}


def newly_learned(versions: Sequence[ModelVersion]) -> list[list[str]]:
    """Return the projects of each version that are new, or changed, since the last accepted version before it."""
    found: list[list[str]] = []
    before: dict[str, str] = {}
    for v in versions:
        learned = {t.project: t.fingerprint for t in v.card.trained_on}
        found.append(sorted(p for p, fingerprint in learned.items() if before.get(p) != fingerprint))
        if v.card.status == "accepted":
            before = learned
    return found


def fall(values: Sequence[float]) -> float:
    """Return how far F1 fell from its first value to its last.

    >>> round(fall([float("nan"), 0.9, 0.95, 0.8]), 3)
    0.1
    """
    measured = [v for v in values if math.isfinite(v)]
    return measured[0] - measured[-1] if measured else 0.0


def draw(versions: Sequence[ModelVersion]) -> Figure:
    """Draw F1 of each project by version: flat lines forget nothing."""
    from cryoflow.drawing.figures import dress, new_figure, shown

    figure = new_figure((8, 4.5))
    axes = figure.add_subplot()
    lines = sorted(f1_over_time(versions).items(), key=lambda item: -fall(item[1]))[:DRAWN_PROJECTS]
    numbers = [v.number for v in versions]
    for i, (project, values) in enumerate(sorted(lines)):
        style = _STYLES[i // _COLORS % len(_STYLES)]  # colors repeat
        axes.plot(numbers, values, style, color=f"C{i % _COLORS}", markersize=3, linewidth=1, label=shown(project))
    axes.set_xticks(numbers[:: max(1, len(numbers) // 12)])
    axes.set_ylim(0, 1.02)
    dress(axes, "F1 on held-out micrographs", "version", "F1")
    if 0 < len(lines) <= 12:
        axes.legend(fontsize=7)
    return figure


def write_page(registry: ModelRegistry, names: Sequence[str], notes: Sequence[str] = ()) -> Path:
    """Write the page of some models beside them, and return its path; names without a version are left out."""
    parts = ["<!doctype html><meta charset=utf-8><title>cryoflow: learning</title>", f"<style>{_STYLE}</style>"]
    parts.append("<h1>Models that keep learning</h1>")
    parts += [f"<p>{html.escape(note)}</p>" for note in notes]
    for name in names:
        if registry.holds(name):
            parts.append(f"<h2>{html.escape(name)}</h2>")
            try:
                parts += _section(registry, name)
            except BadInput as error:  # the page still shows the other models
                parts.append(f"<p>{html.escape(str(error))}</p>")
    path = registry.root / NAME
    make_folder(path.parent)
    write_atomically(path, "\n".join(parts) + "\n")
    return path


_STYLE = (
    "body{font:15px sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border-bottom:1px solid #ccc;padding:.2em .6em;text-align:left;vertical-align:top}img{max-width:100%}"
)


def _section(registry: ModelRegistry, name: str) -> list[str]:
    from cryoflow.drawing.figures import png

    versions, errors = registry.readable_versions(name)
    history = registry.history(name)
    in_use = history[-1].version if history else None
    used = "None is in use."
    if history:
        used = f"{name}@{version_name(history[-1].version)} is in use since {history[-1].when}: {history[-1].reason}."
    picture = base64.b64encode(png(draw(versions))).decode()
    row_of = {n: [version_name(n), "cannot be read", "", "", "", str(error)] for n, error in errors.items()}
    for v, new in zip(versions, newly_learned(versions), strict=True):
        row_of[v.number] = [
            version_name(v.number),
            "in use" if v.number == in_use else v.card.status,
            "all projects" if v.card.parent is None else version_name(v.card.parent),
            str(len(v.card.trained_on)),
            _some(new),
            "; ".join(v.card.reasons),
        ]
    rows = [row_of[n] for n in sorted(row_of, reverse=True)]
    quarantined = read_quarantined(registry.root / name / QUARANTINE)
    aside = [[project, why] for project, (_, why) in sorted(quarantined.items())]
    newest = versions[-LISTED_VERSIONS:]
    f1 = f1_over_time(newest)
    over_time = [[p, *("" if math.isnan(x) else f"{x:.3f}" for x in values)] for p, values in f1.items()]
    return [
        f"<p>{html.escape(used)}</p>",
        f'<img alt="F1 of each project by version" src="data:image/png;base64,{picture}">',
        _table(["version", "status", "trained from", "projects", "of these new or changed", "why"], rows),
        *(["<p>Quarantined, not learned from:</p>", _table(["project", "why"], aside)] if aside else []),
        _table(["project", *(version_name(v.number) for v in newest)], over_time),
    ]


def _some(names: Sequence[str]) -> str:
    """Return names as one text, the first ones of many."""
    more = len(names) - LISTED_PROJECTS
    return ", ".join(names[:LISTED_PROJECTS]) + (f" and {more} more" if more > 0 else "")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    heading = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><tr>{heading}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
