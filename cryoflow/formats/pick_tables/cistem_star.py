"""cisTEM 2's STAR files of particles, with the position of each in its micrograph, in angstrom.

Positions in angstrom from the first pixel are divided by the pixel size of the same row. Refined shifts are in
angstrom, too; the center is the position minus the shift.

Source: cisTEM 2 (src/core/cistem_star_file_reader.cpp, particle_position_asset.h).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.star_text import read_position_blocks

_POSITION = ("cisTEMOriginalXPosition", "cisTEMOriginalYPosition")
_IMAGE = "cisTEMOriginalImageFilename"
_OPTIONAL = ("cisTEMPixelSize", _IMAGE, "cisTEMScore", "cisTEMBest2DClass", "cisTEMXShift", "cisTEMYShift")


def read(path: Path) -> FilePicks:
    """Read the particles of a refinement package.

    Raises
    ------
    BadInput
        Where it is damaged, no row has a position, or the pixel size is not there.
    """
    table, notes, _, is_negative = read_position_blocks(path, _POSITION, optional=_OPTIONAL)
    pixel_A = np.asarray(table.get("cisTEMPixelSize", np.full(len(table[_POSITION[0]]), np.nan)), np.float64)
    x_A, y_A = (np.asarray(table[label], np.float64) for label in _POSITION)
    if len(x_A) and not (x_A != 0).any() and not (y_A != 0).any():
        raise BadInput(path, "has no positions: cisTEM left all of them at 0.", "Export from cisTEM to RELION instead.")
    if len(pixel_A) and not (pixel_A > 0).all():
        raise BadInput(path, "has positions in angstrom and no _cisTEMPixelSize.", "Export with the pixel size.")
    shifts = [np.asarray(table.get(f"cisTEM{axis}Shift", np.zeros(len(x_A))), np.float64) for axis in "XY"]
    classes = table.get("cisTEMBest2DClass")
    names = table.get(_IMAGE)
    score = np.asarray(table["cisTEMScore"], np.float64) if "cisTEMScore" in table else None
    sizes = np.unique(np.round(pixel_A, 4))
    return FilePicks(
        FORMAT.name,
        (x_A - shifts[0]) / pixel_A,
        (y_A - shifts[1]) / pixel_A,
        score,
        "cisTEM score" if score is not None else "",
        class_number=None if classes is None else np.asarray(np.nan_to_num(np.asarray(classes)), np.int32),
        micrographs=None if names is None else np.array([str(name).strip("'\"") for name in names], object),
        pixel_size_A=float(sizes[0]) if len(sizes) == 1 else None,
        label=-1 if is_negative else None,
        notes=tuple(notes),
    )


def _sniff(head: Head) -> bool:
    return head.has_block(*_POSITION)


FORMAT = PickFormat(
    name="cisTEM STAR",
    programs=("cisTEM 2",),
    suffixes=(".star",),
    recognized_by="a STAR block with `_cisTEMOriginalXPosition` and `_cisTEMOriginalYPosition`",
    sniff=_sniff,
    read=read,
    position="center",
    units="angstrom",
    score="`_cisTEMScore`",
    kept="position minus refined shift, score, 2D class, micrograph, pixel size",
    not_kept="angles, CTF",
    rounding_px=0.01,
)
