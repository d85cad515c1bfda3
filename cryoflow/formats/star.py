"""STAR files, as RELION and its neighbors write them: whole tables column by column, small files as text, and writing.

The format is Hall (1991) J. Chem. Inf. Comput. Sci. 31, 326, as far as the programs of this field use it: blocks
`data_NAME`, each a loop or a list of pairs; words at white space, with quotes; comments from `#` at a word's start.
Numbers after `#` in a label's line are comments and need not be right. What a column means is not known here.

The package `starfile` is the reference in tests, and does not read here: a `job.star` of 60 options took it 2.0 ms of
CPU and this module 0.36 ms, 1,000,000 rows 6.6 s and 3,075 MB against 1.8 s and 224 MB (docs/performance.md), and it
turns names and options that look like numbers into numbers.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star_blocks import Block, walk
from cryoflow.formats.star_rows import Values, Wanted, Words, parse_rows
from cryoflow.formats.star_words import is_number, rows_of_words, text, wrong_row
from cryoflow.formats.star_write import write_star
from cryoflow.system.cpus import available_cpus

__all__ = [
    "Unread",
    "concatenated",
    "count_rows",
    "list_blocks",
    "read_blocks",
    "read_table",
    "read_tables",
    "write_star",
]

Column = npt.NDArray[Any] | pd.Categorical
Table = dict[str, Column]

_TEXT_ENDINGS = ("Name", "Filename", "Label", "Coordinates", "Metadata", "File", "Process", "Node", "Alias", "Movie")


def read_table(
    path: str | Path,
    block: str | None,
    columns: Sequence[str] | None = None,
    *,
    optional: Sequence[str] = (),
    narrow: Collection[str] = (),
    text_columns: Collection[str] = (),
    only_head: bool = False,
) -> Table:
    """Read columns of one block, as fast as the disk allows and in little more memory than they need.

    Parameters
    ----------
    block
        Name without `data_`; None for the first block that has all of `columns`.
    columns
        Columns that must be there, without their underscore; None reads all there are.
    optional
        Columns that are read where they are there.
    narrow
        Columns of numbers that are kept as float32, to save memory.
    text_columns
        Columns that are text. A label that ends like a name (`rlnMicrographName`) is text anyway; another that is asked
        for holds numbers. Where all columns are read, the first row tells.
    only_head
        Read the first rows alone, about two megabytes of them.

    Returns
    -------
    dict
        Column name -> (n,) float64 (or float32), or a Categorical of text, in the order of the file. Words such as
        `nan`, `None` and `<NA>` are NaN among numbers.

    Raises
    ------
    BadInput
        Where the file is no STAR file, has no such block or column, or a row has too few or too many words, or text
        where numbers are.
    """
    path = Path(path)
    seen: list[str] = []
    for found in walk(path):
        seen.append(f"data_{found.name} ({', '.join(found.columns[:40])})")
        if block is not None and found.name != block:
            continue
        missing = [c for c in columns or () if c not in found.columns]
        if missing and block is None:
            continue
        if missing:
            raise BadInput(
                path,
                f"the block data_{found.name} has no _{', _'.join(missing)} (columns: {', '.join(found.columns)}).",
            )
        names = found.columns if columns is None else [*columns, *(c for c in optional if c in found.columns)]
        guessed = found.columns if columns is None else ()
        return _read_columns(
            path, found, list(dict.fromkeys(names)), frozenset(narrow), text_columns, guessed, only_head
        )
    wanted = f"data_{block}" if block is not None else f"with the columns _{', _'.join(columns or ())}"
    raise BadInput(path, f"has no block {wanted} (there are: {'; '.join(seen)}).")


@dataclass(frozen=True)
class Unread:
    """A block that `read_tables` passed over: its name, its columns, its number of rows (1 for pairs)."""

    name: str
    columns: tuple[str, ...]
    n_rows: int


def read_tables(
    path: str | Path,
    columns: Sequence[str],
    *,
    optional: Sequence[str] = (),
    narrow: Collection[str] = (),
    skip: Callable[[str], bool] = lambda _: False,
) -> tuple[list[tuple[str, Table]], list[Unread]]:
    """Read columns of every block that has all of `columns`, in one pass over the file.

    Parameters
    ----------
    columns, optional, narrow
        As for `read_table`.
    skip
        Whether a block of this name is passed over although it has the columns, where another one has them, too.

    Returns
    -------
    tuple
        Name and table of each block that was read; the other blocks.

    Raises
    ------
    BadInput
        As `read_table`; also where no block has the columns.
    """
    path = Path(path)
    tables: list[tuple[str, Table]] = []
    others: list[Unread] = []
    for block in walk(path):
        if set(columns) <= set(block.columns) and not skip(block.name):
            names = dict.fromkeys([*columns, *(c for c in optional if c in block.columns)])
            tables.append((block.name, _read_columns(path, block, list(names), frozenset(narrow), (), (), False)))
        else:
            others.append(Unread(block.name, block.columns, _count(block) if block.is_loop else 1))
    if not tables and any(set(columns) <= set(other.columns) for other in others):
        return read_tables(path, columns, optional=optional, narrow=narrow)
    if not tables:
        seen = "; ".join(f"data_{o.name} ({', '.join(o.columns[:40])})" for o in others)
        raise BadInput(path, f"has no block with the columns _{', _'.join(columns)} (there are: {seen}).")
    return tables, others


def concatenated(tables: Sequence[Table]) -> Table:
    """Return one table of the rows of several; a column that one of them lacks is NaN or an empty word there."""
    if len(tables) == 1:
        return tables[0]
    lengths = [len(next(iter(table.values()))) for table in tables]
    joined: Table = {}
    for name in dict.fromkeys(name for table in tables for name in table):
        of_it = [table.get(name) for table in tables]
        if any(isinstance(column, pd.Categorical) for column in of_it):
            words = [
                [""] * n if column is None else np.asarray(column, object)
                for column, n in zip(of_it, lengths, strict=True)
            ]
            joined[name] = pd.Categorical(np.concatenate([np.asarray(part, object) for part in words]))
        else:
            joined[name] = np.concatenate(
                [np.full(n, np.nan) if c is None else np.asarray(c) for c, n in zip(of_it, lengths, strict=True)]
            )
    return joined


def read_blocks(path: str | Path) -> dict[str, pd.DataFrame | dict[str, str]]:
    """Return all blocks of a small file: a loop as a DataFrame of text, pairs as a dict; every value as it stands.

    The first of two blocks of one name is kept.
    """
    path = Path(path)
    blocks: dict[str, pd.DataFrame | dict[str, str]] = {}
    for block in walk(path):
        if not block.is_loop:
            blocks.setdefault(block.name, dict(zip(block.columns, block.values, strict=True)))
            continue
        rows = []
        for piece in block.pieces():
            for words in rows_of_words(piece):
                if len(words) != len(block.columns):
                    raise wrong_row(path, block.name, len(block.columns), piece)
                rows.append([text(word) for word in words])
        table = {name: [row[i] for row in rows] for i, name in enumerate(block.columns)}
        blocks.setdefault(block.name, pd.DataFrame(table, dtype="object"))
    return blocks


def list_blocks(path: str | Path) -> list[tuple[str, tuple[str, ...], int]]:
    """Name, columns and number of rows of each block (1 for pairs). Reads through the whole file."""
    return [(b.name, b.columns, _count(b) if b.is_loop else 1) for b in walk(Path(path))]


def count_rows(path: str | Path, column: str) -> int:
    """Return rows of the first block that has `column`, 0 where none has it."""
    return next((_count(b) if b.is_loop else 1 for b in walk(Path(path)) if column in b.columns), 0)


def _count(block: Block) -> int:
    """Return lines that are neither blank nor comments."""
    rows = 0
    for piece in block.pieces():
        body = piece.rstrip()
        if b"#" in body or b"\n\n" in body or b"\n \n" in body or b"\r\n\r" in body or body.startswith((b"\n", b" ")):
            rows += sum(1 for line in body.split(b"\n") if line.strip() and not line.lstrip().startswith(b"#"))
        elif body:
            rows += body.count(b"\n") + 1
    return rows


def _read_columns(
    path: Path,
    block: Block,
    names: Sequence[str],
    narrow: frozenset[str],
    text_columns: Collection[str],
    guessed: Collection[str],
    only_head: bool,
) -> Table:
    """Return the wanted columns of a block: pieces are parsed side by side, and filled in in order."""
    places = {name: place for place, name in reversed(list(enumerate(block.columns)))}
    pieces = block.pieces() if block.is_loop else iter([_as_row(block.values)])
    first = next(pieces, b"")
    if only_head:
        pieces = iter(())
    sample = next(rows_of_words(first), [])
    wanted = []
    for name in names:
        word = sample[places[name]] if len(sample) > places[name] else b"0"
        is_text = name in text_columns or name.endswith(_TEXT_ENDINGS) or (name in guessed and not is_number(word))
        wanted.append(Wanted(name, places[name], is_text))

    size_bytes = len(first) if only_head else os.stat(path).st_size
    bytes_a_row = max(1.0, len(first) / max(1, first.count(b"\n")))
    filling = _Filling(wanted, narrow, expected_rows=16 + int(1.02 * size_bytes / bytes_a_row))

    def parse(piece: bytes) -> list[Values]:
        return parse_rows(path, block.name, len(block.columns), wanted, piece)

    for parsed in _side_by_side(parse, itertools.chain([first], pieces)):
        filling.add(parsed)
    return filling.table()


def _as_row(values: Sequence[str]) -> bytes:
    return b" ".join(b'"' + value.encode("utf-8", "surrogateescape") + b'"' for value in values)


def _side_by_side(parse: Callable[[bytes], list[Values]], pieces: Iterator[bytes]) -> Iterator[list[Values]]:
    """Parse pieces in a few threads (NumPy lets go of the interpreter meanwhile), and give them back in order."""
    start = list(itertools.islice(pieces, 2))
    if len(start) < 2:
        yield from map(parse, start)
        return
    workers = min(3, available_cpus())
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[list[Values]]] = deque()
        for piece in itertools.chain(start, pieces):
            waiting.append(pool.submit(parse, piece))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


class _Filling:
    """Columns that grow in place, so that no column is ever held twice."""

    def __init__(self, wanted: Sequence[Wanted], narrow: frozenset[str], expected_rows: int) -> None:
        self._wanted = wanted
        self._rows = 0
        # Untouched pages of an array cost no memory: a generous guess is free, and a poor one costs a resize.
        self._arrays: list[npt.NDArray[Any]] = [
            np.empty(expected_rows, np.int32 if w.is_text else np.float32 if w.label in narrow else np.float64)
            for w in wanted
        ]
        self._distinct: list[dict[bytes, int]] = [{} for _ in wanted]

    def add(self, parsed: Sequence[Values]) -> None:
        for i, values in enumerate(parsed):
            if isinstance(values, Words):
                seen = self._distinct[i]
                codes = np.array([seen.setdefault(word, len(seen)) for word in values.distinct], np.int32)
                column: npt.NDArray[Any] = codes[values.codes]
            else:
                column = values
            end = self._rows + len(column)
            if end > len(self._arrays[i]):
                self._arrays[i].resize(end + end // 8, refcheck=False)
            with np.errstate(over="ignore"):  # 1e308 in a narrow column is infinite
                self._arrays[i][self._rows : end] = column
        self._rows = end if parsed else 0

    def table(self) -> Table:
        table: Table = {}
        for i, column in enumerate(self._wanted):
            array = self._arrays[i]
            array.resize(self._rows, refcheck=False)
            if column.is_text:
                categories = pd.Index([text(word) for word in self._distinct[i]], dtype="object")
                table[column.label] = pd.Categorical.from_codes(array, categories=categories)
            else:
                table[column.label] = array
        return table
