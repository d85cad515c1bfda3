"""Preparation of whole micrographs for a detector: the unpicker's two channels, at fixed pixels per diameter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.micrographs.fourier import fourier_resample
from cryoflow.micrographs.image import MicrographFile
from cryoflow.micrographs.normalise import normalise, normalise_locally

PIXELS_PER_DIAMETER = 24.0
CLIP_GLOBAL, CLIP_LOCAL = 8.0, 6.0


def prepare(
    image: npt.NDArray[np.float32] | MicrographFile,
    pixel_size_A: float,
    diameter_A: float,
    *,
    pixels_per_diameter: float = PIXELS_PER_DIAMETER,
) -> npt.NDArray[np.float16]:
    """Return the two channels of a whole micrograph, (ny, nx, 2) float16."""
    small, _ = fourier_resample(image, pixel_size_A, diameter_A / pixels_per_diameter, workers=1)
    small -= np.float32(small.mean())
    pair = np.empty((*small.shape, 2), np.float16)
    pair[..., 0] = normalise(small, clip=CLIP_GLOBAL)
    pair[..., 1] = normalise_locally(small, pixels_per_diameter, clip=CLIP_LOCAL)
    return pair
