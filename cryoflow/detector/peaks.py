"""From the network's answers to picks: peaks of the heat map, moved by their offsets, and not too close together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage, spatial

from cryoflow.detector import network as net
from cryoflow.detector.network import STRIDE
from cryoflow.detector.targets import from_output

Float = npt.NDArray[np.float64]

LEAST_LOGIT = -4.5
"""Peaks below this are not worth listing: a probability of about one in a hundred."""

JUNK_LOGIT = 2.0
"""Peaks above this are left out: a probability of junk of 0.88. Particles at the rim of carbon have less."""

LEAST_DISTANCE_DIAMETERS = 0.45
_LARGEST_OFFSET = 2.0  # output pixels; an offset that leads further is not trusted


@dataclass(frozen=True)
class Peaks:
    """Peaks of one prepared micrograph, best first, positions in its pixels.

    Attributes
    ----------
    xy_px : (n, 2) float
    logit : (n,) float
        Of being a particle, before calibration.
    log_size : (n,) float
        log(diameter / assumed diameter) at each.
    junk : (n,) float
        Logit of lying on carbon, ice, gold or in an aggregate.
    """

    xy_px: Float
    logit: Float
    log_size: Float
    junk: Float

    def __len__(self) -> int:
        return len(self.logit)

    @property
    def clean(self) -> npt.NDArray[np.bool_]:
        """Return whether each peak lies off junk, (n,) bool."""
        return self.junk <= JUNK_LOGIT

    def where(self, keep: npt.NDArray[np.bool_]) -> Peaks:
        """Return some of the peaks.

        Parameters
        ----------
        keep : (n,) bool
        """
        return Peaks(self.xy_px[keep], self.logit[keep], self.log_size[keep], self.junk[keep])


def find_peaks(
    answers: npt.NDArray[np.float32],
    pixels_per_diameter: float,
    *,
    shape_yx: tuple[int, int] | None = None,
) -> Peaks:
    """Return the peaks of a map of answers.

    Parameters
    ----------
    answers : (ny / 4, nx / 4, 5) float32
    shape_yx
        Of the image without its padding: peaks beyond it are dropped.
    """
    logit = answers[..., net.PARTICLE]
    highest = ndimage.maximum_filter(logit, size=3, mode="constant", cval=-np.inf)
    row, column = np.nonzero((logit == highest) & (logit > LEAST_LOGIT))
    at = answers[row, column].astype(np.float64)
    order = np.argsort(-at[:, net.PARTICLE], kind="stable")
    row, column, at = row[order], column[order], at[order]
    offset = np.clip(at[:, [net.OFFSET_X, net.OFFSET_Y]], -_LARGEST_OFFSET, _LARGEST_OFFSET)
    xy = from_output(np.stack([column, row], axis=1) + offset)
    peaks = Peaks(xy, at[:, net.PARTICLE], at[:, net.LOG_SIZE], at[:, net.JUNK])
    if shape_yx is not None:
        ny, nx = shape_yx
        inside = (xy >= -0.5) & (xy < np.array((nx, ny)) - 0.5)
        peaks = peaks.where(np.asarray(inside.all(axis=1), bool))
    return peaks.where(apart(peaks.xy_px, LEAST_DISTANCE_DIAMETERS * pixels_per_diameter))


def apart(xy_px: Float, distance_px: float) -> npt.NDArray[np.bool_]:
    """Return which points to keep so that none is closer to another; earlier ones win.

    Parameters
    ----------
    xy_px : (n, 2) float
    distance_px
        In the same pixels.

    Returns
    -------
    (n,) bool
    """
    keep = np.ones(len(xy_px), bool)
    if len(xy_px) < 2:
        return keep
    neighbors = spatial.cKDTree(xy_px).query_ball_point(xy_px, distance_px)
    for i, near in enumerate(neighbors):
        if keep[i]:
            for j in near:
                if j > i:
                    keep[j] = False
    return keep


def logits_at(answers: npt.NDArray[np.float32], xy_px: Float, pixels_per_diameter: float) -> Float:
    """Return the highest particle logit within a quarter of a diameter of each point: how good a given pick is.

    Parameters
    ----------
    answers : (ny / 4, nx / 4, 5) float32
    xy_px : (n, 2) float, x first
        In pixels of the prepared image.

    Returns
    -------
    (n,) float
    """
    logit = np.asarray(answers[..., net.PARTICLE], np.float32)
    reach = max(1, round(pixels_per_diameter / 4 / STRIDE))
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    highest = ndimage.maximum_filter(logit, footprint=(grid**2).sum(axis=0) <= reach**2 + 1, mode="nearest")
    at = np.rint((np.asarray(xy_px, np.float64).reshape(-1, 2) - (STRIDE - 1) / 2) / STRIDE).astype(int)
    row, column = (np.clip(v, 0, n - 1) for v, n in zip(at.T[::-1], logit.shape, strict=True))
    found: Float = highest[row, column].astype(np.float64)
    return found
