"""A permissive blob picker: dark spots of about the particle's size, with a low threshold. Half of its picks are right.

It stands for the automatic pickers whose picks the unpicker cleans, and has their habits: it finds carbon edges, ice,
gold and aggregates too, misses few particles, and puts its picks a little off the centers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage, spatial

from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.normalize import median_and_deviation
from cryoflow.parameters import MATCH_RADIUS

RIGHT_WITHIN = MATCH_RADIUS
"""A pick is right within this many diameters of a whole, isolated particle."""


def pick_blobs(
    image: npt.NDArray[np.float32], pixel_size_A: float, diameter_A: float, *, threshold: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return local minima of a micrograph that was filtered to blobs of the particle's size.

    The filter is a difference of two Gaussians, of the size of a particle's dense middle and of the ground about it.
    Picks keep half a diameter from the edge and from each other.

    Parameters
    ----------
    threshold
        In standard deviations of the filtered image, computed from its median absolute deviation.

    Returns
    -------
    xy_px : (n, 2) float
        Best score first.
    scores : (n,) float
        Depth of the blob in those deviations.
    """
    small, size_yx_A = fourier_resample(image, pixel_size_A, max(pixel_size_A, diameter_A / 20), workers=1)
    median, deviation = median_and_deviation(small)
    np.clip(small, median - 6 * deviation, median + 6 * deviation, out=small)  # or gold and ice hide what is near
    filtered = _blobs(small, diameter_A / np.array(size_yx_A))
    median, deviation = median_and_deviation(filtered)
    score = (filtered - np.float32(median)) / np.float32(deviation or 1)

    radius_yx = diameter_A / 2 / np.array(size_yx_A)
    reach = round(float(radius_yx.mean()))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    highest = ndimage.maximum_filter(score, footprint=x**2 + y**2 <= reach**2, mode="reflect")
    row, column = np.nonzero((score == highest) & (score > threshold))
    order = np.argsort(-score[row, column], kind="stable")
    row, column = row[order], column[order]
    off_y, off_x = _between_pixels(score, row, column)
    xy = rescale_xy(np.stack([column + off_x, row + off_y], axis=1), small.shape, image.shape)
    radius_px = diameter_A / 2 / pixel_size_A
    whole = ((xy >= radius_px) & (xy <= np.array(image.shape[::-1]) - 1 - radius_px)).all(axis=1)
    return xy[whole], score[row, column][whole].astype(np.float64)


def match_to_truth(
    xy_px: npt.NDArray[np.float64], true_xy_px: npt.NDArray[np.float64], within_px: float
) -> npt.NDArray[np.intp]:
    """Index of the particle that each pick lies on, -1 where there is none within `within_px`."""
    if not len(true_xy_px) or not len(xy_px):
        return np.full(len(xy_px), -1, np.intp)
    distance, nearest = spatial.cKDTree(true_xy_px).query(xy_px)
    return np.where(distance <= within_px, nearest, -1).astype(np.intp)


def _blobs(image: npt.NDArray[np.float32], diameter_px_yx: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """Return minus the difference of Gaussians of 0.22 and 0.45 diameters; a mirrored margin keeps the edges apart."""
    pad = [(int(d), int(d)) for d in diameter_px_yx]
    padded = np.pad(image, pad, mode="symmetric")
    k_y = np.fft.fftfreq(padded.shape[0])[:, None] * diameter_px_yx[0]
    k_x = np.fft.rfftfreq(padded.shape[1])[None, :] * diameter_px_yx[1]
    k2 = (-2 * np.pi**2 * (k_y**2 + k_x**2)).astype(np.float32)
    band = np.exp(np.float32(0.45**2) * k2) - np.exp(np.float32(0.22**2) * k2)
    filtered = fft.irfft2(fft.rfft2(padded, workers=1) * band, s=padded.shape, workers=1)
    return np.ascontiguousarray(filtered[pad[0][0] : -pad[0][0], pad[1][0] : -pad[1][0]], np.float32)


def _between_pixels(
    score: npt.NDArray[np.float32], row: npt.NDArray[np.intp], column: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where the parabola through a peak and its neighbors has its top, in y and in x, within half a pixel."""
    here = score[row, column].astype(np.float64)
    offsets = []
    for dy, dx in ((1, 0), (0, 1)):
        after = score[np.minimum(row + dy, score.shape[0] - 1), np.minimum(column + dx, score.shape[1] - 1)]
        before = score[np.maximum(row - dy, 0), np.maximum(column - dx, 0)]
        bend = 2 * here - before - after
        offsets.append(np.clip(np.where(bend > 0, (after - before) / np.where(bend > 0, 2 * bend, 1), 0), -0.5, 0.5))
    return offsets[0], offsets[1]
