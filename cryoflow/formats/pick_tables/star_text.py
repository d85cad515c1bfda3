"""What the STAR formats share: blocks with positions read by name, and notes on the blocks that were not read."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FloatArray
from cryoflow.formats.pick_tables.tomography import tomography_label, tomography_name
from cryoflow.formats.star import Table, Unread, concatenated, read_tables
from cryoflow.negative_names import negative_words

UNKNOWN = -999.0
"""What RELION and crYOLO write for a score or an angle that they do not have."""
_WITHOUT_PICKS = re.compile(r"optics|general|global|header|job|cryolo_include|micrographs?", re.IGNORECASE)


class PositionBlocks(NamedTuple):
    """The rows of all blocks with positions.

    Attributes
    ----------
    notes, others
        Notes on blocks that were not read, and the names of those blocks.
    is_negative
        The rows are of blocks whose names say that they are no particles: there is no other.
    """

    table: Table
    notes: list[str]
    others: tuple[str, ...]
    is_negative: bool


def read_position_blocks(
    path: Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    narrow: Collection[str] = (),
    name_column: str = "",
) -> PositionBlocks:
    """Return the rows of all blocks that have the columns, and notes on blocks with rows that were not read.

    A block whose name says that its rows are no particles (`data_rejected`) is read only where there is no other.

    Parameters
    ----------
    columns, optional, narrow
        As for `formats.star.read_table`.
    name_column
        The column that names micrographs, where it is among them.

    Raises
    ------
    BadInput
        Where no block has the columns, the file is damaged, or it is of tomography.
    """
    needed = (*columns, *optional)
    tables, others = read_tables(path, columns, optional=optional, narrow=narrow, skip=_is_negative)
    notes = []
    if len(tables) > 1:
        notes.append(f"{len(tables)} blocks with positions were read: {', '.join(f'data_{n}' for n, _ in tables)}")
    notes += [note for other in others if (note := _unread(other, needed))]
    table = concatenated([table for _, table in tables])
    if name_column in table and (name := tomography_name(_distinct(table, name_column))):
        raise BadInput(path, f"is of tomography (it names {name}).", "Picks in three dimensions are not read.")
    is_negative = bool(tables) and all(_is_negative(name) for name, _ in tables)
    if is_negative:
        notes.append(f"labeled -1: the name data_{tables[0][0]} says that they are no particles")
    return PositionBlocks(table, notes, tuple(other.name for other in others), is_negative)


def _is_negative(name: str) -> bool:
    return bool(negative_words(name))


def _unread(block: Unread, needed: Collection[str]) -> str:
    if not block.n_rows or _WITHOUT_PICKS.fullmatch(block.name) or tomography_label(block.columns):
        return ""
    rows = "1 row" if block.n_rows == 1 else f"{block.n_rows} rows"
    why = "its name says that they are no particles" if _is_negative(block.name) else "no positions that are known"
    return (
        f"block data_{block.name} was not read ({rows}): {why if set(needed) & set(block.columns) else 'no positions'}"
    )


def _distinct(table: Table, column: str) -> list[str]:
    values = table[column]
    return [str(name) for name in getattr(values, "categories", ())]


def without_unknown(table: Table, column: str) -> FloatArray | None:
    """Return a column with -999 as NaN; None where it is not there or holds nothing else."""
    if column not in table:
        return None
    values = np.asarray(table[column], np.float64).copy()
    values[values == UNKNOWN] = np.nan
    return None if len(values) and np.isnan(values).all() else values


def drop_disabled(table: Table, column: str, counts: dict[str, int]) -> None:
    """Take the rows that a program switched off (0 or -1) out of a table, in place, and count them."""
    if column not in table:
        return
    enabled = np.asarray(table.pop(column), np.float64)
    keep = ~(enabled <= 0)  # NaN is not switched off
    if n := int(np.count_nonzero(~keep)):
        counts["switched_off"] = counts.get("switched_off", 0) + n
        for name in list(table):
            table[name] = table[name][keep]
