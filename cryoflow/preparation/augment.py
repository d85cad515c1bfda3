"""Random variants of patches for training, their eight orientations, and the crop that the network takes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)

ORIENTATIONS = (0, 3, 5, 6, 1, 2, 4, 7)
"""All orientations, in an order whose first 1, 2 and 4 average best: the identity, then a half turn."""


def augment(
    patches: npt.NDArray[np.float16], input_px: int, rng: np.random.Generator, *, contrast: float = 0.15
) -> npt.NDArray[np.float32]:
    """Return each patch in a random orientation, shifted within its margin, with random contrast and level.

    Parameters
    ----------
    patches : (n, edge, edge, channels) float16
        `edge` may exceed `input_px`: shifts are drawn from the margin.

    Returns
    -------
    (n, input_px, input_px, channels) float32
    """
    n, edge, _, channels = patches.shape
    spare = edge - input_px
    draws = np.column_stack([rng.integers(0, high, n) for high in (spare + 1, spare + 1, 8)])
    augmented = np.empty((n, input_px, input_px, channels), np.float32)
    for i, (row, column, orientation) in enumerate(draws.tolist()):
        augmented[i] = oriented(patches[i, row : row + input_px, column : column + input_px], orientation)
    if contrast:
        augmented *= rng.normal(1, contrast, (n, 1, 1, channels)).astype(np.float32)
        augmented += rng.normal(0, contrast, (n, 1, 1, channels)).astype(np.float32)
    return augmented


def oriented(patch: npt.NDArray[Scalar], orientation: int) -> npt.NDArray[Scalar]:
    """Return one of the eight orientations of a patch, or of several.

    Parameters
    ----------
    patch : (ny, nx, channels) or (n, ny, nx, channels)
        Of any type.
    orientation
        0 to 7, three bits: 4 exchanges y and x, then 2 flips y and 1 flips x.

    Returns
    -------
    (ny, nx, channels) or (n, ny, nx, channels)
        A view of `patch`; ny and nx are exchanged where y and x are.
    """
    y_axis = patch.ndim - 3
    if orientation & 4:
        patch = np.swapaxes(patch, y_axis, y_axis + 1)
    if orientation & 2:
        patch = np.flip(patch, y_axis)
    if orientation & 1:
        patch = np.flip(patch, y_axis + 1)
    return patch


def oriented_xy(xy_px: npt.NDArray[np.float64], orientation: int, shape_yx: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Return where points of an image of this shape lie after `oriented`.

    Parameters
    ----------
    xy_px : (n, 2) float, x first
        In pixels of the image.
    orientation
        0 to 7, as for `oriented`.
    shape_yx
        Of the image before `oriented`.

    Returns
    -------
    (n, 2) float, x first
        In pixels of the oriented image.
    """
    x, y = xy_px.T
    ny, nx = shape_yx
    if orientation & 4:
        x, y, nx, ny = y, x, ny, nx
    if orientation & 2:
        y = ny - 1 - y
    if orientation & 1:
        x = nx - 1 - x
    return np.stack([x, y], axis=1)


def center_crop(patches: npt.NDArray[np.float16], input_px: int) -> npt.NDArray[np.float32]:
    """Return patches without their margin.

    Parameters
    ----------
    patches : (n, edge, edge, channels) float16

    Returns
    -------
    (n, input_px, input_px, channels) float32
    """
    margin = (patches.shape[1] - input_px) // 2
    return patches[:, margin : margin + input_px, margin : margin + input_px].astype(np.float32)
