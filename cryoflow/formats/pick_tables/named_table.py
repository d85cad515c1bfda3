"""Any table with a line of names that has columns of x and y: CSV, tabs or blanks, of scripts and many pickers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import column, column_of_names, column_of_numbers, mean, read_frame
from cryoflow.formats.pick_tables.unknown import X_LABELS, Y_LABELS

_SCORE = ("score", "rlnautopickfigureofmerit", "confidence", "probability", "fom", "likelihood")
_NAME = (
    *("image_name", "micrograph", "micrograph_name", "rlnmicrographname", "image", "filename", "file_name"),
    *("image_id", "mrc", "mic", "name"),
)
_DIAMETER = ("diameter", "diameter_px")
_Z = ("z", "zcoord", "z_coord", "rlncoordinatez")


def read(path: Path) -> FilePicks:
    """Read the picks of a table, of one micrograph or of several.

    Raises
    ------
    BadInput
        Where it is damaged or is of tomography.
    """
    frame = read_frame(path)
    x, y = column(frame, X_LABELS), column(frame, Y_LABELS)
    if x is None or y is None:  # the line of names looked like one of positions, and was cut differently
        raise BadInput(path, f"has no columns of x and y (columns: {', '.join(map(str, frame.columns[:20]))}).")
    z = column(frame, _Z)
    if z is not None and (np.nan_to_num(column_of_numbers(path, "z", z)) > 0).any():
        raise BadInput(path, "is of tomography (its column z is set).", "Picks in three dimensions are not read.")
    score, names, diameter = column(frame, _SCORE), column(frame, _NAME), column(frame, _DIAMETER)
    return FilePicks(
        FORMAT.name,
        column_of_numbers(path, "x", x),
        column_of_numbers(path, "y", y),
        None if score is None else column_of_numbers(path, "score", score),
        "" if score is None else "score",
        micrographs=None if names is None else column_of_names(names),
        diameter_px=None if diameter is None else mean(column_of_numbers(path, "diameter", diameter)),
    )


def _sniff(head: Head) -> bool:
    if head.is_star or b"\0" in head.start:
        return False
    labels = set(head.labels)
    return bool(labels & set(X_LABELS)) and bool(labels & set(Y_LABELS))


FORMAT = PickFormat(
    name="table",
    programs=("scripts", "pickers that write CSV"),
    suffixes=(".csv", ".tsv", ".txt"),
    recognized_by="a first line with names of x and y: `x,y`, `xcoord,ycoord,filename`, `center_x`, ...",
    sniff=_sniff,
    read=read,
    position="center",
    score="`score`, `confidence`, `probability` or `fom`",
    kept="center, score, mean diameter, micrograph",
    not_kept="other columns; tables with a z above 0",
    priority=-10,
)
