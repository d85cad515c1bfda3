"""Gray values that mean the same on every micrograph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

_SIGMA_PER_MAD = 1.4826  # of a normal distribution
_SAMPLES = 400_000


def median_and_deviation(image: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Return the median, and the standard deviation from the median absolute deviation: robust to ice, gold and carbon.

    From an even sample of some 400,000 pixels. Where more than half of them are equal, the deviation is the plain one.

    Parameters
    ----------
    image
        Gray values without NaN, in any shape.
    """
    flat = image.ravel()
    sample = flat[:: max(1, flat.size // _SAMPLES) | 1]  # an odd step, not to sample columns of a power of two
    median = float(_median(sample))
    deviation = _SIGMA_PER_MAD * float(_median(np.abs(sample - median)))
    return median, deviation or float(sample.std())


def _median(finite: npt.NDArray[np.floating]) -> np.floating:
    """Return what `numpy.median` gives of values without NaN, some twenty times as fast: one partition in place of
    three."""
    half = finite.size // 2
    parted = np.partition(finite, half)
    middle: np.floating = np.mean(
        parted[half] if finite.size % 2 else [parted[:half].max(), parted[half]], dtype=finite.dtype
    )
    return middle


def normalize(image: npt.NDArray[np.float32], *, clip: float = 8.0) -> npt.NDArray[np.float32]:
    """Return median to 0 and typical deviation to 1, clipped: an image in which carbon, ice and gold show.

    An image without any deviation becomes zeros.

    Parameters
    ----------
    image : (ny, nx) float32
        Without NaN.
    clip
        Limit of the result, in deviations on both sides of the median.

    Returns
    -------
    (ny, nx) float32
    """
    median, deviation = median_and_deviation(image)
    scaled = (image - np.float32(median)) * np.float32(1 / deviation if deviation > 0 else 0)
    return np.clip(scaled, -clip, clip, out=scaled)


def normalize_locally(
    image: npt.NDArray[np.float32], window_px: float, *, clip: float = 6.0
) -> npt.NDArray[np.float32]:
    """Scale the local mean to 0 and the typical local deviation to 1, clipped: particles show on any ground.

    The deviation is one number for the image (the median of the local ones), so that what varies stays brighter than
    what does not.

    Parameters
    ----------
    image : (ny, nx) float32
        Without NaN.
    window_px
        Edge of the square that "local" means: about a particle's diameter.
    clip
        Limit of the result, in deviations on both sides of the local mean.

    Returns
    -------
    (ny, nx) float32
    """
    window = max(3, round(window_px) | 1)
    flat: npt.NDArray[np.float32] = image - ndimage.uniform_filter(image, window, mode="reflect")
    step = max(1, window // 4)  # so many local deviations are enough for their median
    variance = ndimage.uniform_filter1d(flat * flat, window, axis=0, mode="reflect")[::step]
    variance = ndimage.uniform_filter1d(variance, window, axis=1, mode="reflect")[:, ::step]
    typical = float(np.sqrt(np.maximum(_median(variance.ravel()), 0)))
    flat *= np.float32(1 / typical if typical > 0 else 0)
    return np.clip(flat, -clip, clip, out=flat)
