"""What is wrong with a file that is no table of picks: one clear error."""

from __future__ import annotations

import re

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.pick_tables.declaration import Head
from cryoflow.formats.pick_tables.tomography import tomography_label
from cryoflow.formats.star_blocks import walk

X_LABELS = (
    *("x_coord", "x-coordinate", "xcoord", "x_coordinate", "coordinate_x", "rlncoordinatex", "coordinatex"),
    *("x_px", "center_x", "x_center", "cx", "xcoor", "x"),
)
Y_LABELS = (
    *("y_coord", "y-coordinate", "ycoord", "y_coordinate", "coordinate_y", "rlncoordinatey", "coordinatey"),
    *("y_px", "center_y", "y_center", "cy", "ycoor", "y"),
)


def unknown_content(head: Head) -> CryoflowError:
    """Return the error for a file that no format claims."""
    path = head.path
    if head.is_blank:
        return BadInput(path, "is empty.", "The job that wrote it was cut short, or the disk was full.")
    if head.is_star:
        return _star_without_positions(head)
    if (
        head.start.startswith((b"version https://git-lfs", b"\xff\xfe", b"\xfe\xff"))
        or head.start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))
        or b"\0" in head.start
    ):
        try:
            next(walk(path), None)
        except BadInput as error:
            return error
    if head.start.lstrip().startswith((b"{", b"[")):
        return BadInput(
            path,
            "is JSON, and none that is known: EMAN2's info files have a list named boxes or boxes_rct.",
            "It may be cut short, or be another file of EMAN2.",
        )
    if head.numbers is not None:
        n = len(head.numbers)
        return BadInput(
            path,
            f"has lines of {n} numbers; 2 (x y), 3 (x y score), 4 or 5 (boxes), 7 (boxes of crYOLO 1.7) are known.",
        )
    shown = ", ".join(label for label in re.split(r"[,;\t]", head.lines[0])[:20]) if head.lines else ""
    return MissingMetadata(
        path,
        f"has no columns of x and y (columns: {shown[:300]}).",
        f"Known names are {', '.join(X_LABELS)} and {', '.join(Y_LABELS)}.",
    )


def refuse_tomography(head: Head) -> None:
    """Raise where a STAR block is of tomography.

    Raises
    ------
    BadInput
        Where it is.
    """
    for columns in head.columns:
        if found := tomography_label(sorted(columns)):
            raise BadInput(head.path, f"is of tomography (it has _{found}).", "Picks in three dimensions are not read.")


def _star_without_positions(head: Head) -> CryoflowError:
    try:
        refuse_tomography(head)
        found = sorted({label for columns in head.columns for label in columns})
    except BadInput as error:
        return error
    return BadInput(head.path, f"has no _rlnCoordinateX and _rlnCoordinateY (columns: {', '.join(found[:40])}).")
