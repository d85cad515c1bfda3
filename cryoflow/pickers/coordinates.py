"""Files of picks, whoever wrote them: told apart by what is in them, not by their extension.

Every reader returns centres in the pixels of the picture that the picker saw. Corners are brought to centres here and
nowhere else: `centre = corner + size / 2`.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.formats.cs_csdat import CSDAT_MAGIC
from cryoflow.formats.cs_npy import NPY_MAGIC
from cryoflow.formats.star import read_table
from cryoflow.picks import FloatArray

_SNIFFED = 8192
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf)|<NA>"
_NUMBERS = re.compile(rf"\A\s*(?:{_NUMBER})(?:[ \t,]+(?:{_NUMBER}))+[ \t]*\r?(?:\n|\Z)", re.IGNORECASE)


@dataclass(frozen=True)
class Coordinates:
    """Picks of one file.

    Attributes
    ----------
    form
        Name of the format, a key of `FORMS`.
    table : DataFrame
        `name` (micrograph as the file has it; None where the file's own name says it), `x_px`, `y_px` (centres), and
        `score`, `box_px`, `uid` where the file has them. Scores that stand for none (-999) are NaN.
    """

    form: str
    table: pd.DataFrame


def read_coordinates(path: Path) -> Coordinates:
    """Read the picks of one file.

    Raises
    ------
    BadInput
        Where its content is of no known form, or is damaged.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    form = sniff(start)
    if form == "":
        known = ", ".join(FORMS)
        raise BadInput(
            path, f"is no file of picks that cryoflow knows (it knows {known}).", "Is it what the picker wrote?"
        )
    try:
        table = FORMS[form](path)
    except (ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise BadInput(
            path, f"looks like a {form} file, but cannot be read: {error}", "It may be cut short."
        ) from error
    if "score" in table:
        table["score"] = table["score"].where(table["score"] > -998)
        if table["score"].isna().all() and len(table):
            table = table.drop(columns="score")
    return Coordinates(form, table)


def sniff(start: bytes) -> str:
    """The form of a file from its first bytes; empty where it is none that we know."""
    if not start.strip():
        return "empty"
    if start.startswith((NPY_MAGIC, CSDAT_MAGIC)):
        return "cs"
    text = start.decode("utf-8", errors="replace").lstrip("\ufeff")
    if text.lstrip().startswith("{") and '"boxes' in text:
        return "eman2"
    if "_cbox_format_version" in text or re.search(r"^data_cryolo\s*$", text, re.MULTILINE):
        return "cbox"
    if re.search(r"^\s*data_", text, re.MULTILINE):
        return "star"
    if "[Particle Coordinates" in text:
        return "thi"
    first = text.lstrip().splitlines()[0]
    if re.match(r"image_name[\t ,]+x_coord", first):
        return "topaz"
    if re.match(r'"?X-Coordinate"?,', first):
        return "cryoppp"
    if _NUMBERS.match(text.lstrip()):
        return {2: "xy", 4: "box", 5: "scored box", 7: "old cbox"}.get(len(re.split(r"[\s,]+", first.strip())), "")
    return ""


def _empty(_: Path) -> pd.DataFrame:
    return _table(np.zeros(0), np.zeros(0))


def _table(x: object, y: object, **others: object) -> pd.DataFrame:
    table = {"name": None, "x_px": np.asarray(x, np.float64), "y_px": np.asarray(y, np.float64)} | others
    return pd.DataFrame(table).astype({"name": object})


def _numbers(path: Path) -> FloatArray:
    """Rows of numbers apart by blanks, tabs or commas, with either kind of line end."""
    text = path.read_text(errors="replace").replace(",", " ").replace("<NA>", "nan")
    rows = pd.read_csv(io.StringIO(text), sep=r"\s+", header=None, dtype=np.float64, engine="c", comment="#")
    return rows.to_numpy(np.float64).T


def _xy(path: Path) -> pd.DataFrame:
    rows = _numbers(path)
    return _table(rows[0], rows[1])


def _box(path: Path) -> pd.DataFrame:
    """EMAN1 boxes: corner, width, height. EPicker's .coord has four numbers too: centre, size, score."""
    rows = _numbers(path)
    if path.suffix == ".coord" and not (rows[2] == rows[3]).all():
        return _table(rows[0], rows[1], box_px=rows[2], score=rows[3])
    return _table(rows[0] + rows[2] / 2, rows[1] + rows[3] / 2, box_px=np.maximum(rows[2], rows[3]))


def _scored_box(path: Path) -> pd.DataFrame:
    """Boxes with a score (REPIC, Scipion); EMAN1 writes -1 and -2 there for the ends of filaments."""
    rows = _numbers(path)
    if rows.shape[1] > 1 and rows[4][0] == -1 and rows[4][1] == -2:
        raise BadInput(
            path, "holds filaments, start and end of each.", "Filaments are not read; export segments instead."
        )
    return _table(
        rows[0] + rows[2] / 2,
        rows[1] + rows[3] / 2,
        box_px=np.maximum(rows[2], rows[3]),
        score=rows[4],
    )


def _old_cbox(path: Path) -> pd.DataFrame:
    """crYOLO up to 1.7: corner, width, height, confidence, and an estimate of the particle's size."""
    rows = _numbers(path)
    return _table(
        rows[0] + rows[2] / 2,
        rows[1] + rows[3] / 2,
        box_px=np.maximum(rows[2], rows[3]),
        score=rows[4],
    )


def _cbox(path: Path) -> pd.DataFrame:
    """crYOLO from 1.8 on: the same by name, corner too."""
    columns = read_table(path, "cryolo", ["CoordinateX", "CoordinateY", "Width", "Height"], optional=["Confidence"])
    x, y, width, height = (
        np.asarray(columns[c], np.float64) for c in ("CoordinateX", "CoordinateY", "Width", "Height")
    )
    others = {"score": np.asarray(columns["Confidence"], np.float64)} if "Confidence" in columns else {}
    return _table(x + width / 2, y + height / 2, box_px=np.maximum(width, height), **others)


def _star(path: Path) -> pd.DataFrame:
    """RELION's, Topaz's, Warp's, EPicker's, crYOLO's and CryoSegNet's STAR files: centres, by name of column."""
    optional = ["rlnMicrographName", "rlnAutopickFigureOfMerit", "rlnDiameter"]
    columns = read_table(
        path, None, ["rlnCoordinateX", "rlnCoordinateY"], optional=optional, text_columns=["rlnMicrographName"]
    )
    others: dict[str, object] = {}
    for name, column in (("score", "rlnAutopickFigureOfMerit"), ("box_px", "rlnDiameter")):
        if column in columns:
            others[name] = np.asarray(columns[column], np.float64)
    table = _table(columns["rlnCoordinateX"], columns["rlnCoordinateY"], **others)
    if "rlnMicrographName" in columns:
        table["name"] = np.asarray(columns["rlnMicrographName"], object)
    return table


def _topaz(path: Path) -> pd.DataFrame:
    rows = (
        pd.read_csv(path, sep=r"[\t,]|\s+", engine="python", dtype={"image_name": str})
        if b"," in path.read_bytes()[:200]
        else None
    )
    rows = pd.read_csv(path, sep=r"\s+", dtype={"image_name": str}) if rows is None else rows
    others = {"score": rows["score"].to_numpy(np.float64)} if "score" in rows else {}
    table = _table(rows["x_coord"], rows["y_coord"], **others)
    table["name"] = rows["image_name"].to_numpy(object)
    return table


def _thi(path: Path) -> pd.DataFrame:
    """EPicker's own: a head with the columns' names, rows, `[End]`."""
    lines = [line.split() for line in path.read_text().splitlines()]
    rows = np.array(
        [row[:3] for row in lines if row and not row[0].startswith("[") and not row[-1].endswith("]")], np.float64
    )
    rows = rows.reshape(-1, 3)
    return _table(rows[:, 0], rows[:, 1], score=rows[:, 2])


def _cryoppp(path: Path) -> pd.DataFrame:
    rows = pd.read_csv(path)
    others = {"box_px": rows["Diameter"].to_numpy(np.float64)} if "Diameter" in rows else {}
    return _table(rows["X-Coordinate"], rows["Y-Coordinate"], **others)


def _eman2(path: Path) -> pd.DataFrame:
    boxes = json.loads(path.read_text()).get("boxes", [])
    return _table([b[0] for b in boxes], [b[1] for b in boxes])


def _cs(path: Path) -> pd.DataFrame:
    """CryoSPARC: fractions of width and height; `micrograph_shape` is (ny, nx)."""
    place = "location/"
    wanted = [place + n for n in ("micrograph_path", "micrograph_shape", "center_x_frac", "center_y_frac")]
    scores = [n for n in ("pick_stats/ncc_score", "pick_stats/power") if n in (read_cs_header(path).dtype.names or ())]
    columns = read_cs(path, ["uid", *wanted, *scores[:1]])
    shape, x_frac, y_frac = (np.asarray(columns[c], np.float64) for c in wanted[1:])
    others = {"score": columns[scores[0]].astype(np.float64)} if scores else {}
    table = _table(x_frac * shape[:, 1], y_frac * shape[:, 0], uid=columns["uid"], **others)
    table["name"] = [
        n.decode(errors="surrogateescape") if isinstance(n, bytes) else str(n) for n in columns[wanted[0]].tolist()
    ]
    return table


FORMS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "empty": _empty,
    "cs": _cs,
    "eman2": _eman2,
    "cbox": _cbox,
    "star": _star,
    "thi": _thi,
    "topaz": _topaz,
    "cryoppp": _cryoppp,
    "xy": _xy,
    "box": _box,
    "scored box": _scored_box,
    "old cbox": _old_cbox,
}
"""Form -> reader."""
