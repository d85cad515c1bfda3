"""EPicker's `.coord`: center, size and score a line. Four numbers in a file of another suffix are EMAN's boxes."""

from __future__ import annotations

from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import median, numbers, read_lines, without_comments


def read(path: Path) -> FilePicks:
    """Read the centers of one micrograph."""
    rows = numbers(path, without_comments(read_lines(path)))
    if rows.shape[1] != 4:
        raise BadInput(path, "is no EPicker table of four numbers a line.", "It may be cut short.")
    return FilePicks(FORMAT.name, rows[:, 0], rows[:, 1], rows[:, 3], "EPicker score", box_px=median(rows[:, 2]))


def _sniff(head: Head) -> bool:
    # The one format that needs its suffix: its rows look like EMAN's boxes.
    return head.path.suffix.lower() == ".coord" and head.numbers is not None and len(head.numbers) == 4


FORMAT = PickFormat(
    name="EPicker coord",
    programs=("EPicker",),
    suffixes=(".coord",),
    recognized_by="the suffix `.coord` and lines of 4 numbers",
    sniff=_sniff,
    read=read,
    position="center",
    score="the fourth number",
    kept="center, score, size as box",
    rounding_px=0.5,
    priority=10,
)
