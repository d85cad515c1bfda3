"""crYOLO's `.cbox` from version 1.8 on, also written by napari-boxmanager: a STAR file of boxes.

Boxes are in the block `data_cryolo`, by the corner and a size. The block `data_filament_vertices` holds the ends of
filaments with x and y exchanged: it is not read. The file holds all that was detected, down to a low confidence.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.star_text import drop_disabled
from cryoflow.formats.pick_tables.text import median
from cryoflow.formats.star import Table, Unread, concatenated, read_tables

_BOX = ("CoordinateX", "CoordinateY", "Width", "Height")
_OPTIONAL = ("CoordinateZ", "Confidence", "filamentid", "EstWidth", "EstHeight", "Enabled")
_BLOCK = "cryolo"
_NOT_BOXES = ("filament_vertices",)


def read(path: Path) -> FilePicks:
    """Read the boxes of one micrograph."""
    tables, others = read_tables(path, _BOX, optional=_OPTIONAL, skip=lambda name: name in _NOT_BOXES)
    named = [table for name, table in tables if name == _BLOCK]
    notes = [note for other in others if (note := _unread(other))]
    if not named:
        if all(name in _NOT_BOXES for name, _ in tables):
            raise BadInput(
                path,
                "holds the ends of filaments (data_filament_vertices) and no boxes (data_cryolo).",
                "Save the segments from crYOLO or napari-boxmanager.",
            )
        notes.append(f"no block data_cryolo: boxes were read from {', '.join(f'data_{name}' for name, _ in tables)}")
    else:
        left = [f"data_{name} ({_rows(table)} rows)" for name, table in tables if name != _BLOCK and _rows(table)]
        notes += [f"block {text} was not read: the boxes are in data_cryolo" for text in left]
    table = concatenated(named or [table for _, table in tables])
    counts: dict[str, int] = {}
    drop_disabled(table, "Enabled", counts)
    z = np.asarray(table.get("CoordinateZ", np.zeros(0)), np.float64)
    if (np.nan_to_num(z) > 0).any():
        raise BadInput(path, "is of tomography (_CoordinateZ is set).", "Picks in three dimensions are not read.")
    width, height = np.asarray(table["Width"]), np.asarray(table["Height"])
    estimated = [np.asarray(table[name], np.float64) for name in ("EstWidth", "EstHeight") if name in table]
    tubes = np.asarray(table.get("filamentid", np.zeros(0)), np.float64)
    confidence = np.asarray(table["Confidence"]) if "Confidence" in table else None
    return FilePicks(
        FORMAT.name,
        np.asarray(table["CoordinateX"]) + width / 2,
        np.asarray(table["CoordinateY"]) + height / 2,
        confidence,
        "crYOLO confidence" if confidence is not None else "",
        box_px=median(np.concatenate([width, height])) or None,
        diameter_px=median(np.concatenate(estimated or [width])) or None,
        is_helical=bool(np.isfinite(tubes).any()),
        notes=tuple(notes),
        counts=counts,
    )


def _rows(table: Table) -> int:
    return len(table["CoordinateX"])


def _unread(block: Unread) -> str:
    if block.name in ("global", "cryolo_include") or not block.n_rows:
        return ""
    what = "ends of filaments" if block.name in _NOT_BOXES else "no boxes"
    return f"block data_{block.name} was not read ({block.n_rows} rows): {what}"


def _sniff(head: Head) -> bool:
    return head.has_block(*_BOX)


FORMAT = PickFormat(
    name="crYOLO cbox",
    programs=("crYOLO 1.8 and later", "napari-boxmanager"),
    suffixes=(".cbox",),
    recognized_by="a STAR block with `_CoordinateX`, `_CoordinateY`, `_Width` and `_Height`",
    sniff=_sniff,
    read=read,
    position="corner",
    score="`_Confidence`, 0 to 1; no threshold is applied to it",
    marks="`_filamentid`: segments of helices",
    blocks="`data_cryolo`; `data_filament_vertices` is noted, not read",
    kept="center, confidence, median box and median estimated size",
    not_kept="sizes of single boxes, angle, number of boxes; tomograms (`_CoordinateZ`)",
)
