"""Headers of MRC files: how large an image is, how it is stored, and what pixel size it claims.

The format is that of Cheng et al. (2015) J. Struct. Biol. 192, 146 (MRC2014), with what older files do: no `MAP `,
no machine stamp, IMOD's unsigned bytes. A header is 1024 bytes, then `NSYMBT` bytes of extended header, then pixels.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.storage import inputs

SMALLEST_PIXEL_A, LARGEST_PIXEL_A = 1e-3, 1e3
"""Pixel sizes of micrographs; any other is one that is not known. Atlases of whole grids have some hundred angstrom."""
HEADER_BYTES = 1024
MODE_DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""MRC mode -> NumPy type of a pixel, without byte order."""

_OTHER_MODES = {3: "complex 16-bit integers", 4: "complex 32-bit floats", 101: "packed 4-bit integers"}
_MOVIE_SUFFIXES = (".tif", ".tiff", ".eer", ".gain", ".mrcs", ".dm4")
_IMOD_STAMP = 1146047817
_MAGIC = (
    (b"II*\0", "a TIFF file"),
    (b"MM\0*", "a TIFF file"),
    (b"II+\0", "an EER or BigTIFF file"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"BZh", "compressed with bzip2"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself"),
    (b"\x89HDF", "an HDF5 file"),
    # whole words: a lone "<" also begins the header of every micrograph of 60 + n * 256 columns, such as 3900
    *((word, "a web page or XML") for word in (b"<!doctype", b"<!DOCTYPE", b"<html", b"<HTML", b"<head", b"<?xml")),
)
_HINTS = {
    "a TIFF file": "Name the motion-corrected micrograph, in MRC (`tif2mrc` converts); raw movies are not micrographs.",
    "an EER or BigTIFF file": "Name the motion-corrected micrograph in MRC instead of the movie.",
    "compressed with gzip": "Unpack it first (`gunzip`).",
    "compressed with bzip2": "Unpack it first (`bunzip2`).",
    "compressed with zstd": "Unpack it first (`unzstd`).",
    "a git-lfs pointer, not the file itself": "Fetch the content (`git lfs pull`).",
}


@dataclass(frozen=True)
class MicrographHeader:
    """The header of an MRC file.

    Attributes
    ----------
    shape_yx
        Rows and columns.
    pixel_size_A
        From the cell; None where the header has none, or where x and y disagree by more than 1 %. Some programs write
        1.0 where it is unknown.
    mode
        MRC mode: a key of `MODE_DTYPES`.
    n_sections
        Number of images; more than 1 is a movie or a stack.
    ispg
        Space group number: 0 for images, 1 for volumes (and for the images of many programs).
    little_endian
        Byte order of header and pixels.
    data_offset
        Where the pixels start, bytes.
    dtype
        NumPy type of a pixel in the file, with byte order.
    """

    shape_yx: tuple[int, int]
    pixel_size_A: float | None
    mode: int
    n_sections: int
    ispg: int
    little_endian: bool
    data_offset: int
    dtype: np.dtype[np.generic]

    @property
    def section_bytes(self) -> int:
        """Return the bytes of one image."""
        return self.shape_yx[0] * self.shape_yx[1] * self.dtype.itemsize


def read_header(path: str | Path) -> MicrographHeader:
    """Read and check the header of an MRC file; the pixels are not touched.

    Raises
    ------
    BadInput
        Where the file is missing, is not MRC, has a mode that holds no image, or is shorter than its header says.
    """
    path = Path(path)
    try:
        with inputs.opened(path) as file:
            start = file.read(HEADER_BYTES)
            size_bytes = file.seek(0, 2)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.", "Was it moved or archived?") from error
    return parse_header(path, start, size_bytes)


def shape_of_file(path: str | Path) -> tuple[int, int] | None:
    """Return the shape (ny, nx) in the header of an MRC file; None where it is missing or cannot be read as one."""
    try:
        return read_header(path).shape_yx
    except BadInput:
        return None


def parse_header(path: Path, start: bytes, size_bytes: int) -> MicrographHeader:
    """Make sense of the first 1024 bytes of a file of `size_bytes`; `path` is for messages.

    Raises
    ------
    BadInput
        Where it is not MRC, has a mode that holds no image, is damaged, or is shorter than its header says.
    """
    for magic, what in _MAGIC:
        if start.startswith(magic):
            raise BadInput(path, f"is {what}, not an MRC file.", _HINTS.get(what, "Was it downloaded whole?"))
    if len(start) < HEADER_BYTES:
        raise BadInput(path, f"is {len(start)} bytes long, shorter than an MRC header (1024).", "Was it copied whole?")
    order = _byte_order(start)
    if order is None:
        raise BadInput(path, "is not an MRC file: its header makes no sense in either byte order.")
    nx, ny, n_sections, mode = struct.unpack_from(f"{order}4i", start, 0)
    mx, my = struct.unpack_from(f"{order}2i", start, 28)
    cell_x_A, cell_y_A = struct.unpack_from(f"{order}2f", start, 40)
    ispg, extended_bytes = struct.unpack_from(f"{order}2i", start, 88)
    if mode not in MODE_DTYPES:
        what = _OTHER_MODES.get(mode, "unknown")
        raise BadInput(
            path,
            f"has MRC mode {mode} ({what}); modes {', '.join(map(str, MODE_DTYPES))} can be read.",
            "Name the motion-corrected micrograph.",
        )
    if extended_bytes < 0:
        raise BadInput(path, f"has an extended header of {extended_bytes} bytes.", "Its header is damaged.")
    dtype = np.dtype(f"{order}{_pixel_type(mode, start, order)}")
    header = MicrographHeader(
        shape_yx=(ny, nx),
        pixel_size_A=_pixel_size(cell_x_A, mx, cell_y_A, my),
        mode=mode,
        n_sections=n_sections,
        ispg=ispg,
        little_endian=order == "<",
        data_offset=HEADER_BYTES + extended_bytes,
        dtype=dtype,
    )
    expected = header.data_offset + n_sections * header.section_bytes
    if size_bytes < expected:
        raise BadInput(
            path,
            f"is cut short: {size_bytes} bytes, its header announces {expected} ({n_sections} of {ny} x {nx} pixels).",
            "Copy it again, or wait until it is written.",
        )
    return header


def micrograph_status(
    path: Path | None,
) -> tuple[Literal["found", "missing", "movie", "unreadable"], MicrographHeader | None]:
    """Return whether a file can serve as a micrograph, and its header where that could be read.

    A stack of several sections is a movie, and so is a file that is named like one. A dangling link is missing.
    """
    try:
        if path is None or not path.is_file():
            return "missing", None
    except OSError:  # a folder that may not be entered, a name that no file system takes
        return "missing", None
    try:
        header = read_header(path)
    except BadInput:
        return ("movie" if path.suffix.lower() in _MOVIE_SUFFIXES else "unreadable"), None
    return ("movie" if header.n_sections > 1 else "found"), header


def _byte_order(start: bytes) -> Literal["<", ">"] | None:
    """Return the byte order in which sizes and mode make sense; the machine stamp is often wrong and only breaks
    ties."""
    sound: list[Literal["<", ">"]] = []
    for order in ("<", ">"):
        nx, ny, nz, mode = struct.unpack_from(f"{order}4i", start, 0)
        if all(0 < n < 1 << 24 for n in (nx, ny, nz)) and 0 <= mode <= 120:
            sound.append(order)
    if len(sound) == 2:
        return ">" if start[212:213] == b"\x11" else "<"
    return sound[0] if sound else None


def _pixel_type(mode: int, start: bytes, order: str) -> str:
    """Return the NumPy type of a mode."""
    # Mode 0 is signed, except in files of older IMODs: they contain a stamp, and set bit 0 of their flags where signed.
    stamp, flags = struct.unpack_from(f"{order}2i", start, 152)
    return "u1" if mode == 0 and stamp == _IMOD_STAMP and not flags & 1 else MODE_DTYPES[mode]


def is_pixel_size(value_A: float) -> bool:
    """Return whether a number can be the pixel size of a micrograph; files of others hold 0, NaN and 1e-300."""
    return SMALLEST_PIXEL_A <= value_A <= LARGEST_PIXEL_A


def believable_pixel_size(in_header_A: float | None) -> float | None:
    """Return the pixel size of a header where it is evidence against another value; None where it is unset.

    Many programs write 0 or 1 where they do not know the pixel size: such a header contradicts nothing.
    """
    if in_header_A is None or not in_header_A > 0 or abs(in_header_A - 1) < 1e-3:
        return None
    return in_header_A


def _pixel_size(cell_x_A: float, mx: int, cell_y_A: float, my: int) -> float | None:
    if mx <= 0 or my <= 0 or not (np.isfinite(cell_x_A) and np.isfinite(cell_y_A)) or cell_x_A <= 0 or cell_y_A <= 0:
        return None
    size_x_A, size_y_A = cell_x_A / mx, cell_y_A / my
    if abs(size_x_A - size_y_A) > 0.01 * size_x_A:
        return None
    if not is_pixel_size(size_x_A):
        return None
    return float(f"{size_x_A:.7g}")  # a float32 quotient carries no more digits
