"""The distinct rows of columns that repeat, found while a file passes by in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.formats.cs_header import Array


@dataclass(frozen=True)
class Distinct:
    """The distinct rows of a few columns.

    Attributes
    ----------
    codes : (n_rows,) int32
        For each row of the file, which of the distinct rows it has.
    columns
        The distinct rows, in order of their first appearance.
    first_row : (n_distinct,) int
        Row of the file in which each appears first.
    """

    codes: npt.NDArray[np.int32]
    columns: dict[str, Array]
    first_row: npt.NDArray[np.int64]


class DistinctFinder:
    """Tells rows apart by a 64-bit hash of their bytes, chunk by chunk.

    Two of 10,000 different micrographs share a hash by chance once in 10**11 files.
    """

    def __init__(self, n_rows: int) -> None:
        self.codes = np.zeros(n_rows, np.int32)
        self.code_of: dict[int, int] = {}
        self.kept: list[dict[str, Array]] = []
        self.first_row: list[int] = []

    def add(self, row: int, columns: dict[str, Array]) -> None:
        """Take the next rows of the file, the first of them being number `row`."""
        hashes = _hashes(list(columns.values()))
        starts = (
            np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.zeros(0, int)
        )
        if len(starts) > len(hashes) // 4:  # not grouped: sorting is cheaper than asking for each row
            unique, starts, codes = np.unique(hashes, return_index=True, return_inverse=True)
            order = np.argsort(starts, kind="stable")
            new = np.empty(len(unique), np.int32)
            new[order] = [
                self._code(row, start, int(unique[u]), columns)
                for u, start in zip(order, starts[order].tolist(), strict=True)
            ]
            self.codes[row : row + len(hashes)] = new[codes.reshape(-1)]
        else:
            found = [
                self._code(row, start, h, columns)
                for start, h in zip(starts.tolist(), hashes[starts].tolist(), strict=True)
            ]
            lengths = np.diff(np.append(starts, len(hashes)))
            self.codes[row : row + len(hashes)] = np.repeat(np.array(found, np.int32), lengths)

    def _code(self, row: int, start: int, hashed: int, columns: dict[str, Array]) -> int:
        code = self.code_of.get(hashed)
        if code is None:
            code = self.code_of[hashed] = len(self.kept)
            self.kept.append({name: values[start].copy() for name, values in columns.items()})
            self.first_row.append(row + start)
        return code

    def result(self, dtypes: Mapping[str, np.dtype[np.generic]]) -> Distinct:
        """What was found, with columns of these types."""
        columns = {}
        for name, dtype in dtypes.items():
            values = np.empty((len(self.kept), *dtype.shape), dtype.base)
            for i, kept in enumerate(self.kept):
                values[i] = kept[name]
            columns[name] = values
        return Distinct(self.codes, columns, np.array(self.first_row, np.int64))


_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads bits well in a multiplicative hash


def _hashes(columns: list[Array]) -> npt.NDArray[np.uint64]:
    """One 64-bit number a row, from the bytes of all its columns: (n,) uint64."""
    n = len(columns[0])
    hashed = np.zeros(n, np.uint64)
    for values in columns:
        flat = np.ascontiguousarray(values).reshape(n, -1).view(np.uint8).reshape(n, -1)
        if spare := -flat.shape[1] % 8:
            flat = np.pad(flat, ((0, 0), (0, spare)))
        words = flat.view(np.uint64)
        for i in range(words.shape[1]):
            hashed ^= words[:, i]
            hashed *= _ODD
            hashed ^= hashed >> np.uint64(29)
    return hashed
