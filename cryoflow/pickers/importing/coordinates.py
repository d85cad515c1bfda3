"""Files of picks, whoever wrote them: told apart by what is in them, not by their extension.

Text is read by `cryoflow.projects.coordinate_files`; what only programs write for programs is read here: CryoSPARC's
datasets, EMAN2's JSON and EPicker's `.coord`. All give centres, in the pixels of the picture that the picker saw.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.formats.cs_csdat import CSDAT_MAGIC
from cryoflow.formats.cs_npy import NPY_MAGIC
from cryoflow.projects.coordinate_files import read_coordinate_file
from cryoflow.storage import inputs

_SNIFFED = 8192
_COORD_ROW = re.compile(rb"\s*(?:[-+.\deE]+\s+){3}[-+.\deE]+\s*\r?\n")


@dataclass(frozen=True)
class Coordinates:
    """Picks of one file.

    Attributes
    ----------
    form
        What the file was taken for.
    table : DataFrame
        `name` (micrograph as the file has it; None where the file's own name says it), `x_px`, `y_px` (centres), and
        `score`, `uid` where the file has them. A score that stands for none is NaN.
    diameter_px
        Of the particles, where the file says it.
    y_is_flipped
        y counts from the last row: CryoPPP's tables.
    """

    form: str
    table: pd.DataFrame
    diameter_px: float | None = None
    y_is_flipped: bool = False


def read_coordinates(path: Path) -> Coordinates:
    """Read the picks of one file; a file of no bytes is a micrograph without picks.

    Raises
    ------
    BadInput
        Where its content is of no known form, or is damaged.
    """
    try:
        with inputs.opened(path) as file:
            start = file.read(_SNIFFED)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    if not start.strip():
        return Coordinates("empty", _table([], []))
    if start.startswith((NPY_MAGIC, CSDAT_MAGIC)):
        return Coordinates("CryoSPARC dataset", _cs(path))
    if start.lstrip().startswith(b"{"):
        return Coordinates("EMAN2 JSON", _eman2(path))
    if path.suffix == ".coord" and _COORD_ROW.match(start):
        return Coordinates("EPicker coord", _epicker_coord(path))
    found = read_coordinate_file(path)
    table = _table(found.x_px, found.y_px)
    if found.score is not None:
        table["score"] = found.score
    if found.micrographs is not None:
        table["name"] = found.micrographs
    return Coordinates(found.format, table, found.diameter_px, found.y_is_flipped)


def _table(x: object, y: object) -> pd.DataFrame:
    values = {"name": None, "x_px": np.asarray(x, np.float64), "y_px": np.asarray(y, np.float64)}
    return pd.DataFrame(values).astype({"name": object})


def _epicker_coord(path: Path) -> pd.DataFrame:
    """Centre, size, score. Four numbers elsewhere are EMAN's boxes."""
    try:
        rows = np.loadtxt(inputs.read_text(path).splitlines(), ndmin=2, usecols=range(4))
    except (ValueError, OSError) as error:
        raise BadInput(path, f"is no EPicker table of four numbers a line: {error}", "It may be cut short.") from error
    return _table(rows[:, 0], rows[:, 1]).assign(score=rows[:, 3])


def _eman2(path: Path) -> pd.DataFrame:
    try:
        boxes = json.loads(inputs.read_text(path)).get("boxes", [])
        return _table([float(b[0]) for b in boxes], [float(b[1]) for b in boxes])
    except (OSError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise BadInput(path, f"is no info file of EMAN2 with boxes: {error}", "It may be cut short.") from error


def _cs(path: Path) -> pd.DataFrame:
    """CryoSPARC: fractions of width and height; `micrograph_shape` is (ny, nx)."""
    wanted = [f"location/{n}" for n in ("micrograph_path", "micrograph_shape", "center_x_frac", "center_y_frac")]
    known = read_cs_header(path).dtype.names or ()
    scores = [n for n in ("pick_stats/ncc_score", "pick_stats/power") if n in known][:1]
    columns = read_cs(path, ["uid", *wanted, *scores])
    shape, x_frac, y_frac = (np.asarray(columns[c], np.float64) for c in wanted[1:])
    table = _table(x_frac * shape[:, 1], y_frac * shape[:, 0]).assign(uid=columns["uid"])
    if scores:
        table["score"] = columns[scores[0]].astype(np.float64)
    names = columns[wanted[0]].tolist()
    table["name"] = [n.decode(errors="surrogateescape") if isinstance(n, bytes) else str(n) for n in names]
    return table
