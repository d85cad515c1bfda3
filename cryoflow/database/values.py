"""Values as text: one token a value, readable by a person, exact when it is read back.

A plain word stands as it is; text with blanks, quotes, `$`, line breaks and the like is a JSON string in double quotes.
An unknown value is the word `unknown`, so a text that is really "unknown" is quoted. A number is the shortest decimal
that reads back to the same double.
"""

from __future__ import annotations

import json
import math
import re

UNKNOWN = "unknown"
_PLAIN = re.compile(r"[\w./+@:,~#^%-]+")
_PAIR = re.compile(r'\s*([A-Za-z_][\w]*)=("(?:[^"\\]|\\.)*"|[^\s"]+)')
_FIRST = re.compile(r'("(?:[^"\\]|\\.)*"|[^\s"]+)')


def word(value: str | None) -> str:
    """Return a text as one token.

    >>> word("a b"), word("stack_1.mrc"), word(None), word("unknown")
    ('"a b"', 'stack_1.mrc', 'unknown', '"unknown"')
    """
    if value is None:
        return UNKNOWN
    if value != UNKNOWN and value.isprintable() and _PLAIN.fullmatch(value):
        return value
    return _quoted(value)


def parse_word(token: str) -> str | None:
    """Return what `word` was given.

    Raises
    ------
    ValueError
        Where a quoted token is not a JSON string.
    """
    if token == UNKNOWN:
        return None
    if not token.startswith('"'):
        return token
    value = json.loads(token)
    if not isinstance(value, str):
        raise ValueError(f"not a text: {token}")
    return value


def line(value: str) -> str:
    """Return a text as the rest of a line: as it stands where that is possible, else a JSON string."""
    plain = value.isprintable() and value == value.strip() and value not in ("", UNKNOWN) and not value.startswith('"')
    return value if plain else _quoted(value)


def number(value: float | None) -> str:
    """Return a number as text, `unknown` where it is None or not finite.

    >>> number(300.0), number(1.06), number(None), number(float("nan"))
    ('300', '1.06', 'unknown', 'unknown')
    """
    if value is None or not math.isfinite(value):
        return UNKNOWN
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def parse_number(token: str) -> float | None:
    """Return what `number` was given.

    Raises
    ------
    ValueError
        Where it is no finite number.
    """
    if token == UNKNOWN:
        return None
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {token}")
    return value


def parse_pairs(text: str) -> tuple[str, dict[str, str]]:
    """Return the first token of a line and the `key=token` pairs after it, tokens as they stand.

    Raises
    ------
    ValueError
        Where something else stands on the line.
    """
    first = _FIRST.match(text)
    if first is None:
        raise ValueError("no name")
    pairs: dict[str, str] = {}
    position = first.end()
    while position < len(text):
        pair = _PAIR.match(text, position)
        if pair is None:
            if text[position:].strip():
                raise ValueError(f"expected key=value, found {text[position : position + 40]!r}")
            break
        pairs[pair[1]] = pair[2]
        position = pair.end()
    return first[1], pairs


def _quoted(value: str) -> str:
    # isprintable is false for line separators, control characters and lone surrogates (names that are not UTF-8).
    return json.dumps(value, ensure_ascii=not value.isprintable())
