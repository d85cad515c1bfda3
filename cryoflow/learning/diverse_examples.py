"""Choose few examples that differ as much as possible: in defocus, density of particles and power spectrum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RINGS = 8
"""Rings of spatial frequency that describe the power spectrum of an image."""

Float = npt.NDArray[np.float64]


def ring_power(image: npt.NDArray[np.floating]) -> Float:
    """Return the log power of an image (ny, nx, channels) in rings of spatial frequency, (rings * channels,)."""
    ny, nx = image.shape[:2]
    k = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.fftfreq(nx)[None, :])
    ring = np.minimum((k / 0.5 * RINGS).astype(int), RINGS - 1)
    count = np.bincount(ring.ravel(), minlength=RINGS)
    found = []
    for channel in np.moveaxis(np.asarray(image, np.float32), -1, 0):
        power = np.abs(np.fft.fft2(channel)) ** 2
        found.append(np.log(np.bincount(ring.ravel(), power.ravel(), RINGS) / np.maximum(count, 1) + 1e-6))
    return np.concatenate(found)


def features(defocus_A: Float, density: Float, appearance: Float) -> Float:
    """Return features of equal weight for each of the three: (n, 2 + m). Unknown defocus counts as the mean."""
    known = np.isfinite(defocus_A)
    defocus = np.where(known, defocus_A, defocus_A[known].mean() if known.any() else 0.0)
    seen = _standard(appearance) / np.sqrt(max(appearance.shape[1], 1))
    return np.column_stack((_standard(defocus[:, None]), _standard(density[:, None]), seen))


def most_varied(points: Float, number: int) -> npt.NDArray[np.intp]:
    """Return the indices of `number` points, each the farthest from those before it; the first is the most central.

    >>> most_varied(np.array([[0.0], [0.1], [5.0], [2.4]]), 3).tolist()
    [3, 2, 0]
    """
    n = len(points)
    if n <= number:
        return np.arange(n)
    chosen = [int(np.argmin(((points - points.mean(axis=0)) ** 2).sum(axis=1)))]
    nearest = ((points - points[chosen[0]]) ** 2).sum(axis=1)
    while len(chosen) < number:
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
    return np.array(chosen)


def _standard(values: Float) -> Float:
    spread = values.std(axis=0)
    standard: Float = (values - values.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)
    return standard
