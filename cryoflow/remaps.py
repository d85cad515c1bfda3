"""Folders that were moved, as a user writes them: `OLD=NEW`."""

from __future__ import annotations

from collections.abc import Iterable

from cryoflow.errors import BadInput


def parse_remaps(texts: Iterable[str]) -> dict[str, str]:
    """Return `OLD=NEW` texts of the command line as a mapping.

    Raises
    ------
    BadInput
        Where a text has no `=` or an empty side.
    """
    remaps: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise BadInput(text, "is not a remap.", "Write OLD=NEW, two folders: --remap /data1=/archive/data1.")
        remaps[old] = new
    return remaps
