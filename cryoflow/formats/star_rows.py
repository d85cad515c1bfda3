"""From the rows of a STAR loop to columns, with NumPy alone: no Python object is made for a number.

A piece of text is cut into words where white space begins and ends. Since every row has the same number of words, each
column is a stride through them, and eight digits of each number become one integer at a time. Whatever is unusual
(quotes, comments, exponents, `nan`) takes a slower way to the same result.

pandas' C parser (`read_csv` with `usecols`) needs 1.6 processor seconds for 11 columns of a million rows of 25 columns,
against 1.4 here. It does not notice a row that is too short where the columns that are read
are among those that are there: a file that was cut off would be read as if it were whole.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.star_words import NAN_WORDS, needs_tokens, rows_of_words, text, wrong_row

_EXACT_DIGITS = 15  # of a float64
_WORD_BYTES = 8


@dataclass(frozen=True)
class Words:
    """The distinct words of a text column, and which of them each row has."""

    distinct: tuple[bytes, ...]
    codes: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Wanted:
    """One column to read: its label, its place in the row, and whether it is text."""

    label: str
    place: int
    is_text: bool


Values = npt.NDArray[np.float64] | Words


def parse_rows(path: Path, block: str, width: int, wanted: Sequence[Wanted], piece: bytes) -> list[Values]:
    """Return the wanted columns of a piece of whole lines.

    Parameters
    ----------
    path, block
        For messages.
    width
        Words that each row must have.

    Raises
    ------
    BadInput
        Where a row has another number of words, or text stands among numbers.
    """
    if needs_tokens(piece):
        return _parse_tokens(path, block, width, wanted, piece)
    buffer = _scratch.padded(piece)
    edges, line_ends = _scratch.edges(buffer)
    if len(edges) % (2 * width):
        raise wrong_row(path, block, width, piece)
    rows = edges.reshape(-1, width, 2)
    if not _is_one_line_a_row(line_ends, rows[:, 0, 0], rows[:, -1, 1]):
        raise wrong_row(path, block, width, piece)
    values: list[Values] = []
    for column in wanted:
        start, end = np.ascontiguousarray(rows[:, column.place, 0]), np.ascontiguousarray(rows[:, column.place, 1])
        if column.is_text:
            values.append(_words(buffer, start, end))
        else:
            numbers = _decimals(buffer, start, end)
            values.append(_numbers(path, block, column.label, buffer, start, end) if numbers is None else numbers)
    return values


class _Scratch(threading.local):
    """Three arrays of a piece's size for each thread.

    New arrays of megabytes for each step would come from the operating system page by page, which took five times as
    long as the arithmetic.
    """

    def __init__(self) -> None:
        self._three = np.empty((3, 0), np.uint8)

    def padded(self, piece: bytes) -> npt.NDArray[np.uint8]:
        """Return the piece between line feeds; valid until the next one of this thread.

        Eight bytes can be taken that end at any of its characters.
        """
        n_bytes = len(piece) + 2 * _WORD_BYTES
        if self._three.shape[1] < n_bytes:
            self._three = np.empty((3, n_bytes), np.uint8)
        buffer = self._three[0, :n_bytes]
        buffer[:_WORD_BYTES] = buffer[-_WORD_BYTES:] = ord("\n")
        buffer[_WORD_BYTES:-_WORD_BYTES] = np.frombuffer(piece, np.uint8)
        return buffer

    def edges(self, buffer: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return where words begin and end, by turns, and the places of line feeds; `buffer` comes from `padded`."""
        shifted, other = self._three[1:, : len(buffer)]
        is_space, is_other = shifted.view(np.bool_), other.view(np.bool_)
        np.subtract(buffer, np.uint8(9), out=shifted)
        np.less(shifted, np.uint8(5), out=is_space)  # tab, line feed, vertical tab, form feed, carriage return
        np.equal(buffer, np.uint8(32), out=is_other)
        np.logical_or(is_space, is_other, out=is_space)
        np.not_equal(is_space[1:], is_space[:-1], out=is_other[1:])
        edges = np.flatnonzero(is_other[1:])
        edges += 1
        np.equal(buffer, np.uint8(10), out=is_other)
        return edges, np.flatnonzero(is_other)


_scratch = _Scratch()


def _is_one_line_a_row(line_ends: npt.NDArray[np.intp], start: npt.NDArray[np.intp], end: npt.NDArray[np.intp]) -> bool:
    """Return whether no row goes over a line's end, and no line has two rows; `start` and `end` are those of the
    rows."""
    if not len(start):
        return True
    behind = line_ends[np.searchsorted(line_ends, start[0]) :]
    if len(behind) >= len(start) and bool((behind[: len(start)] >= end).all()):
        each = behind[: len(start) - 1]
        if bool((each < start[1:]).all()):  # the common case: no blank lines
            return True
    line = np.searchsorted(line_ends, start)
    return bool(np.array_equal(line, np.searchsorted(line_ends, end)) and np.all(line[1:] > line[:-1]))


def _decimals(
    buffer: npt.NDArray[np.uint8], start: npt.NDArray[np.intp], end: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64] | None:
    """Return numbers that all have their point at one place from the right, as `%12.6f` and `%12d` write them; else
    None.

    At most eight digits stand on either side of the point, and fifteen in all. They are read as integers and divided
    once, so that each value is the nearest float to its text.
    """
    if not len(start):
        return np.zeros(0)
    first = buffer[start]
    negative = first == ord("-")
    start = start + (negative | (first == ord("+")))
    point = bytes(buffer[start[0] : end[0]]).rfind(b".")
    n_decimals = int(end[0] - start[0]) - 1 - point if point >= 0 else 0
    whole_end = end
    if point >= 0:
        whole_end = end - (n_decimals + 1)
        if not ((whole_end >= start).all() and (buffer[whole_end] == ord(".")).all()):
            return None
    n_whole = whole_end - start
    most = int(n_whole.max())
    if most > _WORD_BYTES or n_decimals > _WORD_BYTES or most + n_decimals > _EXACT_DIGITS:
        return None
    if n_decimals == 0 and not n_whole.all():
        return None  # a sign or a point without a digit
    whole = _up_to_eight_digits(buffer, whole_end, n_whole)
    decimals = _up_to_eight_digits(buffer, end, np.array(n_decimals))
    if whole is None or decimals is None:
        return None
    values = (whole * np.uint64(10**n_decimals) + decimals) / float(10**n_decimals)
    return np.where(negative, -values, values)


def _up_to_eight_digits(
    buffer: npt.NDArray[np.uint8], end: npt.NDArray[np.intp], n_digits: npt.NDArray[np.intp]
) -> npt.NDArray[np.uint64] | None:
    """Return the whole numbers whose digits end at `end`; None where a character is no digit.

    Eight characters are one integer, whose neighboring digits are added in pairs, then the pairs, then the fours.
    """
    digits = _eight_bytes(buffer, end) ^ np.uint64(0x3030303030303030)
    unused = ((_WORD_BYTES - n_digits) * 8).astype(np.uint64)
    digits = np.where(n_digits > 0, (digits >> unused) << unused, np.uint64(0))
    if (((digits + np.uint64(0x7676767676767676)) | digits) & np.uint64(0x8080808080808080)).any():
        return None
    digits = (digits * np.uint64(10 * 256 + 1)) >> np.uint64(8) & np.uint64(0x00FF00FF00FF00FF)
    digits = (digits * np.uint64(100 * 65536 + 1)) >> np.uint64(16) & np.uint64(0x0000FFFF0000FFFF)
    return (digits * np.uint64(10000 * (1 << 32) + 1)) >> np.uint64(32)


def _eight_bytes(buffer: npt.NDArray[np.uint8], end: npt.NDArray[np.intp]) -> npt.NDArray[np.uint64]:
    """Return the eight bytes before each `end`, the last of them as the highest byte of an integer."""
    everywhere = np.ndarray((len(buffer) - _WORD_BYTES + 1,), "<u8", buffer, strides=(1,))
    return everywhere[end - _WORD_BYTES]


def _numbers(
    path: Path,
    block: str,
    label: str,
    buffer: npt.NDArray[np.uint8],
    start: npt.NDArray[np.intp],
    end: npt.NDArray[np.intp],
) -> npt.NDArray[np.float64]:
    """Return the values of numbers of any form, read word by word."""
    raw = buffer.tobytes()
    return _floats(path, block, label, [raw[a:b] for a, b in zip(start.tolist(), end.tolist(), strict=True)])


def _floats(path: Path, block: str, label: str, words: Sequence[bytes]) -> npt.NDArray[np.float64]:
    """Return words as numbers, NaN where they are `nan`."""
    try:
        return np.array([float(word) for word in words], np.float64)
    except ValueError:
        pass
    values = np.full(len(words), np.nan)
    for i, word in enumerate(words):
        if word and word.lower() not in NAN_WORDS:
            try:
                values[i] = float(word)
            except ValueError:
                raise BadInput(
                    path,
                    f"block data_{block}: column _{label} has {text(word)!r} in a row, where numbers are expected.",
                ) from None
    return values


def _words(buffer: npt.NDArray[np.uint8], start: npt.NDArray[np.intp], end: npt.NDArray[np.intp]) -> Words:
    """Return text, of which equal neighbors are looked at once: particles of one micrograph mostly stand together."""
    if not len(start):
        return Words((), np.zeros(0, np.int32))
    length = end - start
    longest = int(length.max())
    if longest > 1000:
        return _distinct([buffer[a:b].tobytes() for a, b in zip(start, end, strict=True)])
    differs = length[1:] != length[:-1]
    not_of_it = (np.maximum(_WORD_BYTES - length, 0) * 8).astype(np.uint64)  # bits before a short word
    for from_end in range(0, longest, _WORD_BYTES):
        # the first eight bytes of a long word overlap with those compared before
        eight = _eight_bytes(buffer, np.maximum(end - from_end, np.minimum(start + _WORD_BYTES, end))) >> not_of_it
        differs |= eight[1:] != eight[:-1]
    heads = np.flatnonzero(np.concatenate(([True], differs)))
    words = [buffer[a:b].tobytes() for a, b in zip(start[heads].tolist(), end[heads].tolist(), strict=True)]
    runs = _distinct(words)
    return Words(runs.distinct, np.repeat(runs.codes, np.diff(np.append(heads, len(start)))))


def _distinct(words: Sequence[bytes]) -> Words:
    seen: dict[bytes, int] = {}
    codes = np.array([seen.setdefault(word, len(seen)) for word in words], np.int32)
    return Words(tuple(seen), codes)


def _parse_tokens(path: Path, block: str, width: int, wanted: Sequence[Wanted], piece: bytes) -> list[Values]:
    """Return the wanted columns of a piece with quotes or comments, word by word."""
    rows = list(rows_of_words(piece))
    if any(len(words) != width for words in rows):
        raise wrong_row(path, block, width, piece)
    picked = [[words[column.place] for words in rows] for column in wanted]
    return [
        _distinct(words) if column.is_text else _floats(path, block, column.label, words)
        for column, words in zip(wanted, picked, strict=True)
    ]
