"""Preparation of whole micrographs for a detector: the unpicker's two channels, at fixed pixels per diameter."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.micrographs.fourier import fourier_resample
from cryoflow.micrographs.image import MicrographFile
from cryoflow.preparation.two_channel import two_channels

PIXELS_PER_DIAMETER = 24.0
"""Sampling of micrographs: enough to center a particle, and few enough to see many."""


def prepare(
    image: npt.NDArray[np.float32] | MicrographFile,
    pixel_size_A: float,
    diameter_A: float,
    *,
    pixels_per_diameter: float = PIXELS_PER_DIAMETER,
) -> npt.NDArray[np.float16]:
    """Return the two channels of a whole micrograph.

    Parameters
    ----------
    image : (ny, nx) float32
        Or a file, which is read in bands and never held whole.

    Returns
    -------
    (new_ny, new_nx, 2) float16
        At `pixels_per_diameter`.
    """
    small, _ = fourier_resample(image, pixel_size_A, diameter_A / pixels_per_diameter, workers=1)
    return two_channels(small, pixels_per_diameter)
