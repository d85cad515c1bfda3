"""The words of a STAR table's rows: quotes, comments, and the error for a row with too many or too few of them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.storage import inputs

_TOKEN = re.compile(rb'"((?:[^"\n]|"(?=[^\s]))*)"(?=\s|$)|\'((?:[^\'\n]|\'(?=[^\s]))*)\'(?=\s|$)|(#[^\n]*)|([^\s]+)')
_WHOLE = re.compile(r"-?[0-9]{1,9}")
NAN_WORDS = frozenset(b"nan -nan none null <na> n/a ? .".split())


def tokens(line: bytes) -> list[bytes]:
    """Return the words of one line: quotes removed, a comment cut off."""
    words = []
    for match in _TOKEN.finditer(line):
        double, single, comment, plain = match.groups()
        if comment is not None:
            break
        words.append(double if double is not None else single if single is not None else plain)
    return words


def rows_of_words(piece: bytes) -> Iterator[list[bytes]]:
    """Yield the words of each line that has any."""
    split = tokens if needs_tokens(piece) else bytes.split
    for line in io.BytesIO(piece):
        if words := split(line):
            yield words


def needs_tokens(piece: bytes) -> bool:
    """Return whether a piece has quoted words or comments, so that splitting at white space would be wrong."""
    if b'"' not in piece and b"'" not in piece and b"#" not in piece:
        return False
    return re.search(rb"(?:^|\s)[\"'#]", piece) is not None


def is_number(word: bytes) -> bool:
    """Return whether a word can stand in a column of numbers."""
    try:
        float(word)
    except ValueError:
        return word.lower() in NAN_WORDS
    return True


def whole_number(word: str) -> int | None:
    """Return the number that a word of up to nine digits stands for, with or without a minus; None for other words.

    >>> whole_number("000012"), whole_number("-8"), whole_number("--8"), whole_number("9" * 5000)
    (12, -8, None, None)
    """
    # `isdigit` is true for characters that `int` refuses, and `int` refuses thousands of digits.
    return int(word) if _WHOLE.fullmatch(word) else None


def text(word: bytes) -> str:
    """Return a word as text; bytes that are not UTF-8 survive as surrogates."""
    return word.decode("utf-8", "surrogateescape")


def wrong_row(path: Path, block: str, width: int, piece: bytes) -> BadInput:
    """Return the error for the first row of a piece that has not `width` words, with the likely cause as its hint."""
    rows = list(rows_of_words(piece))
    words = next((words for words in rows if len(words) != width), [])
    excess = len(words) - width
    is_every_row = len(rows) > 1 and len({len(words) for words in rows}) == 1
    if excess > 0:
        quotes = "a name with blanks that is not in quotes makes several words of one: put it in quotes"
        hint = f"{quotes.capitalize()}."
        if is_every_row:
            labels = "a label is" if excess == 1 else f"{excess} labels are"
            hint = f"Every row is too long by {excess}: either {labels} missing in the header, or {quotes}."
    elif is_every_row:
        columns = "a column is" if excess == -1 else f"{-excess} columns are"
        hint = f'Every row is too short by {-excess}: {columns} empty in all rows. Write "" there, or remove the label.'
    else:
        hint = "The file was cut short, or is being written."
    number = _line_number(path, block, words)
    where = f", in line {number}" if number else ""
    row = text(b" ".join(words))
    return BadInput(
        path,
        f"block data_{block} has a row of {len(words)} words where its header names {width} columns{where}: "
        f"{row[:80]!r}.",
        hint,
    )


def _line_number(path: Path, block: str, words: list[bytes]) -> int | None:
    """Return the number of the first line of a block with these words; None if the file has changed meanwhile.

    Only an error needs it, so the file is read once more instead of counting lines in each piece.
    """
    head = f"data_{block}".encode("utf-8", "surrogateescape").lower()
    number, is_in_block = 1, False
    try:
        with inputs.opened(path) as file:
            while line := file.readline(inputs.LONGEST_LINE_BYTES):
                is_in_block = is_in_block or line.strip().lower() == head
                if is_in_block and (line.split() == words or tokens(line) == words):
                    return number
                number += line.endswith(b"\n")
    except OSError:
        pass
    return None
