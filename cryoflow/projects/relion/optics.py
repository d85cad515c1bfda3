"""Optics of particles and micrographs, in all generations of STAR files.

From 3.1 an optics block has a row for each group, and a table refers to it by number; before, each row had its own
`rlnMagnification` and `rlnDetectorPixelSize` (um); the pixel size is `DetectorPixelSize * 1e4 / Magnification`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.star import Table, read_table
from cryoflow.micrographs.header import is_pixel_size

NAN = float("nan")
OLD_COLUMNS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnMagnification",
    "rlnDetectorPixelSize",
    "rlnPixelSize",
    "rlnMicrographPixelSize",
)
"""Columns that hold the optics of a row where there is no optics block."""


@dataclass(frozen=True)
class Optics:
    """One optics group; what is not known is NaN.

    Attributes
    ----------
    image_pixel_size_A
        Of extracted boxes, after rescaling.
    micrograph_pixel_size_A
        Of the micrographs that coordinates refer to.
    movie_pixel_size_A
        Of the movies before binning.
    box_A
        Edge of the extracted box.
    """

    name: str = ""
    image_pixel_size_A: float = NAN
    micrograph_pixel_size_A: float = NAN
    movie_pixel_size_A: float = NAN
    box_A: float = NAN
    voltage_kV: float = NAN
    cs_mm: float = NAN
    amplitude_contrast: float = NAN


def read_optics(path: Path) -> dict[int, Optics]:
    """Return the optics groups of a file by their number, wherever the block stands.

    Raises
    ------
    BadInput
        Where the file has no optics block, or it is damaged.
    """
    table = read_table(path, "optics")
    numbers = table.get("rlnOpticsGroup")
    n = len(next(iter(table.values()), ()))
    groups: dict[int, Optics] = {}
    for row in range(n):
        number = _value(table, "rlnOpticsGroup", row) if numbers is not None else float(row + 1)
        if np.isnan(number):
            raise BadInput(path, "an optics group has no number (_rlnOpticsGroup).")
        image = _pixel_size(table, "rlnImagePixelSize", row)
        groups[int(number)] = Optics(
            name=str(table["rlnOpticsGroupName"][row]) if "rlnOpticsGroupName" in table else "",
            image_pixel_size_A=image,
            micrograph_pixel_size_A=_pixel_size(table, "rlnMicrographPixelSize", row),
            movie_pixel_size_A=_pixel_size(table, "rlnMicrographOriginalPixelSize", row),
            box_A=_positive(table, "rlnImageSize", row) * image,
            voltage_kV=_positive(table, "rlnVoltage", row),
            cs_mm=_value(table, "rlnSphericalAberration", row),
            amplitude_contrast=_value(table, "rlnAmplitudeContrast", row),
        )
    return groups


def old_optics(table: Table, row: int) -> Optics:
    """Return the optics that a row of an old table carries itself."""
    magnification = _positive(table, "rlnMagnification", row)
    pixel_size_A = _pixel_size(table, "rlnPixelSize", row)
    if np.isnan(pixel_size_A):
        on_detector_um = _positive(table, "rlnDetectorPixelSize", row)
        pixel_size_A = round(on_detector_um * 1e4 / magnification, 6)
        pixel_size_A = pixel_size_A if is_pixel_size(pixel_size_A) else NAN
    return Optics(
        image_pixel_size_A=pixel_size_A,
        micrograph_pixel_size_A=_pixel_size(table, "rlnMicrographPixelSize", row),
        voltage_kV=_positive(table, "rlnVoltage", row),
        cs_mm=_value(table, "rlnSphericalAberration", row),
        amplitude_contrast=_value(table, "rlnAmplitudeContrast", row),
    )


def optics_of_row(groups: Mapping[int, Optics], table: Table, row: int) -> Optics:
    """Return the optics of a row: those of its group, or what the row itself carries where the file has no optics
    block.

    A row that names no group has what all groups agree on; where there is one group, that is all of it.
    """
    if not groups:
        return old_optics(table, row)
    number = _value(table, "rlnOpticsGroup", row)
    if np.isnan(number):
        return agreed(groups.values())
    return groups.get(int(number), Optics()) if np.isfinite(number) else Optics()


def agreed(all_optics: Iterable[Optics]) -> Optics:
    """Return what several groups agree on; a value that differs between them is unknown."""
    first, *rest = all_optics
    agrees = {name: all(getattr(other, name) == value for other in rest) for name, value in vars(first).items()}
    numbers = {name: NAN for name, same in agrees.items() if not same and name != "name"}
    return replace(first, name=first.name if agrees["name"] else "", **numbers)


def merged(first: Optics, second: Optics) -> Optics:
    """Return `first`, completed by `second`."""
    changes = {
        name: getattr(second, name)
        for name, value in vars(first).items()
        if isinstance(value, float) and np.isnan(value) and not np.isnan(getattr(second, name))
    }
    return replace(first, **changes)


def _value(table: Table, column: str, row: int) -> float:
    if column not in table:
        return NAN
    try:
        return float(table[column][row])  # type: ignore[arg-type]
    except ValueError:
        return NAN


def _positive(table: Table, column: str, row: int) -> float:
    value = _value(table, column, row)
    return value if np.isfinite(value) and value > 0 else NAN


def _pixel_size(table: Table, column: str, row: int) -> float:
    value = _value(table, column, row)
    return value if is_pixel_size(value) else NAN
