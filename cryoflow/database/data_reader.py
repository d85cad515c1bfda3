"""Reading `data.txt` back: as a matrix of bytes where its columns are aligned, row by row where a person edited it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd

from cryoflow.database import aligned_columns as text_columns
from cryoflow.database import layout
from cryoflow.database.aligned_columns import BLOCK_ROWS, ColumnFormat, NotAligned
from cryoflow.database.data_text import ATTRIBUTES, MAGIC, VERSION, Array, DataText
from cryoflow.database.values import parse_number, parse_pairs, parse_word
from cryoflow.errors import BadInput, OverBudget
from cryoflow.picks import MICROGRAPH_COLUMNS, PICK_COLUMNS, micrograph_table
from cryoflow.storage import budgets
from cryoflow.storage.sealing import refuse_newer


def is_data_text(path: Path) -> bool:
    """Return whether a data.txt is cryoflow's own; the older scripts' starts otherwise."""
    with layout.opened(path) as file:
        return file.readline(100).removeprefix(b"\xef\xbb\xbf").startswith(MAGIC)


def read_data_text(path: Path) -> DataText:
    """Read a data.txt, aligned or edited by hand.

    Raises
    ------
    BadInput
        Where it is damaged, truncated, or of a newer version of cryoflow.
    """
    with layout.opened(path) as file:
        try:
            return _read_aligned(path, file)
        except NotAligned:
            file.seek(0)
            return _read_any(path, file)


_MOST_HEAD_LINES = 1000


@dataclass
class _Head:
    formats: list[ColumnFormat]
    n_micrographs: int | None
    n_picks: int | None
    lines: int


def _read_head(path: Path, file: BinaryIO) -> _Head:
    first = file.readline(200).removeprefix(b"\xef\xbb\xbf")
    version = first.removeprefix(MAGIC).strip()
    if not first.startswith(MAGIC) or not version.isdigit():
        raise BadInput(path, "the first line should be 'cryoflow picks 1'.", "Is it a data.txt of cryoflow?")
    refuse_newer(path, version.decode(), VERSION)
    fields: dict[str, str] = {}
    lines = 1
    while True:
        raw = file.readline(100_000)
        lines += 1
        if len(raw) == 100_000 or lines > _MOST_HEAD_LINES:  # a file with holes has as many as its size allows
            raise OverBudget(path, f"its head is longer than any of a data.txt ({lines} lines, no '$').")
        if not raw:
            raise BadInput(path, "it ends before its first '$': truncated?", "Restore it, or ingest the job again.")
        text = raw.decode(errors="replace").strip()
        if text == "$":
            break
        if text and not text.startswith("#"):
            name, _, value = text.partition(":")
            fields[name.strip()] = value.strip()
    names = fields.get("Columns", "").split()
    if names[:2] != ["x_px", "y_px"] or any(n not in PICK_COLUMNS for n in names[2:]) or len(set(names)) != len(names):
        raise BadInput(path, f"its Columns are {names}, expected x_px y_px and any of {list(PICK_COLUMNS)}.")
    try:
        decimals = [None if d == "exact" else int(d) for d in fields.get("Decimals", "").split()]
        widths = [int(w) for w in fields.get("Widths", "").split()]
        n_micrographs, n_picks = (
            int(fields[key]) if key in fields else None for key in ("Number of Micrographs", "Number of Particles")
        )
    except ValueError as error:
        raise BadInput(path, f"its head has {error}.") from None
    formats = []
    for i, name in enumerate(names):
        dtype = np.dtype("float64" if i < 2 else PICK_COLUMNS[name].dtype)
        places = decimals[i] if i < len(decimals) else None
        width = widths[i] if i < len(widths) else 0
        sane = 0 < width < 1000 and (places is None or 0 <= places < min(width, 16))
        formats.append(ColumnFormat(name, dtype, places if sane else None, width if sane else 0))
    return _Head(formats, n_micrographs, n_picks, lines)


class _Micrographs:
    """The micrograph lines met so far."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.links: list[str] = []
        self.names: list[str] = []
        self.columns: dict[str, list[object]] = {name: [] for name in ATTRIBUTES}

    def add(self, text: str, line_number: int) -> int | None:
        """Take one line in; its declared number of picks."""
        try:
            token, pairs = parse_pairs(text.removeprefix("Micrograph").strip())
            link = parse_word(token)
            name = parse_word(pairs.pop("name", token))
            if link is None or name is None:
                raise ValueError("a micrograph without a name")
            picks = int(pairs.pop("picks")) if "picks" in pairs else None
            row = {key: _attribute(key, pairs.pop(key)) if key in pairs else None for key in ATTRIBUTES}
            if pairs:
                raise ValueError(f"unknown attributes {sorted(pairs)}")
        except ValueError as error:
            raise BadInput(
                self.path, f"line {line_number}: {error}.", "See docs/database.md for what may stand there."
            ) from None
        self.links.append(link)
        self.names.append(name)
        for key, values in self.columns.items():
            values.append(row[key])
        return picks

    def result(self, picks: dict[str, Array]) -> DataText:
        known = {key: values for key, values in self.columns.items() if any(v is not None for v in values)}
        for key, values in known.items():
            if MICROGRAPH_COLUMNS[key][0] == "float64":
                known[key] = [np.nan if v is None else v for v in values]
        return DataText(
            tuple(self.links),
            micrograph_table({"name": pd.Series(self.names, dtype="object"), **known}),
            pd.DataFrame(picks, copy=False),
        )


def _attribute(key: str, token: str) -> object:
    kind = MICROGRAPH_COLUMNS[key][0]
    if kind == "object":
        return parse_word(token)
    if kind == "Int32":
        return None if parse_word(token) is None else int(token)
    return parse_number(token)


def _read_aligned(path: Path, file: BinaryIO) -> DataText:
    head = _read_head(path, file)
    row_bytes = text_columns.row_bytes(head.formats)
    size = path.stat().st_size
    n_picks = head.n_picks
    if n_picks is None or head.n_micrographs is None or any(f.decimals is None for f in head.formats):
        raise NotAligned("the head does not declare all")
    if n_picks < 0 or n_picks * row_bytes > size:
        raise NotAligned("fewer bytes than declared")
    try:  # memory that is not written to yet costs nothing: a head that claims too much fails in the rows
        columns: dict[str, Array] = {"micrograph": np.empty(n_picks, np.int32)}
        columns |= {f.name: np.empty(n_picks, f.dtype) for f in head.formats}
    except MemoryError:
        raise OverBudget(path, f"its head claims {n_picks} picks, more than fit into memory.") from None
    micrographs = _Micrographs(path)
    parts: list[bytes] = []
    waiting, done, taken = 0, 0, 0
    for i in range(head.n_micrographs):
        raw = file.readline(budgets.LONGEST_LINE_BYTES)
        n = (
            micrographs.add(_decoded(path, raw, head.lines + 1), head.lines + 1 + taken + 2 * i)
            if raw.startswith(b"Micrograph ")
            else None
        )
        if n is None or n < 0 or taken + n > n_picks:
            raise NotAligned("counts")
        while n:
            # Not all rows of a micrograph at once: a file with holes may claim any number of them.
            n_now = min(n, BLOCK_ROWS)
            rows = file.read(n_now * row_bytes)
            if len(rows) != n_now * row_bytes:
                raise NotAligned("rows")
            columns["micrograph"][taken : taken + n_now] = i
            parts.append(rows)
            taken += n_now
            waiting += n_now
            n -= n_now
            if waiting >= BLOCK_ROWS:
                done = _decode_into(columns, b"".join(parts), head.formats, row_bytes, done)
                parts, waiting = [], 0
        if file.readline(2) != b"$\n":
            raise NotAligned("rows")
    done = _decode_into(columns, b"".join(parts), head.formats, row_bytes, done)
    if done != n_picks or file.read(1):
        raise NotAligned("counts")
    return micrographs.result(columns)


def _decode_into(
    columns: dict[str, Array], rows: bytes, formats: Sequence[ColumnFormat], row_bytes: int, done: int
) -> int:
    matrix = np.frombuffer(rows, np.uint8).reshape(-1, row_bytes)
    for start in range(0, len(matrix), BLOCK_ROWS):
        block = matrix[start : start + BLOCK_ROWS]
        for f, values in zip(formats, text_columns.decode(block, formats), strict=True):
            columns[f.name][done : done + len(block)] = values
        done += len(block)
    return done


def _read_any(path: Path, file: BinaryIO) -> DataText:
    """Read blank-separated rows, whatever their alignment."""
    head = _read_head(path, file)
    micrographs = _Micrographs(path)
    blocks: list[list[Array]] = []
    rows: list[bytes] = []
    declared: int | None = None
    at = head.lines
    first_row = at + 1

    def close() -> None:
        if micrographs.links and len(blocks) < len(micrographs.links):
            if declared is not None and declared != len(rows):
                raise BadInput(
                    path,
                    f"line {first_row - 1}: {micrographs.links[-1]} declares {declared} picks and has {len(rows)}.",
                    "Truncated, or edited by hand: then correct picks= on that line or leave it out.",
                )
            blocks.append(_parse_rows(path, rows, head.formats, first_row))

    for at, raw in enumerate(budgets.lines(path, file), head.lines + 1):
        stripped = raw.strip()
        if stripped.startswith(b"Micrograph"):
            close()
            declared = micrographs.add(_decoded(path, stripped, at), at)
            rows, first_row = [], at + 1
        elif stripped == b"$":
            close()
            rows = []
        elif stripped and not stripped.startswith(b"#"):
            if len(blocks) == len(micrographs.links):
                raise BadInput(path, f"line {at}: a row that belongs to no micrograph: {stripped[:60]!r}.")
            rows.append(stripped)
    if micrographs.links and len(blocks) < len(micrographs.links):
        raise BadInput(path, "it ends without a '$' after its last row: truncated?", "Restore it, or ingest again.")
    if head.n_micrographs is not None and head.n_micrographs != len(micrographs.links):
        raise BadInput(
            path,
            f"its head declares {head.n_micrographs} micrographs and {len(micrographs.links)} are there.",
            "Truncated, or edited by hand: then correct the head or leave the line out.",
        )
    counts = [len(b[0]) for b in blocks]
    columns: dict[str, Array] = {"micrograph": np.repeat(np.arange(len(blocks), dtype=np.int32), counts)}
    for i, f in enumerate(head.formats):
        columns[f.name] = np.concatenate([b[i] for b in blocks]) if blocks else np.zeros(0, f.dtype)
    return micrographs.result(columns)


def _parse_rows(path: Path, rows: list[bytes], formats: Sequence[ColumnFormat], first_line: int) -> list[Array]:
    tokens = b" ".join(rows).split()
    wrong = len(tokens) != len(rows) * len(formats)
    if not wrong:
        try:
            return [_parse_column(tokens[i :: len(formats)], f.dtype) for i, f in enumerate(formats)]
        except (ValueError, OverflowError):
            wrong = True
    for number_of_line, row in enumerate(rows, first_line):
        parts = row.split()
        try:
            if len(parts) != len(formats):
                raise ValueError
            for token, f in zip(parts, formats, strict=True):
                _parse_column([token], f.dtype)
        except (ValueError, OverflowError):
            names = " ".join(f.name for f in formats)
            raise BadInput(
                path, f"near line {number_of_line}: expected the numbers {names}, found {row[:80]!r}."
            ) from None
    raise BadInput(path, f"near line {first_line}: rows that cannot be read as numbers.")


def _parse_column(tokens: list[bytes], dtype: np.dtype[np.generic]) -> Array:
    if dtype.kind == "f":
        return np.array([float(t) for t in tokens], dtype)
    limits = np.iinfo(dtype.name)
    numbers = [int(t) for t in tokens]
    if numbers and not (limits.min <= min(numbers) and max(numbers) <= limits.max):
        raise OverflowError
    return np.array(numbers, dtype)


def _decoded(path: Path, raw: bytes, line_number: int) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise BadInput(path, f"near line {line_number}: not UTF-8 text.", "Is it a data.txt of cryoflow?") from None
