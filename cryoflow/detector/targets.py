"""Targets: from labeled points of a crop to the maps that the network is compared with.

The heat map has a Gaussian of a sixth of the diameter at each particle. Everything within half a diameter of a point of
unknown fate carries no weight as a negative; the loss decides what it counts as.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN
from cryoflow.detector.network import STRIDE

HEAT, CENTER, WEIGHT, UNLABELED, PRIOR, OFF_X, OFF_Y, SIZE, SIZE_KNOWN, JUNK_TRUE, JUNK_KNOWN = range(11)
"""Channels of the target maps."""

N_TARGETS = 11
SIGMA_DIAMETERS = 1 / 6
CLEAR_DIAMETERS = 0.5
"""Around an unknown candidate, places within this many diameters are neither negative nor positive."""


@dataclass(frozen=True)
class Labels:
    """Labels of one crop, in its pixels; see `Example`.

    Attributes
    ----------
    xy_px : (n, 2) float, x first
        In pixels of the crop.
    kind : (n,) int8
        `POSITIVE`, `UNKNOWN` or `NEGATIVE`.
    weight : (n,) float32
    junk : (ny / 4, nx / 4) uint8
        1 junk, 0 clean, 255 not known; None where unknown.
    """

    xy_px: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int8]
    weight: npt.NDArray[np.float32]
    log_size: float
    background: bool
    junk: npt.NDArray[np.uint8] | None
    class_prior: float = 0.0


def target_maps(labels: Labels, shape_yx: tuple[int, int], pixels_per_diameter: float) -> npt.NDArray[np.float32]:
    """Return the maps of a crop of `shape_yx` pixels.

    An output pixel (i, j) stands for the input pixel (4 i + 1.5, 4 j + 1.5), the middle of its four.

    Parameters
    ----------
    shape_yx
        Of the crop; multiples of 4.
    pixels_per_diameter
        The particle's diameter in pixels of the crop.

    Returns
    -------
    (ny / 4, nx / 4, 11) float32
        See the names of the channels above.
    """
    ny, nx = shape_yx[0] // STRIDE, shape_yx[1] // STRIDE
    maps = np.zeros((ny, nx, N_TARGETS), np.float32)
    maps[..., WEIGHT] = 1.0 if labels.background else 0.0
    maps[..., PRIOR] = labels.class_prior
    if labels.junk is not None:
        maps[..., JUNK_TRUE] = labels.junk == 1
        maps[..., JUNK_KNOWN] = labels.junk != 255
    diameter = pixels_per_diameter / STRIDE
    at = to_output(labels.xy_px)
    reach = int(np.ceil(diameter))
    near = np.asarray(((at > -reach) & (at < np.array((nx, ny)) + reach)).all(axis=1), bool)
    order = np.argsort(np.select([labels.kind == NEGATIVE, labels.kind == UNKNOWN], [0, 1], 2), kind="stable")
    for i in order[near[order]]:
        _add(maps, at[i], int(labels.kind[i]), float(labels.weight[i]), labels.log_size, diameter)
    return maps


def to_output(xy_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return coordinates in output pixels of points of the input.

    Parameters
    ----------
    xy_px : (n, 2) float, x first
        In pixels of the input.

    Returns
    -------
    (n, 2) float, x first
        In output pixels, each of 4 x 4 input pixels.
    """
    return (np.asarray(xy_px, np.float64).reshape(-1, 2) - (STRIDE - 1) / 2) / STRIDE


def from_output(xy: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return coordinates in input pixels of points of the output; the inverse of `to_output`.

    Parameters
    ----------
    xy : (n, 2) float, x first
        In output pixels.

    Returns
    -------
    (n, 2) float, x first
        In pixels of the input.
    """
    return np.asarray(xy, np.float64) * STRIDE + (STRIDE - 1) / 2


def _add(
    maps: npt.NDArray[np.float32],
    at: npt.NDArray[np.float64],
    kind: int,
    weight: float,
    log_size: float,
    diameter: float,
) -> None:
    """Draw one point. Negatives come first, then unknown points, then particles, which overrule both."""
    ny, nx, _ = maps.shape
    reach = int(np.ceil(diameter))
    column, row = (int(v) for v in np.rint(at))
    rows = slice(max(0, row - reach), max(0, min(ny, row + reach + 1)))
    columns = slice(max(0, column - reach), max(0, min(nx, column + reach + 1)))
    part = maps[rows, columns]
    if not part.size:
        return
    off_y = (np.arange(rows.start, rows.stop) - at[1])[:, None]
    off_x = (np.arange(columns.start, columns.stop) - at[0])[None, :]
    distance2 = off_x**2 + off_y**2
    inside = distance2 <= (CLEAR_DIAMETERS * diameter) ** 2
    if kind == NEGATIVE:
        part[..., WEIGHT][inside] = weight
        return
    if kind == UNKNOWN:
        part[..., WEIGHT][inside] = 0
        part[..., UNLABELED][inside] = 1
        return
    heat = np.exp(distance2 / (-2 * (SIGMA_DIAMETERS * diameter) ** 2)).astype(np.float32)
    np.maximum(part[..., HEAT], heat, out=part[..., HEAT])
    part[..., WEIGHT][inside] = 1
    part[..., UNLABELED][inside] = 0
    closest = distance2 <= (diameter / 4) ** 2
    part[..., OFF_X][closest] = np.broadcast_to(-off_x, distance2.shape)[closest]
    part[..., OFF_Y][closest] = np.broadcast_to(-off_y, distance2.shape)[closest]
    if np.isfinite(log_size):
        part[..., SIZE][closest] = log_size
        part[..., SIZE_KNOWN][closest] = 1
    if 0 <= row < ny and 0 <= column < nx:
        maps[row, column, CENTER] = weight
        maps[row, column, HEAT] = 1


__all__ = ["POSITIVE", "Labels", "from_output", "target_maps", "to_output"]
