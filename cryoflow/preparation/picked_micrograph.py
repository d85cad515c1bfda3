"""Micrographs with their picks: the input of both networks, with a label for each pick."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.ctf import Ctf
from cryoflow.picks import PickSet

POSITIVE, NEGATIVE, UNLABELED = 1, -1, 0
"""Labels of picks: a particle, no particle, unknown."""


@dataclass(frozen=True)
class PickedMicrograph:
    """A micrograph and its picks.

    Attributes
    ----------
    name
        Tells it from all others of its data set.
    path
        The image, which may turn out to be missing or unreadable when its turn comes.
    pixel_size_A, diameter_A
        Of the micrograph, and of the particle.
    centers_xy_px : (n, 2) float
        In the frame of `cryoflow.picks`.
    labels : (n,) int8
        1 positive, -1 negative, 0 unlabeled.
    data_set
        The project (or folder) that it belongs to.
    ctf
        None where unknown.
    """

    name: str
    path: Path
    pixel_size_A: float
    diameter_A: float
    centers_xy_px: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int8]
    data_set: str = ""
    ctf: Ctf | None = None

    @property
    def key(self) -> str:
        """Return data set and name."""
        return f"{self.data_set}/{self.name}" if self.data_set else self.name

    @property
    def defocus_A(self) -> float:
        """Return the mean of the two defocus values, NaN where unknown."""
        return float("nan") if self.ctf is None else (self.ctf.defocus_u_A + self.ctf.defocus_v_A) / 2

    def count(self, label: int) -> int:
        """Return number of picks with a label."""
        return int((self.labels == label).sum())


def picked_micrographs(picks: PickSet, *, diameter_A: float | None = None) -> tuple[list[PickedMicrograph], list[str]]:
    """Return the micrographs of a pick set that have picks and an image, and notes on those left out.

    Parameters
    ----------
    diameter_A
        Used where the pick set does not know its own.

    Raises
    ------
    BadInput
        Where no particle diameter is known.
    """
    diameter = picks.diameter_A or diameter_A
    where = picks.provenance.project
    if diameter is None:
        raise BadInput(where, f"the particle diameter of {picks.provenance.entry_name} is unknown.", "Give --diameter.")
    data_set = picks.provenance.project_name
    found: list[PickedMicrograph] = []
    missing: list[str] = []
    no_pixel_size: list[str] = []
    centers = picks.centers_xy_px
    labels = picks.picks["label"].to_numpy(np.int8) if "label" in picks.picks else np.zeros(len(picks), np.int8)
    offsets = picks.offsets
    names = [str(name) for name in picks.micrographs["name"]]
    paths = [None if path is None else Path(str(path)) for path in picks.micrographs["path"]]
    sizes_A = picks.micrographs["pixel_size_A"].to_numpy(np.float64)
    for i, row in enumerate(picks.micrographs.itertuples(index=False)):
        these = slice(offsets[i], offsets[i + 1])
        if offsets[i] == offsets[i + 1]:
            continue
        size = float(sizes_A[i])
        path = paths[i]
        if path is None:
            missing.append(names[i])
        elif not np.isfinite(size):
            no_pixel_size.append(names[i])
        else:
            found.append(
                PickedMicrograph(
                    name=names[i],
                    path=path,
                    pixel_size_A=size,
                    diameter_A=float(diameter),
                    centers_xy_px=centers[these],
                    labels=labels[these],
                    data_set=data_set,
                    ctf=ctf_of(row),
                )
            )
    entry = f"{picks.provenance.project_name}/{picks.provenance.entry_name}"
    notes = [
        f"{entry}: {len(lost)} micrographs {why} ({lost[0]}, ...)"
        for lost, why in ((missing, "are missing"), (no_pixel_size, "have no pixel size"))
        if lost
    ]
    return found, notes


def ctf_of(row: object) -> Ctf | None:
    """Return the CTF of one row of a micrograph table, None where its defocus is unknown; other values have usual
    defaults."""
    names = [f.name for f in dataclasses.fields(Ctf)]
    values = {name: float(getattr(row, name)) for name in names}
    known = {name: value for name, value in values.items() if np.isfinite(value)}
    return Ctf(**known) if {"defocus_u_A", "defocus_v_A"} <= set(known) else None
