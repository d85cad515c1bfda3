"""EMAN2: `info/NAME_info.json` with centers, and EMAN1's `.box` with whole corners.

EMAN2 wants boxes of 1.5 to 2 times the particle, of a size that its transforms like. Corners are whole numbers, so
boxes are even and the center is rounded first.

Sources: cryoem/eman2 (programs/e2boxer.py).
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.errors import BadInput
from cryoflow.pickers.base import Picker, rows_writer

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet


class Eman2(Picker):
    """EMAN2: its interactive boxer, and its neural network."""

    name = "eman2"
    title = "EMAN2"
    help = "EMAN2: info/*_info.json and boxfiles/*.box."
    formats = ("EMAN2 info JSON", "EMAN .box")
    suffixes = ("_info.json", ".box")

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive the box of each entry.

        Raises
        ------
        BadInput
            Where a setting has a value that it must not have.
        """
        settings.derive("box_factor", 1.5, "EMAN2 wants boxes of 1.5 to 2 diameters")
        given = settings.derive("box", "auto", "from the diameter of each entry, even and a product of 2, 3, 5 and 7")
        if given != "auto" and not (given.isdecimal() and int(given) > 1):
            raise BadInput("box", f"is {given}; it is a number of pixels, or auto.")
        for entry, rows in training.micrographs.assign(box=_boxes_px(training, settings.values)).groupby("entry"):
            settings.note(f"box of {entry}", int(rows["box"].iloc[0]), "pixels")

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write links, `info/` and `boxfiles/`."""
        import numpy as np

        from cryoflow.pickers.training_sets.links import link_micrographs

        x_px, y_px = some.picks["x_px"].to_numpy(), some.picks["y_px"].to_numpy()
        box = np.asarray(_boxes_px(some, settings))[some.picks["micrograph"].to_numpy()]
        corners = rows_writer("%d\t%d\t%d\t%d\n", (np.rint(x_px) - box // 2, np.rint(y_px) - box // 2, box, box))
        centers = rows_writer('[%.1f, %.1f, "manual"],', (x_px, y_px))
        for name in ("info", "boxfiles"):
            (folder / name).mkdir(exist_ok=True)
        for stem, _, first, last in some.each():
            (folder / "boxfiles" / f"{stem}.box").write_bytes(corners(first, last))
            listed = centers(first, last)[:-1]
            (folder / "info" / f"{stem}_info.json").write_bytes(b'{"boxes": [' + listed + b"]}\n")
        link_micrographs(some, [folder / "micrographs" / f"{s}.mrc" for s in some.micrographs["stem"]])

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write the project's box and pixel size, if the entries agree."""
        project: dict[str, float] = {}
        if len(boxes := set(_boxes_px(training, settings))) == 1:
            project["global.boxsize"] = int(boxes.pop())
        if len(pixels_A := set(training.micrographs["pixel_size_A"].dropna())) == 1:
            project["global.apix"] = pixels_A.pop()
        (folder / "info" / "project.json").write_text(json.dumps(project, indent=1) + "\n")

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return EMAN2's boxer, which opens the export; its network is trained there."""
        return (f"(in {home}: e2boxer.py micrographs/*.mrc)",)


def _boxes_px(some: TrainingSet, settings: Mapping[str, str]) -> list[float]:
    """Return the box of each micrograph."""
    given, enlarged = settings["box"], float(settings["box_factor"])
    boxes = some.micrographs["box_px"].tolist()
    size = {box: float(good_size(box * enlarged) if given == "auto" else given) for box in set(boxes)}
    return [size[box] for box in boxes]


def good_size(pixels: float) -> int:
    """Return the smallest even number of at least `pixels` that is a product of 2, 3, 5 and 7.

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
