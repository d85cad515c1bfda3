"""Where the blocks of a STAR file begin and end, without reading their rows.

A file is walked once, front to back, in pieces of a few megabytes, so that tables of any size fit. Not handled, since
no program of this field writes them: `;` text blocks over several lines, and nested loops.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.star_words import text, tokens
from cryoflow.storage import budgets, inputs

PIECE_BYTES = 2 << 20
_FIRST_LOOK_BYTES = 1 << 14
"""Bytes in which the next block is looked for first, then twice as many: a file may have thousands of short blocks."""
_BORDER = re.compile(rb"(?:data_\S*|loop_)[ \t]*(?:#[^\n]*)?\r?(?:\n|$)")


@dataclass
class Block:
    """One table, or one list of pairs, of a STAR file.

    Attributes
    ----------
    name
        What follows `data_`; empty for a nameless block.
    columns
        Labels without their underscore, in the order of the file.
    is_loop
        A table of rows; else pairs, one line each.
    values
        The values of pairs, in the order of `columns`.
    """

    name: str
    columns: tuple[str, ...]
    is_loop: bool
    values: tuple[str, ...] = ()
    _path: Path = Path()
    _file: BinaryIO | None = field(default=None, repr=False)
    _pieces: Iterator[bytes] | None = field(default=None, repr=False)

    def pieces(self) -> Iterator[bytes]:
        """Return the rows as text, in pieces of whole lines. Can be read once, before the walk goes on."""
        if self._pieces is None:
            self._pieces = _rows(self._path, self._file) if self._file is not None else iter(())
        return self._pieces


def walk(path: Path) -> Iterator[Block]:
    """Yield the blocks of a file, one after the other.

    Raises
    ------
    BadInput
        Where the file cannot be read, is empty, or is no STAR file.
    """
    try:
        with inputs.opened(path) as file:
            _refuse_what_is_no_star(path, file)
            yield from _walk(path, file)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error


def _walk(path: Path, file: BinaryIO) -> Iterator[Block]:
    name: str | None = None
    pairs: list[tuple[str, str]] = []
    deadline = budgets.Deadline(path, os.fstat(file.fileno()).st_size)
    while line := _line(path, file):
        deadline.check()
        stripped = line.strip()
        if not stripped or stripped.startswith(b"#"):
            continue
        if stripped.startswith(b"data_") and len(stripped.split()) == 1:
            if name is not None and pairs:
                yield _pairs_block(name, pairs)
                pairs = []
            name = _label(stripped[5:])
        elif name is None:
            raise BadInput(
                path,
                f"is not a STAR file: it begins with {_shown(stripped)} where a line `data_...` is expected.",
            )
        elif stripped.split(None, 1)[0] == b"loop_":
            if pairs:
                yield _pairs_block(name, pairs)
                pairs = []
            block = Block(
                name, tuple(islice(_labels(path, file), budgets.MOST_COLUMNS + 1)), True, _path=path, _file=file
            )
            if len(block.columns) > budgets.MOST_COLUMNS:
                raise BadInput(path, f"the loop of block data_{name} names more than {budgets.MOST_COLUMNS} columns.")
            if not block.columns:
                raise BadInput(path, f"the loop of block data_{name} names no columns.")
            yield block
            for _ in block.pieces():
                pass
        elif stripped.startswith(b"_"):
            words = tokens(stripped)
            pairs.append((_label(words[0][1:]), text(words[1]) if len(words) > 1 else ""))
        else:
            raise BadInput(path, f"block data_{name} has the line {_shown(stripped)} where a label is expected.")
    if name is None:
        raise BadInput(path, "is not a STAR file: it holds no `data_` block.")
    if pairs:
        yield _pairs_block(name, pairs)


def _line(path: Path, file: BinaryIO) -> bytes:
    """Return the next line; what has no end of line is no table, and must not fill the memory."""
    line = file.readline(inputs.LONGEST_LINE_BYTES + 1)
    if len(line) > inputs.LONGEST_LINE_BYTES:
        most = inputs.LONGEST_LINE_BYTES >> 20
        raise BadInput(path, f"has a line of more than {most} MiB, which no STAR file has.", "Is it damaged?")
    return line


def _pairs_block(name: str, pairs: list[tuple[str, str]]) -> Block:
    return Block(name, tuple(label for label, _ in pairs), False, tuple(value for _, value in pairs))


def _labels(path: Path, file: BinaryIO) -> Iterator[str]:
    """Yield the labels of a loop; leaves the file at its first row."""
    while True:
        start = file.tell()
        line = _line(path, file)
        stripped = line.strip()
        if stripped.startswith(b"_"):
            yield _label(stripped.split(None, 1)[0][1:])
        elif not line or (stripped and not stripped.startswith(b"#")):
            file.seek(start)
            return


def _rows(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield rows until the next block, in pieces of whole lines; leaves the file at that block."""
    while True:
        start = file.tell()
        piece = file.read(PIECE_BYTES)
        if len(piece) == PIECE_BYTES:
            piece += _line(path, file)
        if not piece:
            return
        if (border := _border(piece)) is not None:
            file.seek(start + border)
            if border:
                yield piece[:border]
            return
        yield piece


def _border(piece: bytes) -> int | None:
    """Return where the next `data_` or `loop_` line begins; a row whose first word begins so is told by its further
    words."""
    if _BORDER.match(piece):
        return 0
    # The first letters of all lines: searching 25 columns for a word takes seven times as long.
    characters = np.frombuffer(piece, np.uint8)
    start, size = 0, _FIRST_LOOK_BYTES
    while start < len(piece) - 1:
        first = np.flatnonzero(characters[start : min(start + size, len(piece) - 1)] == ord("\n")) + start + 1
        letter = characters[first]
        candidates = first[(letter == ord("d")) | (letter == ord("l"))]
        if (found := next((at for at in candidates.tolist() if _BORDER.match(piece, at)), None)) is not None:
            return int(found)
        start, size = start + size, 2 * size
    return None


def _shown(line: bytes) -> str:
    shown = text(line[:60]).encode("ascii", "backslashreplace").decode()
    return repr(shown + ("..." if len(line) > 60 else ""))


def _refuse_what_is_no_star(path: Path, file: BinaryIO) -> None:
    """Say clearly what people find on their disks in place of a STAR file. Leaves the file at its first line."""
    head = file.read(4096)
    file.seek(3 if head.startswith(b"\xef\xbb\xbf") else 0)
    start = head.lstrip().lower()
    if not start:
        raise BadInput(path, "is empty.", "The job that wrote it was cut short, or the disk was full.")
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(path, "is a git-lfs pointer, not the file itself.", "Fetch it with `git lfs pull`.")
    elif start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise BadInput(path, "is a web page, not a STAR file.", "A download probably ended at a log-in page.")
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise BadInput(path, "is UTF-16 text.", "Save it as UTF-8: `iconv -f UTF-16 -t UTF-8`.")
    elif head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PK\x03\x04")):
        raise BadInput(path, "is compressed.", "Unpack it first.")
    elif b"\0" in head:
        raise BadInput(path, "is binary data, not a STAR file.")


def _label(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")
