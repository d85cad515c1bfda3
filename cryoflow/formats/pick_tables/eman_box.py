"""Boxes as EMAN1 wrote them first: x, y, width and height a line, x and y those of the corner.

A fifth number is a mark where all are -1, -2 or -3 (EMAN1, Appion): -1 and -2 are the ends of a helix, -3 is an
ordinary box. Any other fifth number is a score (REPIC, Scipion). Lines `#helix: (x,y),(x,y),width` stand before the
segments of a helix (EMAN2's helixboxer, SPHIRE, crYOLO). A size of 0 means that x and y are the center: crYOLO and
napari-boxmanager write it where no box size is known, and RELION reads it so.

Sources: EMAN2 (programs/e2boxer.py), crYOLO (EMAN_HELIX_SEGMENTED), RELION (helix.cpp, preprocessing.cpp).
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import median, numbers, read_lines, without_comments

_ENDS, _ORDINARY = (-1.0, -2.0), -3.0
_MICROGRAPH = re.compile(r"#\s*micrograph:\s*(?P<name>.+?)\s*$")
_HELIX = re.compile(r"#\s*helix:", re.IGNORECASE)


def read(path: Path) -> FilePicks:
    """Read the boxes of one micrograph.

    Raises
    ------
    BadInput
        Where it is damaged, a size is negative, or it holds nothing but ends of helices.
    """
    lines = read_lines(path)
    rows = numbers(path, without_comments(lines))
    if not len(rows):
        rows = np.zeros((0, 4))
    if (rows[:, 2:4] < 0).any() or not np.isfinite(rows[:, 2:4]).all():
        raise BadInput(path, "has boxes of a size below 0.", "Its columns should be x, y, width and height.")
    counts: dict[str, int] = {}
    notes: list[str] = []
    score = rows[:, 4] if rows.shape[1] == 5 else None
    if score is not None and len(score) and set(np.unique(score)) <= {*_ENDS, _ORDINARY}:
        is_end = np.isin(score, _ENDS)
        if is_end.all():
            raise BadInput(path, "holds start and end points of helices, not centers of particles.")
        if is_end.any():
            counts["helix_end"] = int(is_end.sum())
            rows = rows[~is_end]
        score = None
    elif score is not None:
        score = np.where(score == _ORDINARY, np.nan, score)  # files joined of picks by hand and by a program
    sizes = rows[:, 2:4]
    if (sizes == 0).all(axis=1).any():
        notes.append("boxes of size 0: x and y were taken for centers")
    return FilePicks(
        FORMAT.name,
        rows[:, 0] + rows[:, 2] / 2,
        rows[:, 1] + rows[:, 3] / 2,
        score,
        "fifth column" if score is not None else "",
        micrograph=named_micrograph(lines),
        box_px=median(sizes) or None,
        is_helical=has_helices(lines),
        notes=tuple(notes),
        counts=counts,
    )


def has_helices(lines: list[str]) -> bool:
    """Return whether a comment marks rows as segments of helices."""
    return any(_HELIX.match(line.strip()) for line in lines)


def named_micrograph(lines: list[str]) -> str:
    """Return the micrograph that a comment names; empty where none or several do."""
    named = {match["name"] for line in lines if (match := _MICROGRAPH.match(line.strip()))}
    return named.pop() if len(named) == 1 else ""


def _sniff(head: Head) -> bool:
    return head.numbers is not None and len(head.numbers) in (4, 5)


FORMAT = PickFormat(
    name="EMAN box",
    programs=(
        "EMAN1",
        "EMAN2",
        "crYOLO",
        "RELION",
        "Appion",
        "Leginon (through Appion)",
        "REPIC",
        "nextPYP",
        "Gautomatch",
        "napari-boxmanager",
    ),
    suffixes=(".box",),
    recognized_by="lines of 4 or 5 numbers",
    sniff=_sniff,
    read=read,
    position="corner",
    score="the fifth number (REPIC, Scipion), unless it is a mark",
    marks=(
        "fifth number -3: an ordinary box; -1 and -2: ends of a helix, left out and counted as `helix_end`; "
        "lines `#helix:`: segments of helices; width and height 0: x and y are the center"
    ),
    kept="center, score, median box; the micrograph that a line `#micrograph:` names",
    not_kept="sizes of single boxes",
)
