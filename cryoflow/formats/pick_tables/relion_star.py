"""RELION's STAR tables of positions, and those that other programs write with RELION's labels.

`rlnCoordinateX/Y` are centers in pixels of the micrograph. A table may name the micrograph of each row, or be of one
micrograph, which its file name says. Blocks are chosen by their columns; all blocks with positions are read.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.star_text import drop_disabled, read_position_blocks, without_unknown
from cryoflow.formats.pick_tables.text import median
from cryoflow.formats.pick_tables.tomography import tomography_label
from cryoflow.formats.star import Table

SCORE = "rlnAutopickFigureOfMerit"
_POSITION = ("rlnCoordinateX", "rlnCoordinateY")
_OPTIONAL = (
    *(SCORE, "rlnAnglePsi", "rlnClassNumber", "rlnMicrographName", "rlnHelicalTubeID"),
    *("rlnDiameter", "rlnEnabled", "rlnImageName"),
)


def _sniff(head: Head) -> bool:
    tomography = any(tomography_label(columns) for columns in head.columns)
    return head.has_block(*_POSITION) and not tomography


_LARGEST_CLASS = np.iinfo(np.int32).max


def _class_numbers(column: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Return class numbers; 0 where the column holds none, as for NaN and infinity."""
    return np.where((column > 0) & (column <= _LARGEST_CLASS), column, 0).astype(np.int32)


def _stacks(table: Table) -> npt.NDArray[np.object_] | None:
    """Return the micrograph of each row by its stack of images, without its suffix; None where all are in one stack.

    RELION's Extract writes one stack for each micrograph, named after it.
    """
    images = table.get("rlnImageName")
    if images is None:
        return None
    stacks = [str(image).rpartition("@")[2] for image in images]
    return np.array([stack.rpartition(".")[0] for stack in stacks], object) if len(set(stacks)) > 1 else None


def read(path: Path) -> FilePicks:
    """Read the picks of a table, or of a file with one micrograph's picks."""
    table, notes, _, is_negative = read_position_blocks(
        path, _POSITION, optional=_OPTIONAL, name_column="rlnMicrographName"
    )
    counts: dict[str, int] = {}
    drop_disabled(table, "rlnEnabled", counts)
    classes = table.get("rlnClassNumber")
    score = without_unknown(table, SCORE)
    names = table.get("rlnMicrographName")
    if names is None and (stacks := _stacks(table)) is not None:
        names = stacks
        notes.append("it names no micrographs: they were taken from the names of its stacks of images")
    tubes = np.asarray(table.get("rlnHelicalTubeID", np.zeros(0)), np.float64)
    return FilePicks(
        FORMAT.name,
        np.asarray(table["rlnCoordinateX"]),
        np.asarray(table["rlnCoordinateY"]),
        score,
        SCORE if score is not None else "",
        without_unknown(table, "rlnAnglePsi"),
        None if classes is None else _class_numbers(np.asarray(classes)),
        micrographs=None if names is None else np.asarray(names, object),
        diameter_px=median(np.asarray(table["rlnDiameter"])) if "rlnDiameter" in table else None,
        is_helical=bool((tubes > 0).any()),
        label=-1 if is_negative else None,
        notes=tuple(notes),
        counts=counts,
    )


FORMAT = PickFormat(
    name="RELION STAR",
    programs=("RELION", "Topaz", "crYOLO", "Warp", "CryoSegNet", "Gautomatch", "APPLE picker"),
    suffixes=(".star",),
    recognized_by="a STAR block with `_rlnCoordinateX` and `_rlnCoordinateY`",
    sniff=_sniff,
    read=read,
    position="center",
    score="`_rlnAutopickFigureOfMerit`; -999 is none",
    marks="`_rlnEnabled` 0 or -1: left out and counted as `switched_off`; `_rlnHelicalTubeID`: segments of helices",
    blocks="all with positions; those named like `rejected` only where there is no other, and labeled -1",
    kept="position, score, psi, class, micrograph; from particle tables also optics group and refined shift",
    not_kept="3D angles, CTF of single particles; tables of tomography",
    project_reader="relion",
)
