"""EPicker's `.thi`: lines of x, y and a score between two lines in brackets."""

from __future__ import annotations

from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import numbers, read_lines


def read(path: Path) -> FilePicks:
    """Read the centers of one micrograph."""
    rows = numbers(path, [line for line in read_lines(path) if not line.lstrip().startswith("[")])
    if rows.shape[1] < 2:
        raise BadInput(path, "has lines of one number, where x, y and a score are expected.", "Was it cut short?")
    score = rows[:, 2] if rows.shape[1] > 2 else None
    return FilePicks(FORMAT.name, rows[:, 0], rows[:, 1], score, "EPicker score" if score is not None else "")


def _sniff(head: Head) -> bool:
    return b"[Particle Coordinates:" in head.start


FORMAT = PickFormat(
    name="EPicker thi",
    programs=("EPicker",),
    suffixes=(".thi",),
    recognized_by="a line `[Particle Coordinates: ...]`",
    sniff=_sniff,
    read=read,
    position="center",
    score="the third number",
    kept="center, score",
    priority=10,
)
