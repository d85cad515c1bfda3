"""BoxNet's examples: picture, labels and importance of a micrograph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import resample_to_shape, rescale_xy
from cryoflow.pickers.programs.warp import PIXEL_SIZE_A
from cryoflow.pickers.training_sets.discs import paint_discs
from cryoflow.pickers.training_sets.negatives import NEGATIVE, UNLABELED
from cryoflow.picks import FloatArray

SMALLEST_RADIUS_PX = 1.5
PARTICLE, CERTAIN = 1.0, 1.0
IMPORTANCE = {NEGATIVE: ("negative", 4.0), UNLABELED: ("unlabeled", 0.0)}
"""Label of a pick -> its name, and the importance of its pixels; in the order in which they are drawn."""


def label_radius_px(diameter_A: float, pixel_size_A: float = PIXEL_SIZE_A) -> float:
    """Return the radius of a particle's disc in the labels."""
    return max(SMALLEST_RADIUS_PX, diameter_A / 2 / pixel_size_A / 4)


def boxnet_slices(
    image: npt.NDArray[np.float32],
    pixel_size_A: float,
    centers_xy_px: FloatArray,
    diameter_A: float,
    to_pixel_size_A: float = PIXEL_SIZE_A,
    *,
    dark: bool = True,
    not_positive: pd.DataFrame | None = None,
) -> npt.NDArray[np.float32]:
    """Return picture, labels and importance of one micrograph.

    Parameters
    ----------
    image : (ny, nx) float32
    pixel_size_A
        Of `image`.
    centers_xy_px : (n, 2) float, x first
        In pixels of `image`.
    not_positive
        `x_px`, `y_px` and `label` of negative and unlabeled picks.

    Returns
    -------
    (3, new_ny, new_nx) float32
        At `to_pixel_size_A`. Sizes are even, as Warp's own.

    Raises
    ------
    BadInput
        Where the micrograph becomes one gray value at the new pixel size.
    """
    shape = tuple(max(2, int(n * pixel_size_A / to_pixel_size_A + 0.5) // 2 * 2) for n in image.shape)
    small = resample_to_shape(image, (shape[0], shape[1]), workers=1)
    deviation = float(small.std())
    if deviation == 0:
        raise BadInput("pixel_size", f"is {to_pixel_size_A:g}: a micrograph becomes one gray value.")
    small = (small - small.mean()) / np.float32(deviation if dark else -deviation)

    def discs(xy_px: FloatArray, radius_px: float) -> npt.NDArray[np.bool_]:
        xy = rescale_xy(xy_px, (image.shape[0], image.shape[1]), (shape[0], shape[1]))
        return paint_discs((shape[0], shape[1]), xy, radius_px)

    slices = np.full((3, *shape), CERTAIN, np.float32)
    slices[0] = small
    slices[1] = discs(centers_xy_px, label_radius_px(diameter_A, to_pixel_size_A)) * PARTICLE
    if not_positive is not None and len(not_positive):
        for label, (_, importance) in IMPORTANCE.items():
            xy_px = not_positive.loc[not_positive["label"] == label, ["x_px", "y_px"]].to_numpy(np.float64)
            slices[2][discs(xy_px, max(1.0, diameter_A / 2 / to_pixel_size_A))] = importance
    return slices


def write_tiff(path: Path, slices: npt.NDArray[np.float32]) -> None:
    """Write plain pages of floats: no compression, no description, nothing that changes from run to run.

    Parameters
    ----------
    slices : (n, ny, nx) float32
    """
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for page in slices:
            file.write(page, photometric="minisblack", metadata=None, software="", contiguous=False)
