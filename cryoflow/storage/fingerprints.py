"""Fingerprints: which content a file, a text or a set of values has. All hashing of cryoflow is here.

A fingerprint is a blake2b hash in hexadecimal digits. It finds damage and tells contents apart; it is not a signature.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.storage import inputs

if TYPE_CHECKING:
    from typing_extensions import Buffer

DIGITS = 32
_BLOCK_BYTES = 1 << 23


@dataclass(frozen=True)
class SourceFile:
    """A file that picks were read from: absolute path, size and time when it was read."""

    path: Path
    size_bytes: int
    mtime_ns: int


class Fingerprint:
    """A fingerprint that is computed piece by piece.

    >>> Fingerprint().add("a", b"b").digits == fingerprint_of("ab")
    True
    """

    def __init__(self, digits: int = DIGITS) -> None:
        self._hash = hashlib.blake2b(digest_size=digits // 2)

    def add(self, *pieces: str | Buffer) -> Fingerprint:
        """Add text (as UTF-8; bytes of names that are not UTF-8 are added as they are) or the bytes of a buffer."""
        for piece in pieces:
            self._hash.update(piece.encode(errors="surrogateescape") if isinstance(piece, str) else piece)
        return self

    @property
    def digits(self) -> str:
        """Return the hexadecimal digits."""
        return self._hash.hexdigest()


def fingerprint_of(*pieces: str | Buffer, digits: int = DIGITS) -> str:
    """Return the fingerprint of some text or bytes, one after the other."""
    return Fingerprint(digits).add(*pieces).digits


def fingerprint_of_values(values: object, digits: int = DIGITS) -> str:
    """Return the fingerprint of values that JSON can hold; the order of keys does not count."""
    return fingerprint_of(json.dumps(values, sort_keys=True), digits=digits)


def checksum(path: str | Path) -> str:
    """Return the fingerprint of a file's whole content."""
    found = Fingerprint()
    with inputs.unbuffered(path) as file:  # large blocks: hashing then runs outside the interpreter
        # The memory for a block is taken before anything is read: of a small file it is no larger than the file.
        n_bytes = min(_BLOCK_BYTES, os.fstat(file.fileno()).st_size + 1)
        while block := file.read(n_bytes):
            found.add(block)
    return found.digits


def fingerprint(path: str | Path) -> str:
    """Return the fingerprint of a file's size and its first and last 64 KiB, which is quick for large files."""
    block = 1 << 16
    with inputs.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        found = Fingerprint().add(str(size), "\n", file.read(block))
        if size > block:
            file.seek(max(block, size - block))
            found.add(file.read(block))
    return found.digits


def source_file(path: Path) -> SourceFile:
    """Return path, size and time of a file that is about to be read."""
    status = os.stat(path)
    return SourceFile(Path(path), status.st_size, status.st_mtime_ns)


def state_of(path: str | Path) -> tuple[int, int]:
    """Return size and time of change (ns) of a file, (0, 0) where it cannot be seen."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: NUL in the name
        return 0, 0
    return status.st_size, status.st_mtime_ns
