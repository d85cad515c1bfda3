"""The interface of all preprocessings, and the checks of a micrograph and its picks that precede any of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.micrographs.ctf import phase_flip
from cryoflow.micrographs.header import believable_pixel_size
from cryoflow.micrographs.image import MicrographFile
from cryoflow.preparation.augment import ORIENTATIONS, augment, center_crop, oriented
from cryoflow.preparation.picked_micrograph import PickedMicrograph

Patches = npt.NDArray[np.float16]
Image = npt.NDArray[np.float32] | MicrographFile
CTF_HINT = "Give the STAR file with the CTF of all micrographs (--ctf)."


class PatchExtractor(Protocol):
    """Interface of a preprocessing: cut patches around picks. See `TwoChannelPreprocessing` for an implementation."""

    kind: ClassVar[str]

    @property
    def input_px(self) -> int:
        """Return the edge of the network's input."""

    @property
    def margin_px(self) -> int:
        """Return the extra pixels of a patch on each side, for shifts while training."""

    @property
    def n_channels(self) -> int:
        """Return the number of channels of a patch."""

    @property
    def phase_flip(self) -> bool:
        """Return whether patches depend on the CTF."""

    @property
    def values_a_pick(self) -> int:
        """Return how many numbers are stored for a pick."""

    def with_orientations(self, number: int) -> PatchExtractor:
        """Return the extractor whose patches contain so many orientations; itself where patches can be rotated."""

    def patches(self, image: Image, micrograph: PickedMicrograph) -> Patches:
        """Return the patches around all picks of a micrograph.

        Parameters
        ----------
        image : (ny, nx) float32
            Or a file.

        Returns
        -------
        (n, edge, edge, n_channels) float16
            `edge` is `input_px + 2 * margin_px`. An extractor of features returns them in another shape, n first.
        """

    def training_views(
        self, patches: Patches, rng: np.random.Generator, *, contrast: float = 0.15
    ) -> npt.NDArray[np.float32]:
        """Return a random variant of each patch.

        Parameters
        ----------
        patches : (n, ...) float16
            As `patches` returns them.

        Returns
        -------
        (n, input_px, input_px, n_channels) float32
        """

    def view(self, patches: Patches, number: int) -> npt.NDArray[np.float32]:
        """Return the patches in the orientation of a number.

        Parameters
        ----------
        patches : (n, ...) float16
            As `patches` returns them.
        number
            0 to 7, an index into `augment.ORIENTATIONS`.

        Returns
        -------
        (n, input_px, input_px, n_channels) float32
        """

    def to_json(self) -> dict[str, object]:
        """Return plain values from which the preprocessing can be built again."""


class _Sized(Protocol):
    @property
    def input_px(self) -> int: ...
    @property
    def margin_px(self) -> int: ...
    @property
    def n_channels(self) -> int: ...


class ImagePatches:
    """Views of patches that are images, which can be rotated, flipped and shifted."""

    @property
    def values_a_pick(self: _Sized) -> int:
        """Return how many numbers are stored for a pick."""
        return (self.input_px + 2 * self.margin_px) ** 2 * self.n_channels

    def with_orientations(self, number: int) -> Self:  # noqa: ARG002
        """Return itself: patches are rotated when they are used."""
        return self

    def training_views(
        self: _Sized, patches: Patches, rng: np.random.Generator, *, contrast: float = 0.15
    ) -> npt.NDArray[np.float32]:
        """Return each patch in a random orientation, shifted within its margin, with random contrast and level.

        Parameters
        ----------
        patches : (n, edge, edge, n_channels) float16

        Returns
        -------
        (n, input_px, input_px, n_channels) float32
        """
        return augment(patches, self.input_px, rng, contrast=contrast)

    def view(self: _Sized, patches: Patches, number: int) -> npt.NDArray[np.float32]:
        """Return the patches without their margin, in the orientation of a number.

        Parameters
        ----------
        patches : (n, edge, edge, n_channels) float16
        number
            0 to 7, an index into `augment.ORIENTATIONS`.

        Returns
        -------
        (n, input_px, input_px, n_channels) float32
        """
        turned = oriented(center_crop(patches, self.input_px), ORIENTATIONS[number])
        return np.ascontiguousarray(turned, np.float32)


def load_patches(preprocessing: PatchExtractor, micrograph: PickedMicrograph) -> Patches:
    """Read a micrograph and cut its patches.

    Returns
    -------
    (n, edge, edge, n_channels) float16
        See `PatchExtractor.patches`.

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
    return preprocessing.patches(file, micrograph)


def require_ctf(preprocessing: PatchExtractor, micrographs: Sequence[PickedMicrograph]) -> None:
    """Raise one error where phases are to be flipped and no micrograph has a CTF.

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


def flip_phases(
    image: npt.NDArray[np.float32], pixel_size_yx_A: tuple[float, float], micrograph: PickedMicrograph
) -> npt.NDArray[np.float32]:
    """Return the image with its phases flipped.

    Parameters
    ----------
    image : (ny, nx) float32
    pixel_size_yx_A : (float, float)
        Of this image.

    Returns
    -------
    (ny, nx) float32

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
    """Check the stated pixel size against the one of the header; see `believable_pixel_size`.

    Raises
    ------
    BadInput
        Where they differ by more than 10 %.
    """
    stated = micrograph.pixel_size_A
    in_header = believable_pixel_size(header_pixel_size_A)
    if in_header is not None and abs(in_header / stated - 1) > 0.1:
        raise BadInput(
            micrograph.path,
            f"its header says {in_header:.4g} A a pixel, but {stated:.4g} was given.",
            "Is it binned, or the pixel size that of extracted boxes?",
        )
