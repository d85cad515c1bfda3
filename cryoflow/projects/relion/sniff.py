"""A look at the beginning of a STAR file: what it holds, without reading it through."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.relion_list import COLUMN, SUFFIX_FILE
from cryoflow.formats.pick_tables.tomography import tomography_label
from cryoflow.formats.star import count_rows
from cryoflow.formats.star_blocks import walk

_COUNTED_BYTES = 1 << 20


@dataclass(frozen=True)
class StarContent:
    """Declared contents of the blocks of a STAR file.

    Attributes
    ----------
    columns
        Of the first block with coordinates, or of the first block.
    n_rows
        Of that block; None for a large file.
    tomography
        A column that only tomography has, else empty.
    """

    columns: tuple[str, ...]
    n_rows: int | None
    tomography: str = ""

    @property
    def has_coordinates(self) -> bool:
        """Return whether there is a table of positions."""
        return "rlnCoordinateX" in self.columns and "rlnCoordinateY" in self.columns

    @property
    def is_coordinate_list(self) -> bool:
        """Return whether it lists files with positions, as RELION 4 and later do, or is a `coords_suffix` file."""
        return COLUMN in self.columns


def sniff(path: Path) -> StarContent:
    """Look at a file.

    Raises
    ------
    BadInput
        Where it is missing or no STAR file.
    """
    if path.name.startswith(SUFFIX_FILE):  # one line of text, no STAR file: its name is what matters
        return StarContent((COLUMN,), None)
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    return _sniff(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _sniff(path: Path, mtime_ns: int, size_bytes: int) -> StarContent:  # noqa: ARG001 (the time is part of the cache's key)
    first: tuple[str, ...] | None = None
    for block in walk(path):
        first = block.columns if first is None else first
        tomography = tomography_label(block.columns)
        if tomography or {"rlnCoordinateX", COLUMN} & set(block.columns):
            column = block.columns[0]
            n_rows = count_rows(path, column) if size_bytes <= _COUNTED_BYTES else None
            return StarContent(block.columns, n_rows, tomography)
        if size_bytes > _COUNTED_BYTES and block.name not in ("optics", "general"):
            break  # a large table of something else: what follows it is not worth reading through it
    columns = first or ()
    return StarContent(columns, None)
