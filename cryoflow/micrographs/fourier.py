"""Micrographs at another pixel size, by cropping or padding their Fourier transform once.

The half-pixel question
-----------------------
A discrete Fourier transform is anchored at pixel 0: cropped or padded and transformed back, the *center of pixel (0, 0)
stays the center of pixel (0, 0)*, and a point at `x` of `nx` pixels comes to `x * new_nx / nx`, with pixel centers at
whole numbers in both. So coordinates are scaled and nothing is added (`rescale_xy`). Binning (averaging blocks of
pixels) is different: it keeps the *edge* of the image in place, and needs `(x + 0.5) * s - 0.5`. To take one for the
other costs half a pixel of the small image, 4 A at 8 A per pixel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import fft

from cryoflow.micrographs.decimation import RowDecimation
from cryoflow.system.cpus import available_cpus

_BLOCK_ROWS = 128


class RowSource(Protocol):
    """An image whose rows come some at a time: `micrographs.image.MicrographFile`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Return rows and columns."""

    def blocks(self, n_rows: int) -> Iterator[npt.NDArray[np.float32]]:
        """Return rows in their order; each block is valid until the next is asked for.

        Returns
        -------
        iterator of (n, nx) float32
            `n` is at most `n_rows`.
        """


def resampled_shape(
    shape_yx: tuple[int, int], pixel_size_A: float, to_pixel_size_A: float
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Return shape and exact pixel size after `fourier_resample`: even sizes nearest to what was asked for.

    Returns
    -------
    shape_yx : (int, int)
        Even, at least 2; the shape given where nothing is to be done.
    pixel_size_yx_A : (float, float)
        Original extent over new size: near to `to_pixel_size_A`, and not quite the same in y and x.

    Raises
    ------
    ValueError
        Where a pixel size is not positive: a defect of the caller.
    """
    if not (pixel_size_A > 0 and to_pixel_size_A > 0):
        raise ValueError(f"pixel sizes are positive, not {pixel_size_A} and {to_pixel_size_A}")
    ny, nx = shape_yx
    if abs(to_pixel_size_A / pixel_size_A - 1) < 1e-6:
        return (ny, nx), (pixel_size_A, pixel_size_A)
    scale = pixel_size_A / to_pixel_size_A
    new_ny, new_nx = (max(2, 2 * round(n * scale / 2)) for n in shape_yx)
    return (new_ny, new_nx), (ny * pixel_size_A / new_ny, nx * pixel_size_A / new_nx)


def fourier_resample(
    image: npt.NDArray[np.float32] | RowSource,
    pixel_size_A: float,
    to_pixel_size_A: float,
    *,
    workers: int | None = None,
) -> tuple[npt.NDArray[np.float32], tuple[float, float]]:
    """Bring a micrograph to another pixel size.

    Parameters
    ----------
    image : (ny, nx) float32
        Or a file that is read while it is transformed, so that it is never whole in memory.
    workers
        Threads of the transforms; None takes as many as there are cores.

    Returns
    -------
    image : (new_ny, new_nx) float32
        Gray values keep their scale (the mean stays).
    pixel_size_yx_A : (float, float)
        Exact, see `resampled_shape`. Map coordinates with `rescale_xy`.
    """
    (new_ny, new_nx), pixel_size_yx_A = resampled_shape(image.shape, pixel_size_A, to_pixel_size_A)
    if (new_ny, new_nx) == image.shape:
        return np.concatenate([block.copy() for block in _row_blocks(image)]), pixel_size_yx_A
    return resample_to_shape(image, (new_ny, new_nx), workers=workers), pixel_size_yx_A


def resample_to_shape(
    image: npt.NDArray[np.float32] | RowSource, shape_yx: tuple[int, int], *, workers: int | None = None
) -> npt.NDArray[np.float32]:
    """Bring a micrograph to another number of pixels; each axis may grow or shrink.

    The highest frequency of the smaller size is dropped where it is even, for its phase cannot be kept.

    Parameters
    ----------
    image : (ny, nx) float32
        Or a file that is read while it is transformed, as for `fourier_resample`.
    shape_yx
        The new number of pixels.
    workers
        Threads of the transforms; None takes as many as there are cores.

    Returns
    -------
    (new_ny, new_nx) float32
        Gray values keep their scale (the mean stays).
    """
    ny, nx = image.shape
    new_ny, new_nx = shape_yx
    threads = workers or available_cpus()
    kept = min(nx, new_nx) // 2 + 1
    decimation = RowDecimation.of(ny, new_ny)
    if decimation:
        spectrum = _thinned_rows(image, decimation, kept, threads)
    else:
        # Rows first, in blocks that stay in the cache; only the columns that are kept are ever transformed along y.
        spectrum = np.empty((ny, kept), np.complex64)
        row = 0
        for block in _row_blocks(image):
            spectrum[row : row + len(block)] = fft.rfft(block, axis=1, workers=threads)[:, :kept]
            row += len(block)
    if nx != new_nx and min(nx, new_nx) % 2 == 0:
        spectrum[:, -1] = 0
    if new_ny != ny:
        spectrum = _resize_rows(fft.fft(spectrum, axis=0, workers=threads, overwrite_x=True), new_ny)
        if decimation:
            frequency = np.fft.fftfreq(new_ny) * new_ny / ny
            spectrum *= (1 / decimation.gain(frequency)).astype(np.complex64)[:, None]
        spectrum = fft.ifft(spectrum, axis=0, workers=threads, overwrite_x=True)
    small = fft.irfft(spectrum, n=new_nx, axis=1, workers=threads)
    small *= np.float32(new_ny * new_nx / (ny * nx))
    return np.ascontiguousarray(small, np.float32)


def rescale_xy(
    xy_px: npt.ArrayLike, from_shape_yx: tuple[int, int], to_shape_yx: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Return coordinates of points of one image in its Fourier-resampled copy.

    Parameters
    ----------
    xy_px : (n, 2) float, x first
        In pixels of the image of `from_shape_yx`.

    Returns
    -------
    (n, 2) float, x first
        In pixels of the image of `to_shape_yx`.
    """
    scale_xy = np.array([to_shape_yx[1] / from_shape_yx[1], to_shape_yx[0] / from_shape_yx[0]])
    scaled: npt.NDArray[np.float64] = np.asarray(xy_px, np.float64).reshape(-1, 2) * scale_xy
    return scaled


def _thinned_rows(
    image: npt.NDArray[np.float32] | RowSource, decimation: RowDecimation, kept: int, threads: int
) -> npt.NDArray[np.complex64]:
    """Return the transforms along x of the rows that a decimation keeps, (ny / factor, kept)."""
    ny, nx = image.shape
    matrix, n_overlap = decimation.matrix(), decimation.n_overlap
    spectrum = np.empty((ny // decimation.factor, kept), np.complex64)
    after = np.zeros((n_overlap, nx), np.float32)
    row = 0
    for block in _row_blocks(image):
        rows, after = decimation.apply(block, after, matrix)
        spectrum[row : row + len(rows)] = fft.rfft(rows, axis=1, workers=threads)[:, :kept]
        row += len(rows)
    # The transform is periodic: the filter of the last rows reaches into the first ones.
    for number, beyond in enumerate(fft.rfft(after, axis=1, workers=threads)[:, :kept]):
        spectrum[number % len(spectrum)] += beyond
    return spectrum


def _row_blocks(image: npt.NDArray[np.float32] | RowSource) -> Iterator[npt.NDArray[np.float32]]:
    if not isinstance(image, np.ndarray):
        yield from image.blocks(_BLOCK_ROWS)
        return
    for row in range(0, len(image), _BLOCK_ROWS):
        yield np.ascontiguousarray(image[row : row + _BLOCK_ROWS], np.float32)


def _resize_rows(spectrum: npt.NDArray[np.complex64], new_ny: int) -> npt.NDArray[np.complex64]:
    """Crop or pad the full (not halved) axis of a spectrum, zero frequency first."""
    smaller = min(spectrum.shape[0], new_ny)
    resized = np.zeros((new_ny, spectrum.shape[1]), spectrum.dtype)
    positive = (smaller + 1) // 2  # 0 .. below Nyquist
    negative = (smaller - 1) // 2
    resized[:positive] = spectrum[:positive]
    if negative:
        resized[-negative:] = spectrum[-negative:]
    return resized
