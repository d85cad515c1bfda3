"""CryoSPARC datasets in NumPy's container, one structured type; never unpickled, read in pieces."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.cs_distinct import Distinct, DistinctFinder
from cryoflow.formats.cs_header import CHUNK_BYTES, HINT, Array, CsHeader, dtype_of, header_bytes

NPY_MAGIC = b"\x93NUMPY"
_TOKEN = re.compile(r"""\s*('[^'\\\n]*'|"[^"\\\n]*"|-?\d+L?|True|False|[][(){}:,])""")
_AS_JSON = {"(": "[", ")": "]", "True": "true", "False": "false"}


class Npy:
    """An open dataset in NumPy's container; its length is checked at once."""

    def __init__(self, file: BufferedReader, path: str | Path) -> None:
        self.file, self.path = file, path
        version = file.read(2)
        size_bytes = 2 if version[:1] == b"\x01" else 4
        if version not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
            raise BadInput(path, "is a NumPy file of an unknown version.", HINT)
        text = header_bytes(file, path, size_bytes).decode("utf8" if version[0] == 3 else "latin1", errors="replace")
        try:
            head = _parsed(text)
            (n_rows,) = cast("list[object]", head["shape"])
            descr = head["descr"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise BadInput(path, "has a NumPy header that cannot be understood.", HINT) from error
        if not isinstance(n_rows, int) or isinstance(n_rows, bool) or n_rows < 0:
            raise BadInput(path, f"has a NumPy header with {str(n_rows)[:40]} rows.", HINT)
        self.header = CsHeader(n_rows, dtype_of(descr, path, text_as_objects=False))
        self.start = file.tell()
        present, expected = os.fstat(file.fileno()).st_size - self.start, n_rows * self.header.dtype.itemsize
        if present != expected:
            what = "is truncated" if present < expected else "is longer than its header says"
            raise BadInput(path, f"{what}: {n_rows} rows need {expected} bytes, {present} are there.", HINT)

    def _chunks(self) -> Iterator[tuple[int, npt.NDArray[np.void]]]:
        n_rows, dtype = self.header
        rows = max(1, CHUNK_BYTES // dtype.itemsize)
        buffer = np.empty(min(rows, n_rows), dtype)
        raw = buffer.view(np.uint8).data
        self.file.seek(self.start)
        for row in range(0, n_rows, rows):
            n = min(rows, n_rows - row)
            if self.file.readinto(raw[: n * dtype.itemsize]) != n * dtype.itemsize:
                raise BadInput(self.path, "became shorter while it was read.", "Is its job still running?")
            yield row, buffer[:n]

    def read(self, columns: list[str], distinct: list[str]) -> tuple[dict[str, Array], Distinct]:
        """Return columns row by row, and the distinct rows of others."""
        n_rows, dtype = self.header
        out = {name: np.empty((n_rows, *dtype[name].shape), dtype[name].base) for name in columns}
        finder = DistinctFinder(n_rows)
        fields = dtype.fields
        assert fields is not None  # a dataset has columns
        places = {name: fields[name][1] for name in distinct}
        for row, chunk in self._chunks() if columns or distinct else ():
            for name in columns:
                out[name][row : row + len(chunk)] = chunk[name]
            if distinct:
                raw = chunk.view(np.uint8).reshape(len(chunk), dtype.itemsize)
                finder.add(row, {name: raw[:, at : at + dtype[name].itemsize] for name, at in places.items()})
        return out, finder.result({name: dtype[name] for name in distinct})

    def read_rows(self, columns: list[str], rows: npt.NDArray[np.int64]) -> dict[str, Array]:
        """Return columns of a few rows."""
        dtype = self.header.dtype
        records = np.empty(len(rows), dtype)
        raw = records.view(np.uint8).data
        for i, row in enumerate(rows.tolist()):
            self.file.seek(self.start + row * dtype.itemsize)
            self.file.readinto(raw[i * dtype.itemsize : (i + 1) * dtype.itemsize])
        return {name: records[name].copy() for name in columns}


def _parsed(text: str) -> dict[str, object]:
    """Return the dictionary in a header, with lists for tuples.

    Not by `ast.literal_eval`, as NumPy does it: in Python 3.11 that fails at random where several threads use it.
    """
    words: list[str] = []
    place, text = 0, text.rstrip()
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:
            raise ValueError("not a header")
        place, word = match.end(), match[1]
        if word in "]})" and words and words[-1] == ",":
            words.pop()  # Python allows a comma before a closing bracket
        if word[0] in "'\"":
            word = json.dumps(word[1:-1])
        words.append(_AS_JSON.get(word, word.rstrip("L") if word[-1] == "L" else word))
    found = json.loads("".join(words))
    if not isinstance(found, dict):
        raise TypeError("not a dictionary")
    return found


def write_npy(file: BinaryIO, arrays: Mapping[str, Array], n_rows: int) -> None:
    """Write magic, header and rows, a few MiB at a time."""
    dtype = np.dtype([(name, array.dtype.newbyteorder("<"), array.shape[1:]) for name, array in arrays.items()])
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n_rows,)}
    text = repr(header)
    long = len(text) + 64 > 0xFFFF
    prefix = 12 if long else 10
    text += " " * (-(prefix + len(text) + 1) % 64) + "\n"
    file.write(
        NPY_MAGIC + (b"\x02\x00" + struct.pack("<I", len(text)) if long else b"\x01\x00" + struct.pack("<H", len(text)))
    )
    file.write(text.encode("latin1"))
    rows = max(1, CHUNK_BYTES // dtype.itemsize)
    for row in range(0, n_rows, rows):
        chunk = np.empty(min(rows, n_rows - row), dtype)
        for name, array in arrays.items():
            chunk[name] = array[row : row + rows]
        file.write(chunk.tobytes())
