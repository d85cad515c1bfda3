"""Two-channel images of micrographs, and the patches around their picks.

A model stores its `TwoChannelPreprocessing`, and both training and use go through it, so that they cannot differ. The
micrograph is Fourier-cropped once, to a fixed number of pixels a particle diameter, whatever the specimen and the pixel
size; all patches are then gathered from it together. The channels are:

0. the micrograph minus its median, over its median absolute deviation: shows carbon, ice and gold;
1. the micrograph minus its local mean over one diameter, over the typical local deviation: shows the particle.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.normalize import normalize, normalize_locally
from cryoflow.preparation.patches import Image, ImagePatches, Patches, flip_phases
from cryoflow.preparation.picked_micrograph import PickedMicrograph

MOST_PIXELS = 16_384
"""Longest edge of a prepared micrograph; sampled at 27 pixels a diameter, real ones have 300 to 3000."""


@dataclass(frozen=True)
class TwoChannelPreprocessing(ImagePatches):
    """Preprocessing with lengths in particle diameters, so that one model serves several specimens.

    Attributes
    ----------
    pixels_per_diameter
        Sampling: at 27 a particle of 160 A is sampled at 5.9 A a pixel.
    box_diameters
        Edge of a patch; 1.8 diameters include the neighborhood, which reveals overlaps and edges.
    margin_px
        Extra pixels on each side of a patch, from which random shifts are taken while training.
    clip_global, clip_local
        Limits of the two channels.
    phase_flip
        Whether to correct the phases by the CTF first.
    """

    pixels_per_diameter: float = 27.0
    box_diameters: float = 1.78
    margin_px: int = 2
    clip_global: float = 8.0
    clip_local: float = 6.0
    phase_flip: bool = False

    kind: ClassVar[str] = "two-channel"
    n_channels: ClassVar[int] = 2

    @property
    def input_px(self) -> int:
        """Return the edge of the network's input, a multiple of 8."""
        return max(8, 8 * round(self.pixels_per_diameter * self.box_diameters / 8))

    def target_pixel_size_A(self, diameter_A: float) -> float:
        """Return the pixel size that a specimen is sampled at."""
        return diameter_A / self.pixels_per_diameter

    def channels(self, image: Image, micrograph: PickedMicrograph) -> npt.NDArray[np.float16]:
        """Return the two channels of a whole micrograph.

        Parameters
        ----------
        image : (ny, nx) float32
            Or a file, which is read in bands and never held whole.

        Returns
        -------
        (new_ny, new_nx, 2) float16
            At `target_pixel_size_A`.

        Raises
        ------
        BadInput
            Where it would have more than `MOST_PIXELS` along an axis.
        MissingMetadata
            Where phases are to be flipped and the CTF is unknown.
        """
        target = self.target_pixel_size_A(micrograph.diameter_A)
        across = max(image.shape) * micrograph.pixel_size_A / target
        if across > MOST_PIXELS:
            raise BadInput(
                micrograph.path,
                f"at {micrograph.pixel_size_A:g} A a pixel and particles of {micrograph.diameter_A:g} A it would be "
                f"enlarged to {across:.0f} pixels.",
                "Check the pixel size and the diameter.",
            )
        small, pixel_size_yx_A = fourier_resample(image, micrograph.pixel_size_A, target, workers=1)
        if self.phase_flip:
            small = flip_phases(small, pixel_size_yx_A, micrograph)
        return two_channels(small, self.pixels_per_diameter, self.clip_global, self.clip_local)

    def patches(self, image: Image, micrograph: PickedMicrograph) -> Patches:
        """Return the patches around all picks of a micrograph.

        Parameters
        ----------
        image : (ny, nx) float32
            Finite and not constant; or a file, which is read in bands and never held whole.

        Returns
        -------
        (n, edge, edge, 2) float16
            `edge` is `input_px` and a margin on each side. Beyond the micrograph it is mirrored.
        """
        pair = self.channels(image, micrograph)
        centers = rescale_xy(micrograph.centers_xy_px, image.shape, pair.shape[:2])
        edge = self.input_px + 2 * self.margin_px
        # One 32-bit word holds both float16 channels of a pixel, so that one gather copies both.
        words = cut_boxes(pair.view(np.uint32)[..., 0], centers, edge)
        return words.view(np.float16).reshape(len(centers), edge, edge, self.n_channels)

    def to_json(self) -> dict[str, object]:
        """Return kind and fields."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


def two_channels(
    small: npt.NDArray[np.float32],
    pixels_per_diameter: float,
    clip_global: float = TwoChannelPreprocessing.clip_global,
    clip_local: float = TwoChannelPreprocessing.clip_local,
) -> npt.NDArray[np.float16]:
    """Return the two channels of a micrograph that is resampled already. The image given is changed.

    Parameters
    ----------
    small : (ny, nx) float32
        At the sampling of the network.
    pixels_per_diameter
        The particle's diameter in pixels of `small`.
    clip_global, clip_local
        Limits of the two channels.

    Returns
    -------
    (ny, nx, 2) float16
    """
    small -= np.float32(small.mean())
    pair = np.empty((*small.shape, TwoChannelPreprocessing.n_channels), np.float16)
    pair[..., 0] = normalize(small, clip=clip_global)
    pair[..., 1] = normalize_locally(small, pixels_per_diameter, clip=clip_local)
    return pair
