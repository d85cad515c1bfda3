"""How jobs are read: what a user may set, and the flips that set a project's convention right."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.picks import PickSet


@dataclass(frozen=True)
class Flip:
    """What brings a project's picks into the frame of `cryoflow.picks`: x and y exchanged first, then mirrored."""

    flip_x: bool = False
    flip_y: bool = False
    swap_xy: bool = False

    def __str__(self) -> str:
        names = ("swap_xy", "flip_x", "flip_y")
        return " ".join(f"--{n.replace('_', '-')}" for n in names if getattr(self, n)) or "none"


@dataclass(frozen=True)
class IngestOptions:
    """How jobs are read.

    Attributes
    ----------
    include_unfinished
        Read jobs that run, failed or were killed, too.
    remaps
        Old folder -> new folder of micrographs that were moved.
    flips
        Project -> flip, by the project's name or its path.
    check_orientation
        Compare each entry's convention with the pixels, and draw its picks on a few micrographs.
    reread
        Read unchanged jobs again, too.
    """

    include_unfinished: bool = False
    remaps: Mapping[str, str] = field(default_factory=dict)
    flips: Mapping[str, Flip] = field(default_factory=dict)
    check_orientation: bool = True
    reread: bool = False

    def flip_of(self, project_name: str, project: Path) -> Flip:
        """The flip of a project, none by default."""
        return self.flips.get(str(project)) or self.flips.get(project_name) or Flip()

    def unused_flips(self, projects: Mapping[str, Path]) -> list[str]:
        """Projects of `flips` that are not among these (name -> path): most likely misspelt."""
        known = set(projects) | {str(path) for path in projects.values()}
        return sorted(name for name in self.flips if name not in known)


def flips_by_project(
    flip_x: tuple[str, ...] = (), flip_y: tuple[str, ...] = (), swap_xy: tuple[str, ...] = ()
) -> dict[str, Flip]:
    """Flips a project from the options of the command line, each of which names projects."""
    return {
        project: Flip(project in flip_x, project in flip_y, project in swap_xy)
        for project in dict.fromkeys((*flip_x, *flip_y, *swap_xy))
    }


def flipped(pickset: PickSet, flip: Flip) -> PickSet:
    """The picks in the frame, where the project's own convention differs from it.

    In-plane angles are left out, since what a mirror makes of them depends on the program.

    Raises
    ------
    MissingMetadata
        Where the shape of a micrograph with picks is not known, without which nothing can be mirrored.
    BadInput
        Where positions were dropped as outside that exchanging x and y would have brought inside.
    """
    if flip == Flip():
        return pickset
    where = pickset.provenance.project
    if flip.swap_xy and pickset.counts.get("outside"):
        raise BadInput(
            where,
            f"{pickset.provenance.entry_name}: x and y are to be exchanged, but {pickset.counts['outside']} picks lay "
            "outside their micrographs as recorded, and were dropped.",
            "Correct the coordinates in their source.",
        )
    picks = pickset.picks.drop(columns=["psi_deg"], errors="ignore").copy()
    index = picks["micrograph"].to_numpy()
    if flip.swap_xy:
        names = {"x_px": "y_px", "y_px": "x_px", "shift_x_px": "shift_y_px", "shift_y_px": "shift_x_px"}
        picks = picks.rename(columns=names)
    for mirror, axis, size in ((flip.flip_x, "x", "nx"), (flip.flip_y, "y", "ny")):
        if not mirror:
            continue
        sizes = pickset.micrographs[size].to_numpy(np.float64, na_value=np.nan)[index]
        if np.isnan(sizes).any():
            name = pickset.micrographs["name"].iloc[int(index[np.isnan(sizes)][0])]
            raise MissingMetadata(where, f"the shape of {name} is not known: {axis} cannot be mirrored.")
        picks[f"{axis}_px"] = sizes - 1 - picks[f"{axis}_px"]
        if f"shift_{axis}_px" in picks:
            picks[f"shift_{axis}_px"] = -picks[f"shift_{axis}_px"]
    return PickSet.build(
        pickset.provenance,
        pickset.micrographs,
        pd.DataFrame(picks),
        box_px=pickset.box_px,
        diameter_A=pickset.diameter_A,
        score_kind=pickset.score_kind,
        counts=pickset.counts,
        notes=(*pickset.notes, f"set right on the user's word: {flip}"),
    )
