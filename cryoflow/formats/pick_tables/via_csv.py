"""Annotations of the VGG Image Annotator: CSV with one region a row, its shape as JSON.

Points, circles and ellipses have a center; of rectangles the middle is taken, of polygons and polylines the middle of
their extent. y counts from the top of the picture that was annotated. Whether that is the first or the last row of the
MRC file is decided by the program that made the picture.

Source: VIA 2 (its CSV export).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import column_of_names, median, read_frame, required_column
from cryoflow.storage.budgets import Deadline

_SHAPES = "region_shape_attributes"


def read(path: Path) -> FilePicks:
    """Read the regions of all pictures; those of an unknown shape are counted.

    Raises
    ------
    BadInput
        Where a shape is no JSON.
    """
    frame = read_frame(path)
    places, sizes, rows, n_unknown = [], [], [], 0
    n_regions = frame["region_count"].tolist() if "region_count" in frame else ["0"] * len(frame)
    deadline = Deadline(path, path.stat().st_size)
    for row, text in enumerate(deadline.watch(required_column(path, frame, _SHAPES).tolist())):
        text = text.strip()
        if text in ("", "{}"):
            n_unknown += n_regions[row].strip() not in ("", "0")  # else a picture without regions
            continue
        try:
            shape = json.loads(text)
            found = _place(shape) if isinstance(shape, dict) else None
        except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise BadInput(path, f"row {row + 2}: {_SHAPES} cannot be understood: {text[:60]!r} ({error}).") from error
        if found is None:
            n_unknown += 1
            continue
        places.append(found[:2])
        sizes.append(found[2])
        rows.append(row)
    xy = np.array(places, np.float64).reshape(-1, 2)
    names = column_of_names(required_column(path, frame, "filename"))[rows] if len(rows) else np.zeros(0, object)
    counts = {"unknown_shape": n_unknown} if n_unknown else {}
    diameter_px = median(np.array(sizes, np.float64)) or None
    return FilePicks(
        FORMAT.name,
        xy[:, 0],
        xy[:, 1],
        micrographs=names,
        diameter_px=diameter_px,
        notes=("y counts from the top of the annotated pictures: see whether the orientation check confirms it",),
        counts=counts,
    )


def _place(shape: dict[str, object]) -> tuple[float, float, float] | None:
    """Return center and size of a region; None where its shape is not known."""

    def number(key: str) -> float:
        return float(str(shape[key]))

    name = shape.get("name")
    if name in ("point", "circle", "ellipse"):
        size = number("r") * 2 if name == "circle" else number("rx") + number("ry") if name == "ellipse" else np.nan
        return number("cx"), number("cy"), size
    if name == "rect":
        width, height = number("width"), number("height")
        return number("x") + width / 2, number("y") + height / 2, (width + height) / 2
    if name in ("polygon", "polyline"):
        x, y = (np.array(shape[f"all_points_{axis}"], np.float64) for axis in "xy")
        return float(x.min() + x.max()) / 2, float(y.min() + y.max()) / 2, float(np.ptp(x) + np.ptp(y)) / 2
    return None


def _sniff(head: Head) -> bool:
    return _SHAPES in head.labels


FORMAT = PickFormat(
    name="VIA CSV",
    programs=("VGG Image Annotator",),
    suffixes=(".csv",),
    recognized_by="a first line with `region_shape_attributes`",
    sniff=_sniff,
    read=read,
    position="center",
    marks="regions of an unknown shape are counted as `unknown_shape`",
    kept="middle of each region, median diameter, picture",
    not_kept="shapes and attributes of regions",
    priority=10,
)
