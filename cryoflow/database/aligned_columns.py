"""Numbers to aligned columns of text and back, a block of rows at a time.

Every column is fixed-point, right-aligned, as wide as its widest value, so that a block of rows is a byte matrix whose
digits are made and read with whole-array arithmetic: about a hundred times faster than formatting row by row. Values
that are not finite say `nan`. A column whose values do not fit fixed-point (beyond 2**53 once scaled) is written with
the shortest exact decimals instead, and read back by the slower, general reader.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
_SPACE, _DOT, _MINUS, _ZERO, _NEWLINE = (ord(c) for c in " .-0\n")
_NAN = np.frombuffer(b"nan", np.uint8)
_LARGEST = 2.0**53
BLOCK_ROWS = 1 << 14
"""Rows handled at once: their bytes stay in the processor's cache."""


class NotAligned(ValueError):
    """Rows that were not written by `encode`, such as those of a file edited by hand."""


@dataclass(frozen=True)
class ColumnFormat:
    """Text format of one column; `decimals` is None for shortest exact decimals."""

    name: str
    dtype: np.dtype[np.generic]
    decimals: int | None
    width: int


def row_bytes(formats: Sequence[ColumnFormat]) -> int:
    """Return length of a row: its columns, a blank between two, a line end."""
    return sum(f.width + 1 for f in formats)


def column_format(name: str, values: npt.NDArray[np.generic], decimals: int) -> ColumnFormat:
    """Return the narrowest format that holds all values of a column."""
    if values.dtype.kind in "iu":
        low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
        width = max(len(str(low)), len(str(high)))
        return ColumnFormat(name, values.dtype, 0, width)
    low_float, high_float, all_finite = 0.0, 0.0, True
    for start in range(0, len(values), 1 << 17):
        block = values[start : start + (1 << 17)].astype(np.float64, copy=False)
        finite = np.isfinite(block)
        if not finite.all():
            all_finite, block = False, block[finite]
        if len(block):
            low_float, high_float = min(low_float, float(block.min())), max(high_float, float(block.max()))
    if max(-low_float, high_float) * 10**decimals >= _LARGEST:
        return ColumnFormat(name, values.dtype, None, max(len(_exact(v)) for v in values.tolist()))
    scale = 10.0**decimals
    widths = [_fixed_width(int(np.rint(v * scale)), decimals) for v in (low_float, high_float)]
    return ColumnFormat(name, values.dtype, decimals, max(*widths, 1 if all_finite else 3))


def encode(columns: Mapping[str, npt.NDArray[np.generic]], formats: Sequence[ColumnFormat]) -> Bytes:
    """Return rows as text, (n, row_bytes) uint8."""
    n = len(next(iter(columns.values())))
    text = np.full((row_bytes(formats), n), _SPACE, np.uint8)
    start = 0
    for f in formats:
        field = text[start : start + f.width]
        values = columns[f.name]
        if f.decimals is None:
            padded = "".join(_exact(v).rjust(f.width) for v in values.tolist())
            field[:] = np.frombuffer(padded.encode(), np.uint8).reshape(n, f.width).T
        elif values.dtype.kind == "f":
            _encode_float(values.astype(np.float64, copy=False), f.decimals, field)
        elif values.dtype.kind == "i":
            wide = values.astype(np.int64, copy=False)
            negative = wide < 0
            _put_digits(np.where(negative, -wide, wide).view(np.uint64), negative, 0, field)
        else:
            _put_digits(values.astype(np.uint64, copy=False), None, 0, field)
        start += f.width + 1
    text[-1] = _NEWLINE
    return np.ascontiguousarray(text.T)


def decode(text: Bytes, formats: Sequence[ColumnFormat]) -> list[npt.NDArray[np.generic]]:
    """Return the columns of rows that `encode` made, (n, row_bytes) uint8 in.

    Raises
    ------
    NotAligned
        Where any byte is not what `encode` would have put there.
    """
    by_column = text.T.copy(order="C")  # also because it is written to
    columns: list[npt.NDArray[np.generic]] = []
    start = 0
    for i, f in enumerate(formats):
        field = by_column[start : start + f.width]
        after = by_column[start + f.width]
        if f.decimals is None or (after != (_NEWLINE if i == len(formats) - 1 else _SPACE)).any():
            raise NotAligned(f.name)
        columns.append(_decode_field(field, f))
        start += f.width + 1
    return columns


def _encode_float(values: npt.NDArray[np.float64], decimals: int, field: Bytes) -> None:
    finite = np.isfinite(values)
    all_finite = bool(finite.all())
    scaled = np.rint((values if all_finite else np.where(finite, values, 0.0)) * 10.0**decimals).astype(np.int64)
    negative = scaled < 0
    _put_digits(np.abs(scaled).view(np.uint64), negative, decimals, field)
    if not all_finite:
        rows = np.flatnonzero(~finite)
        field[:, rows] = _SPACE
        field[-3:, rows] = _NAN[:, None]


def _put_digits(
    magnitude: npt.NDArray[np.uint64], negative: npt.NDArray[np.bool_] | None, decimals: int, field: Bytes
) -> None:
    """Write digits into `field`, (width, n), with blanks for leading zeros and the sign before the first digit."""
    width, n = field.shape
    rows = [width - 1 - k for k in range(width) if not (decimals and k == decimals)]
    if decimals:
        field[width - 1 - decimals] = _DOT
    left: npt.NDArray[np.unsignedinteger[Any]] = magnitude
    while rows:  # nine digits at a time fit 32 bits, whose division is several times faster
        if n == 0 or int(left.max()) < 2**32:
            group, rows_now, rows = left.astype(np.uint32), rows, []
        else:
            rest = left // np.uint64(10**9)
            group, rows_now, rows = (left - rest * np.uint64(10**9)).astype(np.uint32), rows[:9], rows[9:]
            left = rest
        for row in rows_now:
            quotient = group // np.uint32(10)
            group -= quotient * np.uint32(10)
            np.add(group, _ZERO, out=field[row], casting="unsafe")
            group = quotient
    leading: npt.NDArray[np.bool_] | None = None
    blanks = np.zeros(n, np.uint8)
    for row in range(width - 1 - decimals - (decimals > 0)):  # the last digit before the dot always stands
        zero = field[row] == _ZERO
        leading = zero if leading is None else leading & zero
        if not leading.any():
            break
        field[row, leading] = _SPACE
        blanks += leading
    if negative is not None and negative.any():
        signed = np.flatnonzero(negative)
        field[blanks[signed].astype(np.intp) - 1, signed] = _MINUS


def _decode_field(field: Bytes, f: ColumnFormat) -> npt.NDArray[np.generic]:
    width, n = field.shape
    decimals = f.decimals or 0
    if width > (20 if f.dtype.kind == "u" else 19):
        raise NotAligned(f.name)
    nan_rows = np.zeros(0, np.intp)
    if f.dtype.kind == "f" and (field[-1] == _NAN[2]).any():
        nan_rows = np.flatnonzero(field[-1] == _NAN[2])
        expected = np.full((width, 1), _SPACE, np.uint8)
        expected[-3:, 0] = _NAN
        if (field[:, nan_rows] != expected).any():
            raise NotAligned(f.name)
        field[:, nan_rows] = _ZERO
        if decimals:
            field[width - 1 - decimals, nan_rows] = _DOT
    value: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(n, np.uint32 if width <= 9 else np.uint64)
    seen: npt.NDArray[np.bool_] | None = None  # None once every row has had a digit
    negative = np.zeros(n, np.bool_)
    started = False
    for k in range(width):
        row = field[k]
        if decimals and k == width - 1 - decimals:
            if (row != _DOT).any() or not started or seen is not None:
                raise NotAligned(f.name)
            continue
        digit = row - np.uint8(_ZERO)
        is_digit = digit < 10
        if is_digit.all():
            seen, started = None, True
        else:
            minus = row == _MINUS
            sound = is_digit | ((row == _SPACE) & ~negative) | (minus & ~negative)
            if (started and seen is None) or not sound.all():
                raise NotAligned(f.name)
            if seen is not None and (seen & ~is_digit).any():
                raise NotAligned(f.name)
            seen = is_digit if seen is None else seen | is_digit
            started = True
            negative |= minus
            digit[~is_digit] = 0
            if seen.all():
                seen = None
        np.multiply(value, 10, out=value)
        np.add(value, digit, out=value)
    if not started or seen is not None:
        raise NotAligned(f.name)
    if f.dtype.kind == "u":
        if negative.any() or (width == 20 and _overflows(field[0], value)):
            raise NotAligned(f.name)
        return value.astype(f.dtype)
    signed = value.astype(np.int64)
    np.negative(signed, out=signed, where=negative)
    if f.dtype.kind == "i":
        limits = np.iinfo(f.dtype.name)
        if n and (signed.min() < limits.min or signed.max() > limits.max):
            raise NotAligned(f.name)
        return signed.astype(f.dtype)
    result = signed / 10.0**decimals
    result[nan_rows] = np.nan
    return result


def _overflows(first: Bytes, value: npt.NDArray[np.generic]) -> bool:
    """Return whether a number of 20 digits did not fit 64 bits."""
    twenty = (first >= _ZERO) & (first <= _ZERO + 9) & (first != _ZERO)
    return bool((twenty & ((first != _ZERO + 1) | (value < np.uint64(10**19)))).any())


def _exact(value: float) -> str:
    return repr(value) if np.isfinite(value) else "nan"


def _fixed_width(scaled: int, decimals: int) -> int:
    return max(len(str(abs(scaled))), decimals + 1) + (decimals > 0) + (scaled < 0)
