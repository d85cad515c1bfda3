"""EMAN2: `info/NAME_info.json` with centres, and EMAN1's `.box` with whole corners.

EMAN2 wants boxes of 1.5 to 2 times the particle, of a size that its transforms like. Corners are whole numbers, so
boxes are even and the centre is rounded first.

Sources: cryoem/eman2 (programs/e2boxer.py).
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.pickers.base import Needs, Picker, Settings, rows_writer
from cryoflow.pickers.links import link_micrographs
from cryoflow.pickers.training_set import TrainingSet


class Eman2(Picker):
    """EMAN2: its interactive boxer, and its neural network."""

    name = "eman2"
    title = "EMAN2"
    needs = Needs()

    def write(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links, `info/`, `boxfiles/` and, where the entries agree, the project's box and pixel size."""
        table = training.micrographs
        link_micrographs(training, self.needs, [folder / "micrographs" / f"{s}.mrc" for s in table["stem"]])
        enlarged = settings.choose("box_factor", 1.5, "EMAN2 wants boxes of 1.5 to 2 diameters")
        given = settings.choose("box", "auto", "from the diameter of each entry, even and a product of 2, 3, 5 and 7")
        if given != "auto" and not (given.isdecimal() and int(given) > 1):
            raise BadInput("box", f"is {given}; it is a number of pixels, or auto.")
        box_of = [float(good_size(b * enlarged) if given == "auto" else given) for b in table["box_px"].tolist()]
        for entry, rows in table.assign(box=box_of).groupby("entry"):
            settings.note(f"box of {entry}", int(rows["box"].iloc[0]), "pixels")
        x, y = np.rint(training.picks["x_px"].to_numpy()), np.rint(training.picks["y_px"].to_numpy())
        box = np.asarray(box_of)[training.picks["micrograph"].to_numpy()]
        corners = rows_writer("%d\t%d\t%d\t%d\n", (x - box // 2, y - box // 2, box, box))
        centers = rows_writer(
            '[%.1f, %.1f, "manual"],', (training.picks["x_px"].to_numpy(), training.picks["y_px"].to_numpy())
        )
        for name in ("info", "boxfiles"):
            (folder / name).mkdir()
        for stem, _, first, last in training.each():
            (folder / "boxfiles" / f"{stem}.box").write_bytes(corners(first, last))
            listed = centers(first, last)[:-1]
            (folder / "info" / f"{stem}_info.json").write_bytes(b'{"boxes": [' + listed + b"]}\n")
        project: dict[str, float] = {}
        if len(set(box_of)) == 1:
            project["global.boxsize"] = int(box_of[0])
        if len(pixels_A := set(table["pixel_size_A"].dropna())) == 1:
            project["global.apix"] = pixels_A.pop()
        (folder / "info" / "project.json").write_text(json.dumps(project, indent=1) + "\n")

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """EMAN2's boxer opens what we wrote; its network is trained there."""
        return (f"(in {home}: e2boxer.py micrographs/*.mrc)",)

    def pick_files(self, folder: Path) -> list[Path]:
        """JSON files, else boxes."""
        return sorted(folder.rglob("*_info.json")) or sorted(folder.rglob("*.box"))


def good_size(pixels: float) -> int:
    """The smallest even number of at least `pixels` that is a product of 2, 3, 5 and 7.

    >>> good_size(133)
    140
    """
    size = 2 * math.ceil(pixels / 2)
    while True:
        rest = size
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


PICKER = Eman2()
