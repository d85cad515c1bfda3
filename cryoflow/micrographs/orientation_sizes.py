"""The orientation check for particles of unknown size: at several sizes, one of which fits best."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.orientation import DIAMETER_PX, OrientationVerdict, check_orientation

SIZES_A = (50.0, 80.0, 130.0, 210.0, 340.0)
"""From small proteins to viruses; each does for diameters up to 30 % smaller or larger."""


def check_at_sizes(
    images: Iterable[npt.NDArray[np.float32]], centers_xy_px: Iterable[npt.ArrayLike], diameters_px: Sequence[float]
) -> tuple[OrientationVerdict, float]:
    """Return the verdict at the diameter at which a convention stands out most, and that diameter in pixels.

    Picks that lie on nothing stand out at none of them, whatever their number: it is not more doubtful than a verdict
    at one size. Micrographs are reduced to what the smallest diameter needs, once.

    Parameters
    ----------
    images, centers_xy_px
        As for `check_orientation`.
    diameters_px
        To try, one or more.
    """
    step = max(1.0, min(diameters_px) / DIAMETER_PX)
    small: list[npt.NDArray[np.float32]] = []
    centers: list[npt.NDArray[np.float64]] = []
    for image, xy in zip(images, centers_xy_px, strict=True):
        if not (np.isfinite(image.min()) and np.isfinite(image.max())):
            continue
        reduced, _ = fourier_resample(image, 1.0, step)
        small.append(reduced)
        centers.append(rescale_xy(xy, image.shape, reduced.shape))
    found = [(check_orientation(small, centers, diameter / step), diameter) for diameter in diameters_px]
    verdict, diameter_px = max(found, key=lambda pair: max(pair[0].scores.values()))
    offset = verdict.offset_xy_px
    return replace(verdict, offset_xy_px=offset and (offset[0] * step, offset[1] * step)), diameter_px
