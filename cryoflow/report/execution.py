"""What each stage of a run cost, as `trace.tsv` and as the page's section: a timeline, and a table.

One line an attempt at a stage or shard. What is not known stays empty: only SLURM's accounting records CPU and memory.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.errors import BadInput
from cryoflow.report.page import Block, Figures, Picture, ReportTable, Section, Text
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_LABELS = 60
"""With more bars than this, a timeline names stages instead of runs."""


@dataclass(frozen=True)
class TraceRow:
    """One run of a stage, as a line of `trace.tsv`. Times are those of the cluster's clock, without a zone."""

    stage: str
    name: str
    status: str
    slurm_job: int | None = None
    slurm_state: str = ""
    exit: str = ""
    submitted: str = ""
    started: str = ""
    ended: str = ""
    queued_s: float | None = None
    elapsed_s: float | None = None
    cpus: int | None = None
    cpu_percent: float | None = None
    """100 is one core, all the time."""
    requested_mb: float | None = None
    peak_mb: float | None = None
    partition: str = ""
    nodes: str = ""
    flow_run: str = ""

    @property
    def title(self) -> str:
        """Return its name without the day."""
        return re.sub(r" · \d{4}-\d\d-\d\d$", "", self.name)


def write_trace(path: Path, rows: Iterable[TraceRow]) -> None:
    """Write rows as text with tabs between the values and one head line."""
    head = "\t".join(field.name for field in fields(TraceRow))
    lines = ["\t".join("" if v is None else re.sub(r"\s+", " ", str(v)) for v in astuple(row)) for row in rows]
    write_atomically(path, "\n".join([head, *lines]) + "\n")


def read_trace(path: Path) -> tuple[TraceRow, ...]:
    """Read what `write_trace` wrote.

    Raises
    ------
    BadInput
        For any other file.
    """
    kinds = typing.get_type_hints(TraceRow)
    try:
        head, *lines = [line.split("\t") for line in inputs.read_text(path).splitlines()]
        if missing := {"stage", "name", "status"} - set(head):
            raise ValueError(f"no column {', '.join(sorted(missing))}")
        return tuple(
            TraceRow(**{name: _value(text, kinds[name]) for name, text in zip(head, line, strict=True)})
            for line in lines
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            path, f"is not a trace of a run ({error}).", "cryoflow trace RUN --output writes one."
        ) from error


def _value(text: str, kind: object) -> typing.Any:
    if kind is str:
        return text
    number = next(part for part in typing.get_args(kind) if part is not type(None))
    return number(text) if text else None


def execution_section(rows: Sequence[TraceRow]) -> Section:
    """Return what the run cost: totals, a timeline, and a line for each stage and shard."""
    first, last = _span(rows)
    jobs = [row for row in rows if row.slurm_job is not None]
    cpu_s = [row.cpu_percent / 100 * row.elapsed_s for row in rows if row.cpu_percent is not None and row.elapsed_s]
    peaks = [row.peak_mb for row in rows if row.peak_mb is not None]
    items = [(duration((last - first).total_seconds()) if first and last else "–", "from first to last", "")]
    if jobs:
        unsuccessful = sum(row.status != "Completed" for row in jobs)
        items.append((f"{len(jobs)}", "SLURM jobs", f"{unsuccessful} did not complete" if unsuccessful else ""))
    if cpu_s:
        items.append((duration(sum(cpu_s)), "CPU time", "of all stages"))
    if peaks:
        items.append((f"{max(peaks) / 1024:.1f} GB", "peak memory", "of the largest stage"))
    blocks: list[Block] = [Figures(items)]
    if first:
        caption = "Gray: waiting in the queue. Colored: at work; red where it did not complete."
        blocks.append(Picture(timeline(rows), caption=caption, alt="timeline of the stages"))
    columns: dict[str, list[object]] = {
        "run": [r.title for r in rows],
        "status": [_status(r) for r in rows],
        "job": [r.slurm_job and str(r.slurm_job) for r in rows],
        "node": [f"{r.nodes} {r.partition}".strip() for r in rows],
        "queue (s)": [r.queued_s for r in rows],
        "wall (s)": [r.elapsed_s for r in rows],
        "CPUs": [r.cpus for r in rows],
        "CPU (%)": [r.cpu_percent for r in rows],
        "asked (MB)": [r.requested_mb for r in rows],
        "peak (MB)": [r.peak_mb for r in rows],
        "exit": [r.exit for r in rows],
    }
    known = {name: values for name, values in columns.items() if any(v not in (None, "") for v in values)}
    table = list(zip(*known.values(), strict=True))
    blocks.append(
        ReportTable(tuple(known), table, caption="Stages and shards; 100 % CPU is one core", folded=len(rows) > 20)
    )
    if not jobs:
        blocks.append(Text("CPU and memory are known where stages run as SLURM jobs."))
    return Section("Execution", blocks)


def timeline(rows: Sequence[TraceRow]) -> Figure:
    """Return one bar a run, from its submission to its end, in minutes since the first."""
    from matplotlib.collections import PolyCollection

    from cryoflow.drawing.figures import INK, KEPT, MISSED, REMOVED, WAITING, dress, new_figure, shown

    timed = sorted((row for row in rows if _span([row])[0]), key=lambda row: (row.submitted or row.started, row.name))
    first, last = _span(timed)
    assert first is not None
    assert last is not None
    many = len(timed) > MOST_LABELS
    figure = new_figure((9.0, 0.9 + (12 if many else 0.27 * len(timed))))
    axes = figure.add_subplot()
    whole = max((last - first).total_seconds() / 60, 1 / 60)
    bars: list[tuple[float, float, float, float, str]] = []  # y, width, left, height, color
    for y, row in enumerate(timed):
        queued, began, ended = (_minutes(t, first) for t in (row.submitted, row.started, row.ended))
        bad = row.status in ("Crashed", "Failed")
        color = REMOVED if bad else KEPT if row.status == "Completed" else MISSED
        ended = whole if ended is None else ended
        if queued is not None:
            bars.append((y, (ended if began is None else began) - queued, queued, 0.3, WAITING))
        if began is not None:
            bars.append((y, max(ended - began, whole / 500), began, 0.72, color))
        if not many:
            axes.text(ended + whole / 100, y, _label(row), va="center", fontsize=7, color=INK)
    corners = [
        [(left, y - h / 2), (left + w, y - h / 2), (left + w, y + h / 2), (left, y + h / 2)]
        for y, w, left, h, _ in bars
    ]
    axes.add_collection(PolyCollection(corners, facecolors=[bar[-1] for bar in bars]))  # a patch each takes seconds
    if many:
        starts = [y for y, row in enumerate(timed) if y == 0 or row.stage != timed[y - 1].stage]
        axes.set_yticks(starts, [shown(timed[y].stage) for y in starts])
    else:
        axes.set_yticks(range(len(timed)), [shown(row.title) for row in timed])
    axes.set_ylim(len(timed) - 0.4, -0.6)
    axes.set_xlim(0, whole * (1.02 if many else 1.3))
    dress(axes, "", f"minutes since {first:%Y-%m-%d %H:%M}", "")
    axes.grid(visible=False, axis="y")
    figure.tight_layout()
    return figure


def duration(seconds: float) -> str:
    """Return seconds as text for people.

    >>> duration(7.4), duration(83), duration(7384)
    ('7 s', '1 min 23 s', '2 h 03 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _status(row: TraceRow) -> str:
    plain = row.slurm_state in ("", "COMPLETED", "FAILED")
    return row.status if plain else f"{row.status} ({row.slurm_state})"


def _label(row: TraceRow) -> str:
    parts = [duration(row.elapsed_s)] if row.elapsed_s is not None else []
    if row.peak_mb is not None:
        parts.append(f"{row.peak_mb:.0f} MB")
    if row.cpu_percent is not None:
        parts.append(f"{row.cpu_percent:.0f} %")
    if row.status != "Completed":
        parts.append(_status(row))
    return " · ".join(parts)


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _span(rows: Sequence[TraceRow]) -> tuple[datetime | None, datetime | None]:
    times = [t for row in rows for t in map(_time, (row.submitted, row.started, row.ended)) if t]
    return min(times, default=None), max(times, default=None)


def _minutes(text: str, first: datetime) -> float | None:
    time = _time(text)
    return (time - first).total_seconds() / 60 if time else None
