"""A micrograph at all levels of magnification.

Level `k` holds means over blocks of `2**k` pixels, anchored at the image's first edge: pixel `j` of level `k` spans
`j * 2**k - 0.5` to `(j + 1) * 2**k - 0.5` in the frame of `cryoflow.picks`. The front end draws by those edges, so a
circle lies on its particle at every zoom.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import MicrographFile
from cryoflow.pickers.training_sets.links import read_any
from cryoflow.storage import inputs

TILE_PX = 512
"""Edge of a tile in pixels of its level."""
LARGEST_PX = 1 << 29
"""Most pixels of a micrograph that is shown: 23,000 x 23,000."""
_ROWS = 256
"""Rows that are read at a time: even, so that pairs of rows stay together."""

Image = npt.NDArray[np.float32]


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
        """Return the bytes of memory that it takes."""
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
        return _finite(read_region(self.file, rows, columns))


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


def read_region(file: MicrographFile, rows: tuple[int, int], columns: tuple[int, int]) -> Image:
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
