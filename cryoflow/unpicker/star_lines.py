"""A STAR file of picks as lines: rows that are kept stay byte for byte as they were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.star_labels import X, Y
from cryoflow.storage import inputs

LABEL_COLUMN = "cryoflowLabel"
"""Of P and N. The older emUnpicker appends that column without naming it in the header; it is read as this one."""


@dataclass(frozen=True)
class StarRows:
    """The first loop that has coordinates.

    Attributes
    ----------
    head, tail
        The lines before its rows, and after.
    columns
        Labels without underscore.
    rows
        Its lines, without line ends.
    """

    path: Path
    head: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    tail: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> StarRows:
        """Read a file as RELION and the older programs write it: one row a line.

        Raises
        ------
        BadInput
            Where there is no loop with coordinates, or a row has too few or too many words.
        """
        try:
            text = inputs.read_bytes(path, at_most=1 << 32).decode(errors="surrogateescape")
        except OSError as error:
            raise BadInput(path, f"cannot be read: {error.strerror}.") from error
        lines = text.split("\n" if "\n" in text else "\r")  # of Windows' two characters, one stays with its line
        start = 0
        while start < len(lines):
            if lines[start].strip() != "loop_":
                start += 1
                continue
            first = start + 1
            columns: list[str] = []
            while first < len(lines) and (lines[first].strip().startswith("_") or not lines[first].strip()):
                if lines[first].strip():
                    columns.append(lines[first].split()[0][1:])
                first += 1
            end = first
            while end < len(lines) and lines[end].strip() and not lines[end].startswith(("data_", "loop_")):
                end += 1
            if {X, Y} <= set(columns):
                head, rows = lines[:first], tuple(lines[first:end])
                if rows and all(len(w) == len(columns) + 1 and w[-1] in "PN" for w in map(str.split, rows)):
                    _name_column(head, LABEL_COLUMN, len(columns) + 1)
                    columns.append(LABEL_COLUMN)
                _check(path, columns, rows)
                return cls(path, tuple(head), tuple(columns), rows, tuple(lines[end:]))
            start = end
        raise BadInput(path, f"has no table with _{X} and _{Y}.", "Is it a STAR file of picks?")

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def centers_xy_px(self) -> npt.NDArray[np.float64]:
        """Return the positions, (n, 2) float, x first; raise where the file has NaN."""
        x, y = self.columns.index(X), self.columns.index(Y)
        words = [row.split() for row in self.rows]
        try:
            centers = np.array([(float(w[x]), float(w[y])) for w in words], np.float64).reshape(-1, 2)
        except ValueError as error:
            raise BadInput(self.path, f"a coordinate is not a number ({error}).") from None
        if not np.isfinite(centers).all():
            raise BadInput(self.path, "a coordinate is NaN or infinite.")
        return centers

    def words(self, column: int) -> list[str]:
        """Return the values of a column as they stand."""
        return [row.split()[column] for row in self.rows]

    def label_column(self) -> int | None:
        """Return the column of P and N that labeling adds, known by its values; None where there is none."""
        for i in reversed(range(len(self.columns))):
            if self.rows and set(self.words(i)) <= {"P", "N"}:
                return i
        return None

    def where(self, keep: npt.NDArray[np.bool_]) -> str:
        """Return the file's text with only the rows that are kept."""
        return "\n".join((*self.head, *(r for r, k in zip(self.rows, keep, strict=True) if k), *self.tail))

    def with_column(self, label: str, values: Sequence[str], rows: Sequence[int] | None = None) -> str:
        """Return the file's text with a column replaced, or added at the end, and only the rows named, in that
        order."""
        order = range(len(self.rows)) if rows is None else rows
        head = list(self.head)
        if label in self.columns:
            at = self.columns.index(label)
            new = {i: _replaced(self.rows[i], at, value) for i, value in zip(order, values, strict=True)}
        else:
            _name_column(head, label, len(self.columns) + 1)
            new = {i: _joined(self.rows[i], f"{value:>12} ") for i, value in zip(order, values, strict=True)}
        return "\n".join((*head, *(new[i] for i in order), *self.tail))


def _name_column(head: list[str], label: str, number: int) -> None:
    """Add a column's line to a head, after the last one."""
    last = max(i for i, line in enumerate(head) if line.strip().startswith("_"))
    head.insert(last + 1, f"_{label} #{number} " + _ending(head[last]))


def _joined(row: str, more: str) -> str:
    """Return a row with more at its end."""
    return f"{row.rstrip()} {more}{_ending(row)}"


def _ending(line: str) -> str:
    """Return what stands between a line and its line feed in files from Windows."""
    return "\r" if line.endswith("\r") else ""


def _check(path: Path, columns: Sequence[str], rows: Sequence[str]) -> None:
    for row in rows:
        if len(row.split()) != len(columns):
            raise BadInput(
                path,
                f"a row has {len(row.split())} words where its header names {len(columns)} columns: {row[:80]!r}.",
                "The file was cut short, or is being written.",
            )


def _replaced(row: str, column: int, value: str) -> str:
    """Return a row with one word replaced, right-aligned in the room it had."""
    position = 0
    for i, word in enumerate(row.split()):
        begin = row.index(word, position)
        end = begin + len(word)
        if i == column:
            room = end - position
            return row[:position] + (" " if position else "") + value.rjust(room - bool(position)) + row[end:]
        position = end
    raise ValueError("a row without that column")
