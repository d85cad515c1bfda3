"""crYOLO's `.cbox` up to version 1.7: seven numbers a line, without a header."""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import median, numbers, read_lines, without_comments


def read(path: Path) -> FilePicks:
    """Read the boxes of one micrograph: x, y, width, height, confidence, estimated width and height."""
    rows = numbers(path, without_comments(read_lines(path)))
    return FilePicks(
        FORMAT.name,
        rows[:, 0] + rows[:, 2] / 2,
        rows[:, 1] + rows[:, 3] / 2,
        rows[:, 4],
        "crYOLO confidence",
        box_px=median(rows[:, 2:4]),
        diameter_px=median(rows[:, 5:7]),
    )


def _sniff(head: Head) -> bool:
    return head.numbers is not None and len(head.numbers) == 7


FORMAT = PickFormat(
    name="crYOLO cbox (old)",
    programs=("crYOLO up to 1.7",),
    suffixes=(".cbox",),
    recognized_by="lines of 7 numbers",
    sniff=_sniff,
    read=read,
    position="corner",
    score="the fifth number, 0 to 1; no threshold is applied to it",
    kept="center, confidence, median box and median estimated size",
    not_kept="sizes of single boxes",
)
