"""Pictures of micrographs for a screen: tiles at powers of two and patches around picks, low-passed and stretched.

Level `k` holds means over blocks of `2**k` pixels, anchored at the image's first edge: pixel `j` of level `k` spans
`j * 2**k - 0.5` to `(j + 1) * 2**k - 0.5` in the frame of `cryoflow.picks`. The front end draws by those edges, so a
circle lies on its particle at every zoom.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cryoflow.detector.masks import MaskOptions, check_shape
from cryoflow.errors import BadInput
from cryoflow.micrographs.image import MicrographFile
from cryoflow.micrographs.normalise import median_and_deviation
from cryoflow.pickers.training_sets.links import read_any
from cryoflow.storage import inputs

TILE_PX = 512
"""Edge of a tile in pixels of its level."""
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
LARGEST_PX = 1 << 29
"""Most pixels of a micrograph that is shown: 23,000 x 23,000."""
MASK_PX = 1024
"""Longest edge of a mask's picture: the masks of other programs have as many pixels as the micrograph."""
_GAUSSIAN_PER_A = float(np.sqrt(np.log(2) / 2) / np.pi)
"""Standard deviation of the Gaussian whose transfer is one half at a resolution, over that resolution."""

_SHARP_PX = 0.3
"""A Gaussian of less changes nothing that can be seen."""
_SAMPLE_PX = 192
_LARGEST_PATCH_PX = 4096
_ROWS = 256
"""Rows that are read at a time: even, so that pairs of rows stay together."""

Image = npt.NDArray[np.float32]
Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values that are made once, also when several threads ask at the same time; the least used are dropped.

    Parameters
    ----------
    most_bytes
        Sum of the sizes that are kept.
    size
        Bytes of a value.
    """

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most, self._size, self._held = most_bytes, size, 0
        self._lock = threading.Lock()
        self._futures: OrderedDict[Hashable, Future[Value]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made by `make` where it is not held. An error of `make` is not kept."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None:
                self._futures.move_to_end(key)
            mine = future is None
            if future is None:
                future = self._futures[key] = Future()
        if not mine:
            return future.result()
        try:
            value = make()
        except BaseException as error:
            with self._lock:
                self._futures.pop(key, None)
            future.set_exception(error)
            raise
        future.set_result(value)
        with self._lock:
            self._held += self._size(value)
            for old in list(self._futures):
                if self._held <= self._most or old == key:
                    break
                if self._futures[old].done():
                    self._held -= self._size(self._futures.pop(old).result())
        return value


@dataclass
class Pyramid:
    """A micrograph at all levels.

    Attributes
    ----------
    file
        Where the pixels of level 0 are read when they are needed, None where `levels[0]` holds them.
    levels : list of (ny, nx) float32
        Means over 1, 2, 4, ... pixels; the first is None where `file` is given.
    """

    shape_yx: tuple[int, int]
    file: MicrographFile | None
    levels: list[Image | None]
    stretches: dict[tuple[int, float], tuple[float, float]] = field(default_factory=dict)

    @property
    def n_bytes(self) -> int:
        """Memory that it takes."""
        return sum(level.nbytes for level in self.levels if level is not None)

    def shape_of(self, level: int) -> tuple[int, int]:
        """Return rows and columns of a level."""
        ny, nx = (-(-n // (1 << level)) for n in self.shape_yx)
        return ny, nx

    def region(self, level: int, rows: tuple[int, int], columns: tuple[int, int]) -> Image:
        """Return rows and columns `first` to `last` (not included) of a level."""
        pixels = self.levels[level]
        if pixels is not None:
            return pixels[slice(*rows), slice(*columns)]
        assert self.file is not None
        assert level == 0
        return _finite(_read_region(self.file, rows, columns))


def open_micrograph(path: Path) -> Pyramid:
    """Open a micrograph without its coarse levels: an MRC file is not read yet, a TIFF file is read whole.

    Raises
    ------
    BadInput
        Where the file is missing, unreadable, a movie, or larger than `LARGEST_PX`.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        whole = _finite(read_any(str(path)))
        return Pyramid((int(whole.shape[0]), int(whole.shape[1])), None, [whole])
    file = MicrographFile.open(path)
    if file.shape[0] * file.shape[1] > LARGEST_PX:
        raise BadInput(path, f"has {file.shape[1]} x {file.shape[0]} pixels: too many to show.")
    return Pyramid(file.shape, file, [None])


def read_pyramid(path: Path) -> Pyramid:
    """Open a micrograph and average it down to less than one tile.

    An MRC file is read some rows at a time and its own pixels are not held: an image of 8,192 x 8,192 pixels takes
    90 MB.

    Raises
    ------
    BadInput
        As `open_micrograph`.
    """
    pyramid = open_micrograph(path)
    ny, nx = pyramid.shape_yx
    level = np.empty(pyramid.shape_of(1), np.float32)  # filled in place: joining blocks would take the memory twice
    for row in range(0, ny, _ROWS):
        block = _halved(pyramid.region(0, (row, min(row + _ROWS, ny)), (0, nx)))
        level[row // 2 : row // 2 + len(block)] = block
    pyramid.levels.append(level)
    while max(level.shape) > TILE_PX // 2:
        level = _halved(level)
        pyramid.levels.append(level)
    return pyramid


def n_levels(shape_yx: tuple[int, int]) -> int:
    """Return how many levels `read_pyramid` makes of a shape."""
    longest, levels = -(-max(shape_yx) // 2), 2
    while longest > TILE_PX // 2:
        longest, levels = -(-longest // 2), levels + 1
    return levels


def tiles_on_screen(shape_yx: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return level, row and column of the tiles that show a whole micrograph on a screen of ordinary size."""
    level = min(max(0, int(np.log2(max(shape_yx) / SCREEN_PX))), n_levels(shape_yx) - 1)
    rows, columns = (range(-(-n // (TILE_PX << level))) for n in shape_yx)
    return [(level, row, column) for row in rows for column in columns]


def tile(pyramid: Pyramid, level: int, row: int, column: int, lowpass_A: float, pixel_size_A: float | None) -> bytes:
    """Return one tile as a grey JPEG.

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
    return jpeg(_grey(pixels, low, high))


def patch(
    micrograph: Pyramid,
    center_xy_px: tuple[float, float],
    diameter_px: float,
    lowpass_A: float,
    pixel_size_A: float | None,
) -> npt.NDArray[np.uint8]:
    """Return the surroundings of a pick, (PATCH_PX, PATCH_PX) grey values, the pick in the middle.

    Of an MRC file only the rows of the patch are read. What lies beyond the edge of the micrograph is mid-grey.
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
    picture = Pictures.fromarray(_grey(small, float(low), float(high)))
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
    rows = [_read_region(file, (y, y + 1), (0, nx))[0, step // 2 :: step] for y in range(step // 2, ny, step)]
    values = np.stack(rows)
    if not np.isfinite(values).all():
        raise BadInput(path, "has values that are no numbers.")
    alpha = np.where(values >= MaskOptions().at_least, 255, 0).astype(np.uint8)
    stream = io.BytesIO()
    Pictures.fromarray(np.stack([alpha, alpha], axis=2), "LA").save(stream, "PNG")
    return stream.getvalue()


def jpeg(grey: npt.NDArray[np.uint8], quality: int = 87) -> bytes:
    """Return grey values as the bytes of a JPEG file."""
    from PIL import Image as Pictures

    stream = io.BytesIO()
    Pictures.fromarray(grey).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _read_region(file: MicrographFile, rows: tuple[int, int], columns: tuple[int, int]) -> Image:
    """Read a part of an image. A file that shrinks meanwhile is an error; mapped memory would end the process."""
    nx, item = file.shape[1], file.header.dtype.itemsize
    (y0, y1), (x0, x1) = rows, columns
    try:
        with inputs.unbuffered(file.path) as opened:
            number = opened.fileno()
            start = file.header.data_offset
            if (x0, x1) == (0, nx):
                raw = os.pread(number, (y1 - y0) * nx * item, start + y0 * nx * item)
            else:
                n_bytes = (x1 - x0) * item
                raw = b"".join(os.pread(number, n_bytes, start + (y * nx + x0) * item) for y in range(y0, y1))
    except OSError as error:
        raise BadInput(file.path, f"cannot be read: {error.strerror or error}.") from error
    if len(raw) != (y1 - y0) * (x1 - x0) * item:
        raise BadInput(file.path, "became shorter while it was read.", "Wait until it is written.")
    return np.frombuffer(raw, file.header.dtype).reshape(y1 - y0, x1 - x0).astype(np.float32)


def _finite(image: Image) -> Image:
    """Replace what is NaN or infinite by the mean of the rest."""
    bad = ~np.isfinite(image)
    if bad.any():
        image = image.copy()
        image[bad] = image[~bad].mean() if not bad.all() else 0
    return image


def _halved(image: Image) -> Image:
    """Return means over 2 x 2 pixels; an odd last row or column is taken twice."""
    ny, nx = image.shape
    if ny % 2 or nx % 2:
        image = np.pad(image, ((0, ny % 2), (0, nx % 2)), mode="edge")
    rows = image[0::2] + image[1::2]
    return np.asarray((rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25), np.float32)


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


def _grey(image: Image, low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled = (image - np.float32(low)) * np.float32(255 / max(high - low, 1e-20))
    grey: npt.NDArray[np.uint8] = np.clip(scaled, 0, 255).astype(np.uint8)
    return grey
