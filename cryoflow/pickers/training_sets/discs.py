"""Discs painted into a mask, for pickers that learn from pictures of labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from cryoflow.picks import FloatArray

_PIXELS_AT_ONCE = 4_000_000


def paint_discs(shape_yx: tuple[int, int], centers_xy_px: FloatArray, radius_px: float) -> npt.NDArray[np.bool_]:
    """Return the mask of all pixels within `radius_px` of a center.

    Parameters
    ----------
    shape_yx
        Of the mask.
    centers_xy_px : (n, 2) float, x first
        In pixels of the mask; may lie beyond its edges.
    radius_px
        In pixels of the mask.

    Returns
    -------
    (ny, nx) bool
    """
    painted = np.zeros(shape_yx, bool)
    reach = np.arange(-int(np.ceil(radius_px)) - 1, int(np.ceil(radius_px)) + 2)
    at_once = max(1, _PIXELS_AT_ONCE // len(reach) ** 2)
    for start in range(0, len(centers_xy_px), at_once):
        cx, cy = centers_xy_px[start : start + at_once].T[:, :, None, None]
        x = np.rint(cx).astype(np.int64) + reach[None, None, :]
        y = np.rint(cy).astype(np.int64) + reach[None, :, None]
        near = (x - cx) ** 2 + (y - cy) ** 2 <= radius_px**2
        near &= (x >= 0) & (y >= 0) & (x < shape_yx[1]) & (y < shape_yx[0])
        painted[np.broadcast_to(y, near.shape)[near], np.broadcast_to(x, near.shape)[near]] = True
    return painted
