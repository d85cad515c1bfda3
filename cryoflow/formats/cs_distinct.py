"""The distinct rows of columns that repeat, found while a file passes by in pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.formats.cs_header import Array

Bytes = npt.NDArray[np.uint8]
_N_SLOTS_LOG2 = 16
_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: spreads bits well in a multiplicative hash


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
    """Tells rows apart by a 64-bit hash of their bytes, piece by piece.

    Hashes that were seen are looked up in a table of fixed size, by their highest bits; the few that share a place with
    another are looked up one by one. Two of 10,000 different micrographs share a hash by chance once in 10**11 files.
    """

    def __init__(self, n_rows: int) -> None:
        self.codes = np.zeros(n_rows, np.int32)
        self.first_row: list[int] = []
        self._kept: list[dict[str, bytes]] = []
        self._code_of: dict[int, int] = {}
        self._slot_hash = np.zeros(1 << _N_SLOTS_LOG2, np.uint64)
        self._slot_code = np.zeros(1 << _N_SLOTS_LOG2, np.int32)

    def add(self, row: int, columns: Mapping[str, Bytes]) -> None:
        """Take the next rows of the file, the first of them being number `row`: (n, bytes of the column) each."""
        hashes = _hashes(list(columns.values()))
        slots = (hashes >> np.uint64(64 - _N_SLOTS_LOG2)).astype(np.intp)
        codes = self._slot_code[slots]
        is_new = self._slot_hash[slots] != hashes
        if is_new.any():
            rest = np.flatnonzero(is_new)
            unique, first, inverse = np.unique(hashes[rest], return_index=True, return_inverse=True)
            found = np.empty(len(unique), np.int32)
            for i in np.argsort(first, kind="stable").tolist():
                found[i] = self._code(int(unique[i]), row, int(rest[first[i]]), columns)
            codes[rest] = found[inverse.reshape(-1)]
        self.codes[row : row + len(hashes)] = codes

    def _code(self, hashed: int, row: int, place: int, columns: Mapping[str, Bytes]) -> int:
        if hashed not in self._code_of:
            code = self._code_of[hashed] = len(self._kept)
            self._kept.append({name: values[place].tobytes() for name, values in columns.items()})
            self.first_row.append(row + place)
            slot = hashed >> (64 - _N_SLOTS_LOG2)
            if self._slot_hash[slot] == 0:
                self._slot_hash[slot], self._slot_code[slot] = hashed, code
        return self._code_of[hashed]

    def result(self, dtypes: Mapping[str, np.dtype[np.generic]]) -> Distinct:
        """Return the distinct rows, with columns of these types."""
        columns = {}
        for name, dtype in dtypes.items():
            data = b"".join(kept[name] for kept in self._kept)
            columns[name] = np.frombuffer(data, dtype.base).reshape(len(self._kept), *dtype.shape).copy()
        return Distinct(self.codes, columns, np.array(self.first_row, np.int64))


def _hashes(columns: list[Bytes]) -> npt.NDArray[np.uint64]:
    """Return one 64-bit number a row, never 0, from the bytes of all its columns: (n,) uint64."""
    hashed = np.zeros(len(columns[0]), np.uint64)
    for values in columns:
        for start in range(0, values.shape[1], 8):
            word = values[:, start : start + 8]
            if word.shape[1] < 8:
                padded = np.zeros((len(word), 8), np.uint8)
                padded[:, : word.shape[1]] = word
                word = padded
            hashed ^= word.view(np.uint64)[:, 0]
            hashed *= _ODD
            hashed ^= hashed >> np.uint64(29)
    np.maximum(hashed, np.uint64(1), out=hashed)
    return hashed
