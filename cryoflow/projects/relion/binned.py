"""Micrographs that are not the size that the picks were made at: binned copies, recognized by several signs at once.

RELION's particle tables give pixels, and no shape to hold them against. A copy is taken for binned where its header has
another pixel size than the project, and either the motion correction's own record of the movie's size agrees, or the
picks themselves do: they reach beyond the file as they are, and fill it once scaled. A header alone is no proof, since
many programs leave the old pixel size in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_blocks

_SAME = 0.02
_MANY_OUTSIDE = 0.05
_FEW_OUTSIDE = 0.01
_ENOUGH_PICKS = 100
"""Of picks that all lie in one corner of a larger file: fewer could do so by chance."""

FloatArray = npt.NDArray[np.float64]


def scale_to_files(
    micrographs: pd.DataFrame,
    header_pixel_size_A: FloatArray,
    metadata: Mapping[str, str],
    project: Path,
    rows: npt.NDArray[np.integer],
    x_px: FloatArray,
    y_px: FloatArray,
) -> tuple[FloatArray, list[str]]:
    """Return what positions have to be multiplied with on each micrograph, and notes.

    Changes `micrographs` in place: the pixel size of a binned copy is its own, and one that fits in no way is
    `unreadable`, with its shape unknown so that its picks are kept.

    Parameters
    ----------
    header_pixel_size_A : (n_micrographs,) float
        From the MRC headers, NaN where unknown.
    metadata
        Micrograph -> motion correction's file on it, relative to the project.
    rows : (n,) int
        Micrograph of each pick.
    x_px, y_px : (n,) float
        Recorded positions; with x and y exchanged already where they are to be.
    """
    scale = np.ones(len(micrographs))
    said_A = micrographs["pixel_size_A"].to_numpy(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(np.isclose(header_pixel_size_A, 1.0, atol=1e-3), np.nan, header_pixel_size_A) / said_A
        differs = np.abs(ratio - 1) > _SAME
    differs &= (micrographs["status"] == "found").to_numpy()
    if not differs.any():
        return scale, []
    nx, ny = (micrographs[c].to_numpy(np.float64, na_value=np.nan) for c in ("nx", "ny"))
    n_scaled = n_odd = n_believed = 0
    for group in np.unique(np.round(ratio[differs], 2)).tolist():
        members = np.flatnonzero(differs & (np.round(ratio, 2) == group))
        of_these = np.isin(rows, members)
        x_part, y_part = x_px[of_these] / nx[rows[of_these]], y_px[of_these] / ny[rows[of_these]]
        stated = _stated_ratio(micrographs, members, metadata, project)
        is_binned = stated is not None and abs(stated / group - 1) <= _SAME
        if stated is None:
            is_binned = _fills_once_scaled(x_part, y_part, group)
        if is_binned:
            scale[members] = 1 / (stated if stated is not None else ratio[members])
            n_scaled += len(members)
        elif stated is None and _outside(x_part, y_part) >= _MANY_OUTSIDE:
            n_odd += len(members)
            micrographs.loc[members, "status"] = "unreadable"
            micrographs.loc[members, ["ny", "nx"]] = pd.NA
        else:
            n_believed += len(members)
    micrographs["pixel_size_A"] = np.where(scale == 1, said_A, np.round(said_A / scale, 6))
    told_notes = (
        (n_scaled, "micrographs are binned copies of those that were picked on; picks and pixel sizes were scaled"),
        (n_odd, "micrographs have a size that does not fit the picks"),
        (n_believed, "micrographs have another pixel size in their headers than in the project, which was believed"),
    )
    return scale, [f"{number} {text}" for number, text in told_notes if number]


def _outside(x_part: FloatArray, y_part: FloatArray) -> float:
    """Return share of positions, as parts of the micrograph, that lie outside; 0 where there is none."""
    known = np.isfinite(x_part) & np.isfinite(y_part)
    if not known.any():
        return 0.0
    inside = (np.minimum(x_part, y_part) > -_SAME) & (np.maximum(x_part, y_part) < 1 + _SAME)
    return float(1 - inside[known].mean())


def _fills_once_scaled(x_part: FloatArray, y_part: FloatArray, ratio: float) -> bool:
    """Return whether the picks tell that the file is `ratio` times coarser than what they were made on."""
    as_is, scaled = _outside(x_part, y_part), _outside(x_part / ratio, y_part / ratio)
    if ratio > 1:
        return as_is >= _MANY_OUTSIDE and scaled <= _FEW_OUTSIDE
    return len(x_part) >= _ENOUGH_PICKS and scaled <= _FEW_OUTSIDE and ratio < 1 - _MANY_OUTSIDE


def _stated_ratio(
    micrographs: pd.DataFrame, members: npt.NDArray[np.intp], metadata: Mapping[str, str], project: Path
) -> float | None:
    """Return how many times coarser a file is than what motion correction wrote; None where it left no record."""
    for row in members[:3].tolist():
        file = metadata.get(str(micrographs["name"].iloc[row]))
        if not file:
            continue
        try:
            general = read_blocks(project / file).get("general")
            if not isinstance(general, dict):
                continue
            binning = float(general.get("rlnMicrographBinning", 1))
            parts = [
                float(general[label]) / binning / float(micrographs[axis].iloc[row])
                for label, axis in (("rlnImageSizeX", "nx"), ("rlnImageSizeY", "ny"))
            ]
        except (BadInput, KeyError, ValueError, TypeError, ZeroDivisionError):
            continue
        if parts[0] > 0 and abs(parts[0] / parts[1] - 1) <= _SAME:
            return parts[0]
    return None
