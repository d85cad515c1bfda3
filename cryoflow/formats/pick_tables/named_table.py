"""Any table with a line of names that has columns of x and y: CSV, tabs or blanks, of scripts and many pickers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, FloatArray, Head, PickFormat
from cryoflow.formats.pick_tables.text import column, column_of_names, column_of_numbers, median, read_frame
from cryoflow.formats.pick_tables.unknown import X_LABELS, Y_LABELS

if TYPE_CHECKING:
    import pandas as pd

_SCORE = ("score", "rlnautopickfigureofmerit", "confidence", "probability", "fom", "likelihood")
_NAME = (
    *("image_name", "micrograph", "micrograph_name", "rlnmicrographname", "image", "filename", "file_name"),
    *("image_id", "mrc", "mic", "name"),
)
_DIAMETER = ("diameter", "diameter_px")
_WIDTH, _HEIGHT = ("width", "w", "box_width"), ("height", "h", "box_height")
_CORNERS = tuple(
    (f"x{low}", f"y{low}", f"x{high}", f"y{high}") for low, high in (("min", "max"), ("_min", "_max"), ("1", "2"))
)
_Z = ("z", "zcoord", "z_coord", "rlncoordinatez")


class _Boxes(NamedTuple):
    """Boxes of a table: centers in x and y, widths and heights, and what was read as what."""

    centers: tuple[FloatArray, FloatArray]
    sizes: FloatArray
    note: str


def _boxes(path: Path, frame: pd.DataFrame) -> _Boxes | None:
    """Return the boxes of a table that has two corners, or `x` and `y` with a width and a height; else None."""
    corners = next((labels for labels in _CORNERS if set(labels) <= set(frame.columns)), None)
    if corners:
        left, top, right, bottom = (column_of_numbers(path, label, frame[label]) for label in corners)
        sizes = np.concatenate([right - left, bottom - top])
        return _Boxes(((left + right) / 2, (top + bottom) / 2), sizes, f"read as boxes: {', '.join(corners)}")
    width, height = column(frame, _WIDTH), column(frame, _HEIGHT)
    if width is None or height is None or not {"x", "y"} <= set(frame.columns):
        return None
    if any(name in frame.columns for name in (*X_LABELS, *Y_LABELS) if name not in ("x", "y")):
        return None  # a column of centers beside them
    columns = (("x", frame["x"]), ("y", frame["y"]), ("width", width), ("height", height))
    left, top, width_px, height_px = (column_of_numbers(path, name, values) for name, values in columns)
    note = "x and y were taken for the corners of boxes, since there are columns of width and height"
    return _Boxes((left + width_px / 2, top + height_px / 2), np.concatenate([width_px, height_px]), note)


def _centers(path: Path, frame: pd.DataFrame) -> tuple[FloatArray, FloatArray]:
    x, y = column(frame, X_LABELS), column(frame, Y_LABELS)
    if x is None or y is None:  # the line of names looked like one of positions, and was cut differently
        raise BadInput(path, f"has no columns of x and y (columns: {', '.join(map(str, frame.columns[:20]))}).")
    return column_of_numbers(path, "x", x), column_of_numbers(path, "y", y)


def read(path: Path) -> FilePicks:
    """Read the picks of a table, of one micrograph or of several.

    Raises
    ------
    BadInput
        Where it is damaged or is of tomography.
    """
    frame = read_frame(path)
    boxes = _boxes(path, frame)
    x_px, y_px = boxes.centers if boxes else _centers(path, frame)
    z = column(frame, _Z)
    if z is not None and (np.nan_to_num(column_of_numbers(path, "z", z)) > 0).any():
        raise BadInput(path, "is of tomography (its column z is set).", "Picks in three dimensions are not read.")
    score, names, diameter = column(frame, _SCORE), column(frame, _NAME), column(frame, _DIAMETER)
    return FilePicks(
        FORMAT.name,
        x_px,
        y_px,
        None if score is None else column_of_numbers(path, "score", score),
        "" if score is None else "score",
        micrographs=None if names is None else column_of_names(names),
        box_px=median(boxes.sizes) if boxes else None,
        notes=(boxes.note,) if boxes else (),
        diameter_px=None if diameter is None else median(column_of_numbers(path, "diameter", diameter)),
    )


def _sniff(head: Head) -> bool:
    if head.is_star or b"\0" in head.start:
        return False
    labels = set(head.labels)
    has_position = bool(labels & set(X_LABELS)) and bool(labels & set(Y_LABELS))
    return has_position or any(set(corners) <= labels for corners in _CORNERS)


FORMAT = PickFormat(
    name="table",
    programs=("scripts", "pickers that write CSV"),
    suffixes=(".csv", ".tsv", ".txt"),
    recognized_by="a first line with names of x and y: `x,y`, `xcoord,ycoord,filename`, `center_x`, ...",
    sniff=_sniff,
    read=read,
    position="center",
    marks="columns `width` and `height` beside `x` and `y`, or `xmin` to `ymax`: boxes, of which the middle is taken",
    score="`score`, `confidence`, `probability` or `fom`",
    kept="center, score, median diameter, micrograph",
    not_kept="other columns; tables with a z above 0",
    priority=-10,
)
