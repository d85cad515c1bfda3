"""Dynamo's tables (`.tbl`) where they are of images: 26 columns or more, x and y in columns 24 and 25.

Columns 4 and 5 are shifts that lead to the particle; column 10 is its correlation, column 20 the number of its image.
A table with a z (column 26) above 1 is one of tomograms.

Source: the Dynamo wiki (Table column convention).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import numbers, read_lines, without_comments

_LEAST_COLUMNS = 26
_TAG, _SHIFT_X, _SHIFT_Y, _SCORE, _IMAGE, _CLASS, _X, _Y, _Z = 0, 3, 4, 9, 19, 21, 23, 24, 25


def read(path: Path) -> FilePicks:
    """Read the particles of a table.

    Raises
    ------
    BadInput
        Where it is damaged or of tomograms.
    """
    rows = numbers(path, without_comments(read_lines(path)))
    if (rows[:, _Z] > 1).any():
        raise BadInput(path, "is of tomography (column 26, z, is set).", "Picks in three dimensions are not read.")
    score = rows[:, _SCORE] if (rows[:, _SCORE] != 0).any() else None
    images = rows[:, _IMAGE]
    notes = ["Dynamo names images by number: rename them, or read one table an image"] if len(set(images)) > 1 else []
    return FilePicks(
        FORMAT.name,
        rows[:, _X] + rows[:, _SHIFT_X],
        rows[:, _Y] + rows[:, _SHIFT_Y],
        score,
        "Dynamo correlation" if score is not None else "",
        class_number=np.asarray(np.nan_to_num(rows[:, _CLASS]).clip(0, 2**31 - 1), np.int32),
        micrographs=np.array([f"{int(n)}" for n in np.nan_to_num(images)], object) if len(set(images)) > 1 else None,
        notes=tuple(notes),
    )


def _sniff(head: Head) -> bool:
    return head.numbers is not None and len(head.numbers) >= _LEAST_COLUMNS


FORMAT = PickFormat(
    name="Dynamo table",
    programs=("Dynamo",),
    suffixes=(".tbl",),
    recognized_by="lines of 26 numbers or more",
    sniff=_sniff,
    read=read,
    position="center",
    score="column 10, where it is not 0",
    kept="position plus shift, correlation, class",
    not_kept="angles; tables of tomograms (z above 1)",
)
