"""Pictures of micrographs for a screen: tiles at powers of two and patches around picks, low-passed and stretched."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cryoflow.detector.masks import MaskOptions, check_shape
from cryoflow.errors import BadInput
from cryoflow.micrographs.image import MicrographFile
from cryoflow.micrographs.normalize import median_and_deviation
from cryoflow.view.pyramid import TILE_PX, Image, Pyramid, n_levels, read_region

LOWPASS_A = (0.0, 5.0, 10.0, 20.0, 40.0)
"""Resolutions to choose from in angstrom; 0 filters nothing. Each one more is another set of tiles in the cache."""
FIRST_LOWPASS_A = 20.0
"""The one of them that is chosen at first."""
SCREEN_PX = 850
"""Longest edge of a micrograph on a screen of ordinary size."""
PATCH_PX = 96
"""Edge of a patch on the screen."""
PATCH_DIAMETERS = 1.6
"""Edge of a patch in particle diameters: the particle and what surrounds it."""
STRETCH = (0.5, 99.5)
"""Percentiles of the low-passed image that become black and white."""
MOST_DEVIATIONS = 4.5
"""Black and white lie within so many deviations of the median: ice and gold must not take the contrast of particles."""
MASK_PX = 1024
"""Longest edge of a mask's picture: the masks of other programs have as many pixels as the micrograph."""
_GAUSSIAN_PER_A = float(np.sqrt(np.log(2) / 2) / np.pi)
"""Standard deviation of the Gaussian whose transfer is one half at a resolution, over that resolution."""

_SHARP_PX = 0.3
"""A Gaussian of less changes nothing that can be seen."""
_SAMPLE_PX = 192
_LARGEST_PATCH_PX = 4096


def tiles_on_screen(shape_yx: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return level, row and column of the tiles that show a whole micrograph on a screen of ordinary size."""
    level = min(max(0, int(np.log2(max(shape_yx) / SCREEN_PX))), n_levels(shape_yx) - 1)
    rows, columns = (range(-(-n // (TILE_PX << level))) for n in shape_yx)
    return [(level, row, column) for row in rows for column in columns]


def tile(pyramid: Pyramid, level: int, row: int, column: int, lowpass_A: float, pixel_size_A: float | None) -> bytes:
    """Return one tile as a gray JPEG.

    Raises
    ------
    IndexError
        Where the level has no such tile.
    """
    if not 0 <= level < len(pyramid.levels):
        raise IndexError(f"there is no level {level}")
    ny, nx = pyramid.shape_of(level)
    y, x = row * TILE_PX, column * TILE_PX
    if not (0 <= y < ny and 0 <= x < nx):
        raise IndexError(f"level {level} has no tile {row}, {column}")
    sigma_px = _sigma_px(lowpass_A, pixel_size_A, level)
    low, high = _stretch(pyramid, level, lowpass_A, sigma_px)
    pixels = _filtered(pyramid, level, (y, min(y + TILE_PX, ny)), (x, min(x + TILE_PX, nx)), sigma_px)
    return jpeg(_gray(pixels, low, high))


def patch(
    micrograph: Pyramid,
    center_xy_px: tuple[float, float],
    diameter_px: float,
    lowpass_A: float,
    pixel_size_A: float | None,
) -> npt.NDArray[np.uint8]:
    """Return the surroundings of a pick, (PATCH_PX, PATCH_PX) gray values, the pick in the middle.

    Of an MRC file only the rows of the patch are read. What lies beyond the edge of the micrograph is mid-gray.
    """
    from PIL import Image as Pictures

    ny, nx = micrograph.shape_yx
    side = min(max(8, round(PATCH_DIAMETERS * diameter_px)), _LARGEST_PATCH_PX)
    binning = max(1, side // PATCH_PX)
    sigma_px = _sigma_px(lowpass_A, pixel_size_A, 0) / binning
    margin = int(np.ceil(3 * sigma_px))
    half = -(-side // (2 * binning)) + margin  # in binned pixels
    reach = half * binning
    x, y = (int(np.floor(c + 0.5)) for c in center_xy_px)
    y0, y1, x0, x1 = max(0, y - reach), min(ny, y + reach), max(0, x - reach), min(nx, x + reach)
    box = np.full((2 * reach, 2 * reach), np.nan, np.float32)
    if y0 < y1 and x0 < x1:
        inside = micrograph.region(0, (y0, y1), (x0, x1))
        box[y0 - y + reach : y1 - y + reach, x0 - x + reach : x1 - x + reach] = inside
        box[np.isnan(box)] = inside.mean()
    small = np.nan_to_num(box).reshape(2 * half, binning, 2 * half, binning).mean(axis=(1, 3))
    if sigma_px > _SHARP_PX:
        small = ndimage.gaussian_filter(small, sigma_px)
    small = small[margin : len(small) - margin, margin : len(small) - margin]
    low, high = np.percentile(small, (1, 99))
    picture = Pictures.fromarray(_gray(small, float(low), float(high)))
    return np.asarray(picture.resize((PATCH_PX, PATCH_PX), Pictures.Resampling.BILINEAR))


def mask(path: Path, shape_yx: tuple[int, int]) -> bytes:
    """Return where a mask marks junk as a PNG picture over the whole micrograph: opaque there, transparent elsewhere.

    The rule is that of `cryoflow.detector.masks.read_mask`. Only the pixels that are shown are read.

    Raises
    ------
    BadInput
        Where the file is no image, has values that are no numbers, or another aspect than the micrograph.
    """
    from PIL import Image as Pictures

    file = MicrographFile.open(path)
    ny, nx = file.shape
    check_shape(path, (ny, nx), shape_yx)
    step = -(-max(ny, nx) // MASK_PX)
    rows = [read_region(file, (y, y + 1), (0, nx))[0, step // 2 :: step] for y in range(step // 2, ny, step)]
    values = np.stack(rows)
    if not np.isfinite(values).all():
        raise BadInput(path, "has values that are no numbers.")
    alpha = np.where(values >= MaskOptions().at_least, 255, 0).astype(np.uint8)
    stream = io.BytesIO()
    Pictures.fromarray(np.stack([alpha, alpha], axis=2), "LA").save(stream, "PNG")
    return stream.getvalue()


def jpeg(gray: npt.NDArray[np.uint8], quality: int = 87) -> bytes:
    """Return gray values as the bytes of a JPEG file."""
    from PIL import Image as Pictures

    stream = io.BytesIO()
    Pictures.fromarray(gray).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _sigma_px(lowpass_A: float, pixel_size_A: float | None, level: int) -> float:
    """Return the Gaussian's standard deviation in pixels of a level; 0 where the pixel size is unknown."""
    return _GAUSSIAN_PER_A * lowpass_A / pixel_size_A / (1 << level) if pixel_size_A else 0.0


def _filtered(pyramid: Pyramid, level: int, rows: tuple[int, int], columns: tuple[int, int], sigma_px: float) -> Image:
    """Return a region after the low-pass; enough of its surroundings is filtered with it that no seam is seen."""
    if sigma_px <= _SHARP_PX:
        return pyramid.region(level, rows, columns)
    margin = int(np.ceil(3 * sigma_px))
    ny, nx = pyramid.shape_of(level)
    y0, y1 = max(0, rows[0] - margin), min(ny, rows[1] + margin)
    x0, x1 = max(0, columns[0] - margin), min(nx, columns[1] + margin)
    wide = ndimage.gaussian_filter(pyramid.region(level, (y0, y1), (x0, x1)), sigma_px, mode="nearest", truncate=3.0)
    return np.asarray(wide[rows[0] - y0 : rows[1] - y0, columns[0] - x0 : columns[1] - x0], np.float32)


def _stretch(pyramid: Pyramid, level: int, lowpass_A: float, sigma_px: float) -> tuple[float, float]:
    """Return the values that become black and white: percentiles of nine samples spread over the micrograph.

    Each level has its own, for averaging takes noise away.
    """
    key = (level, lowpass_A)
    if key not in pyramid.stretches:
        ny, nx = pyramid.shape_of(level)
        samples = []
        for fy in (0.0, 0.5, 1.0):
            for fx in (0.0, 0.5, 1.0):
                y, x = round(fy * max(0, ny - _SAMPLE_PX)), round(fx * max(0, nx - _SAMPLE_PX))
                rows, columns = (y, min(y + _SAMPLE_PX, ny)), (x, min(x + _SAMPLE_PX, nx))
                samples.append(_filtered(pyramid, level, rows, columns, sigma_px).ravel())
        together = np.concatenate(samples)
        low, high = np.percentile(together, STRETCH)
        median, deviation = median_and_deviation(together)
        reach = MOST_DEVIATIONS * deviation or np.inf
        pyramid.stretches[key] = (max(float(low), median - reach), min(float(high), median + reach))
    return pyramid.stretches[key]


def _gray(image: Image, low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled = (image - np.float32(low)) * np.float32(255 / max(high - low, 1e-20))
    gray: npt.NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return gray
