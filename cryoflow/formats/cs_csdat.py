"""CryoSPARC datasets in the CSDAT container (4.4 on): a JSON header, a block a column, a heap of text."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.cs_distinct import Distinct, DistinctFinder
from cryoflow.formats.cs_header import HINT, Array, CsHeader, dtype_of, header_bytes
from cryoflow.storage import budgets

CSDAT_MAGIC = b"\x95CSDAT"
_LZ4_MAX_RATIO = 255
_ROWS_AT_A_TIME = 1 << 14


class Csdat:
    """An open dataset in CSDAT; its blocks are found and checked against the file's length at once."""

    def __init__(self, file: BufferedReader, path: str | Path) -> None:
        self.file, self.path = file, path
        try:
            head = json.loads(header_bytes(file, path, 4))
            n_rows, descr = head["length"], head["dtype"]
            self.compressed = frozenset(map(str, head.get("compressed_fields") or ()))
            compression = head.get("compression")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadInput(path, "has a CSDAT header that cannot be understood.", HINT) from error
        if not isinstance(n_rows, int) or isinstance(n_rows, bool) or n_rows < 0:
            raise BadInput(path, f"has a CSDAT header with {str(n_rows)[:40]} rows.", HINT)
        if compression not in (None, "lz4"):
            raise BadInput(path, f"is compressed with {str(compression)[:40]}; lz4 is known.")
        self.header = CsHeader(n_rows, dtype_of(descr, path, text_as_objects=True))
        self.blocks: dict[str, tuple[int, int]] = {}
        size, place = os.fstat(file.fileno()).st_size, file.tell()
        for name in self.header.dtype.names or () if n_rows else ():
            file.seek(place)
            head_bytes = file.read(4)
            n_bytes = int.from_bytes(head_bytes, "little")
            if len(head_bytes) < 4 or place + 4 + n_bytes > size:
                raise BadInput(path, f"is truncated in the column {name}.", HINT)
            expected = n_rows * self._stored(name).itemsize
            packed = name in self.compressed
            if (not packed and n_bytes != expected) or (packed and expected > _LZ4_MAX_RATIO * (n_bytes + 16)):
                raise BadInput(path, f"has {n_bytes} bytes in the column {name}, which cannot be {n_rows} rows.", HINT)
            self.blocks[name] = (place + 4, n_bytes)
            place += 4 + n_bytes
        self.heap_start = place

    def _stored(self, name: str) -> np.dtype[np.generic]:
        field = self.header.dtype[name]
        return np.dtype("<u8") if field.hasobject else field

    def _column(self, name: str) -> Array:
        """Return a column as stored: text as its offsets in the heap."""
        stored, n_rows = self._stored(name), self.header.n_rows
        if not n_rows:
            return np.empty((0, *stored.shape), stored.base)
        place, n_bytes = self.blocks[name]
        self.file.seek(place)
        data = self.file.read(n_bytes)
        if name in self.compressed:
            import lz4.block

            try:
                data = lz4.block.decompress(data, uncompressed_size=n_rows * stored.itemsize)
            except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
                raise BadInput(self.path, f"has a damaged column {name}.", HINT) from error
        if len(data) != n_rows * stored.itemsize:
            raise BadInput(self.path, f"has a damaged column {name}.", HINT)
        return np.frombuffer(data, stored.base).reshape(n_rows, *stored.shape)

    def _texts(self, places: npt.NDArray[np.uint64]) -> Array:
        """Return the text at each place of the heap, as objects."""
        self.file.seek(self.heap_start)
        heap = self.file.read()
        unique, codes = np.unique(places, return_inverse=True)
        if len(unique) and int(unique[-1]) >= max(len(heap), 1):
            raise BadInput(self.path, "points to text that is not there.", HINT)
        texts = np.empty(len(unique), object)
        n_bytes = 0
        for i, place in enumerate(unique.tolist()):
            end = heap.find(b"\0", place)
            n_bytes += (end if end >= 0 else len(heap)) - place
            budgets.check_expansion(self.path, len(heap), n_bytes)  # texts may overlap
            texts[i] = heap[place : end if end >= 0 else len(heap)].decode(errors="surrogateescape") if heap else ""
        return texts[codes.reshape(-1)]

    def _values(self, name: str, stored: Array) -> Array:
        return self._texts(stored.astype(np.uint64)) if self.header.dtype[name].hasobject else stored

    def read(self, columns: list[str], distinct: list[str]) -> tuple[dict[str, Array], Distinct]:
        """Return columns row by row, and the distinct rows of others."""
        out = {name: self._values(name, self._column(name)) for name in columns}
        finder = DistinctFinder(self.header.n_rows)
        if distinct and (n_rows := self.header.n_rows):
            stored = {name: self._column(name).reshape(n_rows, -1).view(np.uint8) for name in distinct}
            for row in range(0, n_rows, _ROWS_AT_A_TIME):
                finder.add(row, {name: values[row : row + _ROWS_AT_A_TIME] for name, values in stored.items()})
            del stored
        found = finder.result({name: self._stored(name) for name in distinct})
        return out, Distinct(
            found.codes, {name: self._values(name, found.columns[name]) for name in distinct}, found.first_row
        )

    def read_rows(self, columns: list[str], rows: npt.NDArray[np.int64]) -> dict[str, Array]:
        """Return columns of a few rows."""
        return {name: self._values(name, self._column(name)[rows]) for name in columns}


def write_csdat(file: BinaryIO, arrays: Mapping[str, Array], n_rows: int) -> None:
    """Write magic, header, columns and heap; text is given as `S`."""
    import lz4.block

    heap = bytearray(b"\0")
    places: dict[bytes, int] = {b"": 0}
    packed = [name for name in arrays if name != "uid"]
    header = {
        "length": n_rows,
        "dtype": [_json_descr(name, array) for name, array in arrays.items()],
        "compression": "lz4",
        "compressed_fields": packed,
    }
    head = json.dumps(header).encode()
    file.write(CSDAT_MAGIC + struct.pack("<I", len(head)) + head)
    for name, array in arrays.items() if n_rows else ():
        if array.dtype.kind == "S":
            unique, codes = np.unique(array, return_inverse=True)
            for text in unique.tolist():
                if text not in places:
                    places[text] = len(heap)
                    heap += text + b"\0"
            array = np.array([places[text] for text in unique.tolist()], "<u8")[codes]
        data = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
        if name in packed:
            data = lz4.block.compress(data, store_size=False)
        file.write(struct.pack("<I", len(data)) + data)
    file.write(bytes(heap))


def _json_descr(name: str, array: Array) -> list[object]:
    kind = "|O" if array.dtype.kind == "S" else array.dtype.newbyteorder("<").str
    return [name, kind, list(array.shape[1:])] if array.ndim > 1 else [name, kind]
