"""What sets the convention of a project right, where it differs from the frame of `cryoflow.picks`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import MissingMetadata


@dataclass(frozen=True)
class AxisConvention:
    """Axis changes that bring picks into the frame of `cryoflow.picks`: x and y exchanged first, then mirrored."""

    flip_x: bool = False
    flip_y: bool = False
    swap_xy: bool = False

    def __str__(self) -> str:
        names = ("swap_xy", "flip_x", "flip_y")
        return " ".join(f"--{n.replace('_', '-')}" for n in names if getattr(self, n)) or "none"


AS_STORED = AxisConvention()


def apply(
    columns: dict[str, npt.NDArray[np.generic]], micrographs: pd.DataFrame, flip: AxisConvention, source: Path
) -> tuple[str, ...]:
    """Bring the columns of a pick table into the frame, in place, and give notes on it.

    Readers call this before `PickSet.build` drops what lies outside a micrograph: with x and y exchanged, half of the
    picks of an oblong micrograph may seem to. In-plane angles are left out, since what a mirror makes of them depends
    on the program.

    Parameters
    ----------
    columns
        Of a pick table: `micrograph`, `x_px`, `y_px` and, where there are, `shift_x_px` and `shift_y_px`.
    micrographs
        The table that `micrograph` points into.
    source
        What was read, for messages.

    Raises
    ------
    MissingMetadata
        Where the shape of a micrograph with picks is not known, without which nothing can be mirrored.
    """
    if flip == AS_STORED:
        return ()
    columns.pop("psi_deg", None)
    if flip.swap_xy:
        for x, y in (("x_px", "y_px"), ("shift_x_px", "shift_y_px")):
            if x in columns and y in columns:
                columns[x], columns[y] = columns[y], columns[x]
    index = columns["micrograph"].astype(np.intp)
    for mirror, axis, size in ((flip.flip_x, "x", "nx"), (flip.flip_y, "y", "ny")):
        if not mirror:
            continue
        sizes = micrographs[size].to_numpy(np.float64, na_value=np.nan)[index]
        if np.isnan(sizes).any():
            name = micrographs["name"].iloc[int(index[np.isnan(sizes)][0])]
            raise MissingMetadata(
                source,
                f"the shape of {name} is not known: {axis} cannot be mirrored.",
                "Say where the micrographs are (--remap OLD=NEW).",
            )
        columns[f"{axis}_px"] = sizes - 1 - columns[f"{axis}_px"].astype(np.float64)
        if (shift := f"shift_{axis}_px") in columns:
            columns[shift] = -columns[shift].astype(np.float64)
    return (f"set right on the user's word: {flip}",)
