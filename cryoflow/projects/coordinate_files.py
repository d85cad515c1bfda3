"""One file of picks, of any program: told by its content, since extensions are used for anything.

Boxes (`.box`, `.cbox`) give a corner and a size, all others the centre. Everything comes out as centres.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.star import Table, read_table
from cryoflow.formats.star_blocks import walk
from cryoflow.formats.star_rows import is_number
from cryoflow.storage import inputs

_UNKNOWN = -999.0
_LARGEST_TEXT_BYTES = 1 << 30

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FilePicks:
    """Picks of a file, in its order; the frame of `cryoflow.picks` but for `y_is_flipped`.

    Attributes
    ----------
    format
        What the file was taken for.
    x_px, y_px : (n,) float
        Centres.
    score, psi_deg, class_number : (n,) or None
        Where the file has them.
    micrographs : (n,) text or None
        Micrograph of each pick, where one file is for several.
    box_px
        Edge of the boxes, where they have one and it is the same; else their mean.
    diameter_px
        Where the file says it.
    y_is_flipped
        y counts from the last stored row: labels of CryoPPP.
    """

    format: str
    x_px: FloatArray
    y_px: FloatArray
    score: FloatArray | None = None
    score_kind: str = ""
    psi_deg: FloatArray | None = None
    class_number: npt.NDArray[np.int32] | None = None
    micrographs: npt.NDArray[np.object_] | None = None
    box_px: float | None = None
    diameter_px: float | None = None
    y_is_flipped: bool = False
    is_helical: bool = False


def read_coordinate_file(path: Path) -> FilePicks:
    """Read one file of picks.

    A file of no bytes has no picks, unless it is named `.star`: other programs write it for an empty micrograph.

    Raises
    ------
    BadInput
        Where the content is none that is known, is damaged, or describes no centres of particles (ends of helices,
        tomograms).
    """
    try:
        with inputs.opened(path) as file:
            head = file.read(8192)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    if not head.strip():
        if path.suffix == ".star":
            raise BadInput(path, "is empty.", "The job that wrote it was cut short, or the disk was full.")
        return FilePicks("empty", np.zeros(0), np.zeros(0))
    if re.search(rb"(?m)^\s*data_\S*\s*$", head) or path.suffix == ".star":
        return _from_star(path)
    if head.startswith((b"version https://git-lfs", b"<", b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        for _ in walk(path):  # says what it is
            break
    if b"[Particle Coordinates:" in head:
        return _from_thi(path)
    first = head.lstrip(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    words = re.split(rb"[,;\s]+", first.strip())
    return _from_numbers(path) if all(map(is_number, words)) or first.startswith(b"#") else _from_table(path, first)


def _from_star(path: Path) -> FilePicks:
    for block in walk(path):
        columns = set(block.columns)
        for c in ("rlnCenteredCoordinateXAngst", "rlnTomoName", "rlnCoordinateZ"):
            if c in columns:
                raise BadInput(path, f"is of tomography (it has _{c}).", "Picks in three dimensions are not read.")
        if {"CoordinateX", "CoordinateY", "Width", "Height"} <= columns:
            return _from_cbox(path, block.name)
        if {"rlnCoordinateX", "rlnCoordinateY"} <= columns:
            return _from_relion(path)
    columns_found = sorted({c for block in walk(path) for c in block.columns})
    raise BadInput(path, f"has no _rlnCoordinateX and _rlnCoordinateY (columns: {', '.join(columns_found[:40])}).")


def _from_relion(path: Path) -> FilePicks:
    optional = ["rlnAutopickFigureOfMerit", "rlnAnglePsi", "rlnClassNumber", "rlnMicrographName", "rlnHelicalTubeID"]
    table = read_table(path, None, ["rlnCoordinateX", "rlnCoordinateY"], optional=[*optional, "rlnDiameter"])
    classes = table.get("rlnClassNumber")
    score = _known(table, "rlnAutopickFigureOfMerit")
    names = table.get("rlnMicrographName")
    return FilePicks(
        "RELION STAR",
        np.asarray(table["rlnCoordinateX"]),
        np.asarray(table["rlnCoordinateY"]),
        score,
        "rlnAutopickFigureOfMerit" if score is not None else "",
        _known(table, "rlnAnglePsi"),
        None if classes is None else np.where(np.asarray(classes) > 0, np.asarray(classes), 0).astype(np.int32),
        None if names is None else np.asarray(names, object),
        diameter_px=_mean(np.asarray(table["rlnDiameter"])) if "rlnDiameter" in table else None,
        is_helical="rlnHelicalTubeID" in table,
    )


def _known(table: Table, column: str) -> FloatArray | None:
    """A column with RELION's -999 as NaN; None where there is nothing else in it."""
    if column not in table:
        return None
    values = np.asarray(table[column], np.float64).copy()
    values[values == _UNKNOWN] = np.nan
    return None if len(values) and np.isnan(values).all() else values


def _from_cbox(path: Path, block: str) -> FilePicks:
    """crYOLO 1.8 and later: all that it detected, down to a low confidence."""
    table = read_table(
        path,
        block,
        ["CoordinateX", "CoordinateY", "Width", "Height"],
        optional=["CoordinateZ", "Confidence", "filamentid", "EstWidth", "EstHeight"],
    )
    z = np.asarray(table.get("CoordinateZ", np.zeros(0)), np.float64)
    if (np.nan_to_num(z) > 0).any():
        raise BadInput(path, "is of tomography (_CoordinateZ is set).", "Picks in three dimensions are not read.")
    width, height = np.asarray(table["Width"]), np.asarray(table["Height"])
    estimated = np.concatenate(
        [np.asarray(table[c], np.float64) for c in ("EstWidth", "EstHeight") if c in table] or [width]
    )
    return FilePicks(
        "crYOLO cbox",
        np.asarray(table["CoordinateX"]) + width / 2,
        np.asarray(table["CoordinateY"]) + height / 2,
        np.asarray(table["Confidence"]) if "Confidence" in table else None,
        "crYOLO confidence" if "Confidence" in table else "",
        box_px=_mean(np.concatenate([width, height])),
        diameter_px=_mean(estimated[np.isfinite(estimated)]),
        is_helical="filamentid" in table and bool(np.isfinite(np.asarray(table["filamentid"], np.float64)).any()),
    )


def _from_thi(path: Path) -> FilePicks:
    """EPicker: `x y score` lines between two lines in brackets."""
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.lstrip().startswith("[")]
    rows = _numbers(path, lines)
    if rows.shape[1] < 2:
        raise BadInput(path, "has lines of one number, where x, y and a score are expected.", "Was it cut short?")
    return FilePicks("EPicker thi", rows[:, 0], rows[:, 1], rows[:, 2] if rows.shape[1] > 2 else None, "EPicker score")


def _from_numbers(path: Path) -> FilePicks:
    """Lines of numbers alone, told by how many a line has."""
    lines = [line for line in _text(path).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    rows = _numbers(path, [line.replace(",", " ") for line in lines])
    make = _BY_WIDTH.get(rows.shape[1])
    if make is None:
        raise BadInput(
            path, f"has lines of {rows.shape[1]} numbers; 2 (x y), 3 (x y score), 4 or more (boxes) are known."
        )
    return make(path, rows)


def _centres(_: Path, rows: FloatArray) -> FilePicks:
    score = rows[:, 2] if rows.shape[1] > 2 else None
    return FilePicks("text of centres", rows[:, 0], rows[:, 1], score, "third column" if score is not None else "")


def _boxes(path: Path, rows: FloatArray) -> FilePicks:
    """EMAN1 and crYOLO: x y width height, the corner; a fifth column is REPIC's score, or -1 and -2 for helices."""
    if rows.shape[1] == 5 and set(np.unique(rows[:, 4])) <= {-1.0, -2.0}:
        raise BadInput(path, "holds start and end points of helices, not centres of particles.")
    if (rows[:, 2:4] <= 0).any():
        raise BadInput(
            path,
            "has boxes without a size, of which the centre cannot be known.",
            "Name the box size when writing them.",
        )
    return FilePicks(
        "EMAN box",
        rows[:, 0] + rows[:, 2] / 2,
        rows[:, 1] + rows[:, 3] / 2,
        rows[:, 4] if rows.shape[1] == 5 else None,
        "fifth column" if rows.shape[1] == 5 else "",
        box_px=_mean(rows[:, 2:4]),
    )


def _old_cbox(_: Path, rows: FloatArray) -> FilePicks:
    """crYOLO up to 1.7: x y width height confidence, and estimated width and height."""
    return FilePicks(
        "crYOLO cbox (old)",
        rows[:, 0] + rows[:, 2] / 2,
        rows[:, 1] + rows[:, 3] / 2,
        rows[:, 4],
        "crYOLO confidence",
        box_px=_mean(rows[:, 2:4]),
        diameter_px=_mean(rows[:, 5:7]),
    )


_BY_WIDTH: dict[int, Callable[[Path, FloatArray], FilePicks]] = {
    2: _centres,
    3: _centres,
    4: _boxes,
    5: _boxes,
    7: _old_cbox,
}

_X = ("x_coord", "x-coordinate", "rlncoordinatex", "x_px", "center_x", "x")
_Y = ("y_coord", "y-coordinate", "rlncoordinatey", "y_px", "center_y", "y")
_SCORE = ("score", "rlnautopickfigureofmerit", "confidence", "probability", "fom")
_NAME = ("image_name", "micrograph", "micrograph_name", "rlnmicrographname", "image", "filename")
_DIAMETER = ("diameter", "diameter_px")


def _from_table(path: Path, first: bytes) -> FilePicks:
    """A table with a line of names: Topaz, CryoPPP, and anybody's CSV."""
    import pandas as pd

    separator = "\t" if b"\t" in first else "," if b"," in first else ";" if b";" in first else r"\s+"
    try:
        with inputs.opened_table(path) as file:
            frame = pd.read_csv(file, sep=separator, dtype="object", encoding="utf-8-sig", skipinitialspace=True)
    except (ValueError, OSError, pd.errors.ParserError) as error:
        raise BadInput(path, f"cannot be read as a table: {error}.") from error
    labels = {str(label).strip().lstrip("_").lower(): label for label in frame.columns}

    def column(known: tuple[str, ...]) -> pd.Series | None:
        found = next((labels[name] for name in known if name in labels), None)
        return None if found is None else frame[found]

    x, y = column(_X), column(_Y)
    if x is None or y is None:
        raise MissingMetadata(
            path,
            f"has no columns of x and y (columns: {', '.join(map(str, frame.columns[:20]))}).",
            f"Known names are {', '.join(_X)} and {', '.join(_Y)}.",
        )
    score, names, diameter = column(_SCORE), column(_NAME), column(_DIAMETER)
    is_cryoppp = "x-coordinate" in labels
    kind = "Topaz table" if "image_name" in labels and "x_coord" in labels else "table"
    return FilePicks(
        "CryoPPP CSV" if is_cryoppp else kind,
        _column_of_numbers(path, "x", x),
        _column_of_numbers(path, "y", y),
        None if score is None else _column_of_numbers(path, "score", score),
        "" if score is None else "Topaz score" if kind == "Topaz table" else "score",
        micrographs=None if names is None else np.array([str(n) for n in names], object),
        diameter_px=None if diameter is None else _mean(_column_of_numbers(path, "diameter", diameter)),
        y_is_flipped=is_cryoppp,
    )


def _column_of_numbers(path: Path, name: str, column: object) -> FloatArray:
    import pandas as pd

    try:
        return np.asarray(pd.to_numeric(column), np.float64)  # type: ignore[call-overload]
    except (ValueError, TypeError) as error:
        raise BadInput(path, f"column {name} holds text where numbers are expected: {error}.") from error


def _text(path: Path) -> str:
    if path.stat().st_size > _LARGEST_TEXT_BYTES:
        raise BadInput(path, "is too large for a text file of picks.")
    try:
        with inputs.opened_table(path) as file:
            return file.read().decode("utf-8-sig", "replace")
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error


def _numbers(path: Path, lines: list[str]) -> FloatArray:
    rows = [line.split() for line in lines]
    if not rows:
        return np.zeros((0, 2))
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise BadInput(path, f"has lines of {min(widths)} and of {max(widths)} words.", "Was it cut short?")
    try:
        return np.array(rows, np.float64).reshape(len(rows), -1)
    except ValueError as error:
        raise BadInput(path, f"is no file of picks that is known: {error}.") from error


def _mean(values: npt.NDArray[np.floating]) -> float | None:
    finite = values[np.isfinite(values)]
    return round(float(finite.mean()), 2) if finite.size else None
