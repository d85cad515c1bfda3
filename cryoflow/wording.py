"""Words of messages that depend on numbers."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "micrograph"), counted(2, "micrograph")
    ('1 micrograph', '2 micrographs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
