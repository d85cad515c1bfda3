"""What every preprocessing offers, and what comes before any: the checks of a micrograph and of its picks.

`patches.py` is ours, `classic.py` the older emUnpicker's. Neither is asked for boxes but through `load_boxes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.micrographs.ctf import phase_flip
from cryoflow.micrographs.image import MicrographFile
from cryoflow.unpicker.labelled import PickedMicrograph

Boxes = npt.NDArray[np.float16]
Image = npt.NDArray[np.float32] | MicrographFile
CTF_HINT = "Give the STAR file with the CTF of all micrographs (--ctf)."


class BoxMaker(Protocol):
    """What every preprocessing offers; see `Preprocessing` for the meaning."""

    kind: ClassVar[str]

    @property
    def input_px(self) -> int:
        """Edge of the network's input."""

    @property
    def margin_px(self) -> int:
        """What boxes have more on each side, for shifts while training."""

    @property
    def n_channels(self) -> int:
        """Channels of a box."""

    @property
    def phase_flip(self) -> bool:
        """Whether boxes depend on the CTF."""

    def boxes(self, image: Image, micrograph: PickedMicrograph) -> Boxes:
        """(n, input_px + 2 margin_px, same, n_channels)."""

    def to_json(self) -> dict[str, object]:
        """Plain values that say all of it."""


def load_boxes(preprocessing: BoxMaker, micrograph: PickedMicrograph) -> Boxes:
    """Read a micrograph and cut its boxes.

    Raises
    ------
    BadInput
        Where the micrograph is missing, unreadable, blank or has NaN, where its pixel size is not the one stated, or
        where a pick lies outside.
    """
    file = MicrographFile.open(micrograph.path)
    check_pixel_size(micrograph, file.header.pixel_size_A)
    ny, nx = file.shape
    x, y = micrograph.centers_xy_px.T
    outside = int((~((x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5))).sum())
    if outside:
        raise BadInput(
            micrograph.path,
            f"{outside} of {len(x)} picks lie outside its {nx} x {ny} pixels.",
            "Do the picks belong to this micrograph, at this binning?",
        )
    return preprocessing.boxes(file, micrograph)


def require_ctf(preprocessing: BoxMaker, micrographs: Sequence[PickedMicrograph]) -> None:
    """Refuse at once, and once, what could not be prepared for any of many micrographs.

    Raises
    ------
    MissingMetadata
        Where phases are to be flipped and no micrograph has a CTF.
    """
    if preprocessing.phase_flip and micrographs and all(m.ctf is None for m in micrographs):
        raise MissingMetadata(
            micrographs[0].path.parent,
            f"none of {len(micrographs)} micrographs has CTF values, but the model asks for phase flipping.",
            CTF_HINT,
        )


def flipped(
    image: npt.NDArray[np.float32], pixel_size_yx_A: tuple[float, float], micrograph: PickedMicrograph
) -> npt.NDArray[np.float32]:
    """The image with its phases flipped.

    Raises
    ------
    MissingMetadata
        Where the micrograph's CTF is unknown.
    """
    if micrograph.ctf is None:
        raise MissingMetadata(
            micrograph.path,
            "has no CTF values, but the model asks for phase flipping.",
            CTF_HINT,
        )
    return phase_flip(image, pixel_size_yx_A, micrograph.ctf)


def check_pixel_size(micrograph: PickedMicrograph, header_pixel_size_A: float | None) -> None:
    """Refuse a micrograph whose header tells another pixel size by more than 10 %; 0, 1 and nothing mean unknown."""
    stated = micrograph.pixel_size_A
    if header_pixel_size_A is None or not header_pixel_size_A > 0 or abs(header_pixel_size_A - 1) < 1e-3:
        return
    if abs(header_pixel_size_A / stated - 1) > 0.1:
        raise BadInput(
            micrograph.path,
            f"its header says {header_pixel_size_A:.4g} A a pixel, but {stated:.4g} was given.",
            "Is it binned, or the pixel size that of extracted boxes?",
        )
