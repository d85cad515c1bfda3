"""Which content a file has: size and time, a checksum of all of it, or of its ends."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.storage import inputs

if TYPE_CHECKING:
    from cryoflow.picks import SourceFile  # imported where it is used: it brings pandas along


def source_file(path: Path) -> SourceFile:
    """Path, size and time of a file that is about to be read."""
    from cryoflow.picks import SourceFile

    status = os.stat(path)
    return SourceFile(Path(path), status.st_size, status.st_mtime_ns)


def checksum(path: Path) -> str:
    """blake2b of a file's whole content, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with inputs.opened(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(path: Path, block: int = 1 << 16) -> str:
    """blake2b of a file's size and its first and last 64 KiB: tells large files apart without reading them whole."""
    digest = hashlib.blake2b(digest_size=16)
    with inputs.opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(str(size).encode() + b"\n" + file.read(block))
        if size > block:
            file.seek(max(block, size - block))
            digest.update(file.read(block))
    return digest.hexdigest()
