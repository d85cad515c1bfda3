"""Boxes around particles, all of a micrograph at one go."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Pixel = TypeVar("Pixel", bound=np.generic)


def cut_boxes(image: npt.NDArray[Pixel], centers_xy_px: npt.ArrayLike, box_px: int) -> npt.NDArray[Pixel]:
    """Cut a box around each center; beyond the edges stands the image mirrored about its edge pixels.

    A center is rounded to its nearest pixel (halves go up), which becomes pixel `box_px // 2` of its box in x and y: of
    an even box the pixel right of and below the middle, as in RELION and CryoSPARC. Nothing is interpolated, so a
    particle may sit up to half a pixel off; where that matters, resample the micrograph less.

    Parameters
    ----------
    image : (ny, nx)
        Of any type.
    centers_xy_px : (n, 2) float, x first
        May lie anywhere, on the edge or beyond it.
    box_px
        Edge of the boxes, at least 1.

    Returns
    -------
    (n, box_px, box_px)
        Of the type of `image`, the caller's own.

    Raises
    ------
    ValueError
        Where a center is not finite or `box_px` is below 1: a defect of the caller.
    """
    centers = np.asarray(centers_xy_px, np.float64).reshape(-1, 2)
    if box_px < 1:
        raise ValueError(f"a box of {box_px} pixels")
    if not np.isfinite(centers).all():
        raise ValueError("a center is NaN or infinite")
    ny, nx = image.shape
    first = np.floor(centers + 0.5).astype(np.int64) - box_px // 2
    x0, y0 = first[:, 0], first[:, 1]
    whole = (x0 >= 0) & (y0 >= 0) & (x0 + box_px <= nx) & (y0 + box_px <= ny)

    boxes = np.empty((len(centers), box_px, box_px), image.dtype)
    if whole.any():  # whole boxes are strided copies, many times faster than an index for each pixel
        windows = np.lib.stride_tricks.sliding_window_view(image, (box_px, box_px))
        boxes[whole] = windows[y0[whole], x0[whole]]
    cut = np.flatnonzero(~whole)
    if len(cut):
        steps = np.arange(box_px)
        rows, columns = y0[cut, None] + steps, x0[cut, None] + steps
        boxes[cut] = image[_folded(rows, ny)[:, :, None], _folded(columns, nx)[:, None, :]]
    return boxes


def _folded(index: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return indices beyond an axis of `size`, brought back onto it."""
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    index = index % period
    return np.minimum(index, period - index)
