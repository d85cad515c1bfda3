"""What the pixels say of an entry: the orientation check, and pictures of its picks on a few micrographs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.database import Orientation
from cryoflow.errors import BadInput
from cryoflow.picks import PickSet

log = logging.getLogger(__name__)
MICROGRAPHS_CHECKED = 5
MICROGRAPHS_DRAWN = 2
DIAMETER_OF_BOX = 0.6
"""Boxes are commonly 1.5 to 2 particle diameters; the check does not mind 30 % more or less."""

Image = npt.NDArray[np.float32]


def look(pickset: PickSet) -> tuple[Orientation, dict[str, bytes]]:
    """The verdict on the recorded convention, and pictures (name -> JPEG) of a few micrographs with their picks.

    Micrographs that cannot be read are passed over: that is an error for whoever needs them, not for the entry.
    """
    from cryoflow.micrographs.orientation import check_orientation

    rows = _micrographs_to_see(pickset)
    if not rows:
        return Orientation(detail="no micrograph with picks is there"), {}
    diameter_px = _diameter_px(pickset, rows[0])
    if diameter_px is None:
        return Orientation(detail="neither diameter nor box of the particles is known"), {}
    all_centers, offsets = pickset.centers_xy_px, pickset.offsets
    pictures: dict[str, bytes] = {}
    shown: list[
        npt.NDArray[np.float64]
    ] = []  # the picks of the image that was given last: one image in memory at a time

    def images() -> Iterator[Image]:
        for row in rows:
            image = _read(str(pickset.micrographs["path"].iloc[row]))
            if image is not None:
                shown.append(all_centers[offsets[row] : offsets[row + 1]])
                if len(pictures) < MICROGRAPHS_DRAWN:
                    pictures[f"overlay_{len(pictures) + 1}.jpg"] = _picture(pickset, row, image, shown[-1], diameter_px)
                yield image

    def centers() -> Iterator[npt.NDArray[np.float64]]:
        while shown:
            yield shown.pop()

    found = check_orientation(images(), centers(), diameter_px)
    if found.n_micrographs == 0:
        return Orientation(detail="none of its micrographs could be read"), {}
    return Orientation(found.verdict, str(found.best), str(found).partition(": ")[2]), pictures


def _micrographs_to_see(pickset: PickSet) -> list[int]:
    """Rows of the micrographs that are there and have most picks."""
    counts = np.diff(pickset.offsets)
    there = (pickset.micrographs["status"] == "found").to_numpy() & pickset.micrographs["path"].notna().to_numpy()
    rows = np.flatnonzero(there & (counts > 0))
    return sorted(rows[np.argsort(-counts[rows], kind="stable")][:MICROGRAPHS_CHECKED].tolist())


def _diameter_px(pickset: PickSet, row: int) -> float | None:
    pixel_size_A = float(pickset.micrographs["pixel_size_A"].iloc[row])
    if pickset.diameter_A and pixel_size_A > 0:
        return pickset.diameter_A / pixel_size_A
    return pickset.box_px * DIAMETER_OF_BOX if pickset.box_px else None


def _read(path: str) -> Image | None:
    from cryoflow.micrographs.image import read_micrograph

    try:
        return read_micrograph(Path(path))
    except (BadInput, OSError) as error:
        log.info("not looked at: %s", error)
        return None


def _picture(
    pickset: PickSet, row: int, image: Image, centers_xy_px: npt.NDArray[np.float64], diameter_px: float
) -> bytes:
    import matplotlib.pyplot as plt

    from cryoflow.report.figures import Marks, jpeg, overlay

    who, name = pickset.provenance, str(pickset.micrographs["name"].iloc[row])
    pixel_size_A = float(pickset.micrographs["pixel_size_A"].iloc[row])
    figure = overlay(
        image,
        [Marks(centers_xy_px, who.entry_name)],
        diameter_px=diameter_px,
        title=Path(name).name.encode(errors="replace").decode(),
        pixel_size_A=pixel_size_A if pixel_size_A > 0 else None,
    )
    try:
        return jpeg(figure, dpi=100)
    finally:
        plt.close(figure)
