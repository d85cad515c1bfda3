"""What both containers of a CryoSPARC dataset share: a header that is believed only as far as the file is long."""

from __future__ import annotations

import os
import re
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput

HINT = "Copy it again from the project, or clear and re-run the job that wrote it."
CHUNK_BYTES = 4 << 20
"""How much of a dataset is in memory at a time."""

Array = npt.NDArray[np.generic]
_MAX_HEADER_BYTES = 16 << 20  # a classification into 100 classes needs 0.1 MiB
_PLAIN = re.compile(r"[<>|=]?([biufSUO])\d*")


class CsHeader(NamedTuple):
    """The head of a dataset: number of rows, and the structured type of one row (text in CSDAT is `O`)."""

    n_rows: int
    dtype: np.dtype[np.void]


def header_bytes(file: BufferedReader, path: str | Path, size_bytes: int) -> bytes:
    """Return the text of a header whose length is stored in `size_bytes` bytes before it."""
    n_bytes = int.from_bytes(file.read(size_bytes), "little")
    left = os.fstat(file.fileno()).st_size - file.tell()
    if n_bytes > left:
        raise BadInput(path, f"is truncated: its header should have {n_bytes} bytes, {left} are there.", HINT)
    if n_bytes > _MAX_HEADER_BYTES:
        raise BadInput(path, f"has a header of {n_bytes} bytes, which no dataset has.", HINT)
    return file.read(n_bytes)


def dtype_of(descr: object, path: str | Path, *, text_as_objects: bool) -> np.dtype[np.void]:
    """Return the type of a row, refused where a value would have to be unpickled or has no size."""
    try:
        if not isinstance(descr, list):
            raise TypeError("not a table")
        fields = []
        for name, kind, *shape in descr:
            if not isinstance(name, str) or not isinstance(kind, str) or len(shape) > 1 or not _PLAIN.fullmatch(kind):
                raise TypeError("not a plain column")
            fields.append((name, kind, tuple(shape[0]) if shape else ()))
        dtype = np.dtype(fields)
        plain = [dtype[name].base for name in dtype.names or ()]
    except (TypeError, ValueError, SyntaxError, RecursionError, OverflowError, MemoryError) as error:
        raise BadInput(path, "has a header whose columns cannot be understood.", HINT) from error
    for base in plain:
        if base.kind == "O" and not text_as_objects:
            raise BadInput(
                path,
                "holds pickled Python objects, which are never loaded from a project.",
                "Save it again with CryoSPARC, whose datasets have none.",
            )
        if base.kind not in "biufSUO" or base.itemsize == 0 or (base.kind == "O" and dtype.itemsize == 0):
            raise BadInput(path, f"has a column of the type {base}, which no dataset has.", HINT)
    if not dtype.names or any(dtype[name].itemsize == 0 for name in dtype.names):
        raise BadInput(path, "has no columns, or one without size.", HINT)
    return dtype
