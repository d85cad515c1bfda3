"""nextPYP's `.boxx`: boxes with two marks, whether a box lies inside the image and in which class it was selected.

Source: nextPYP (pyp/inout/metadata, pyp/detect): positions are `x + width / 2`, used where the fifth number is 1 and
the sixth at least the class of the extraction.
"""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import median, numbers, read_lines, without_comments


def read(path: Path) -> FilePicks:
    """Read the boxes of one micrograph that are selected."""
    rows = numbers(path, without_comments(read_lines(path)))
    keep = (rows[:, 4] == 1) & (rows[:, 5] >= 1)
    counts = {"switched_off": int((~keep).sum())} if not keep.all() else {}
    rows = rows[keep]
    return FilePicks(
        FORMAT.name,
        rows[:, 0] + rows[:, 2] / 2,
        rows[:, 1] + rows[:, 3] / 2,
        box_px=median(rows[:, 2:4]),
        counts=counts,
    )


def _sniff(head: Head) -> bool:
    words = head.numbers
    if words is None or len(words) != 6:
        return False
    return head.path.suffix.lower() == ".boxx" or (float(words[4]) in (0, 1) and float(words[5]) in (0, 1, 2))


FORMAT = PickFormat(
    name="nextPYP boxx",
    programs=("nextPYP", "PYP"),
    suffixes=(".boxx",),
    recognized_by="lines of 6 numbers, the fifth 0 or 1",
    sniff=_sniff,
    read=read,
    position="corner",
    marks="fifth number 0 (outside) or sixth 0 (not selected): left out and counted as `switched_off`",
    kept="center, median box",
    not_kept="class of the selection",
)
