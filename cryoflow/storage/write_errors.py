"""Turn errors of the operating system into `NotWritten`: which file, why, and what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoflow.errors import NotWritten
from cryoflow.storage.stale_files import aside_of, is_unfinished

_HINTS = {
    errno.ENOSPC: "Make room and run it again: nothing was left half-written.",
    errno.EDQUOT: "Your quota is used up: make room and run it again.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Choose a folder that you may write.",
    errno.EPERM: "Choose a folder that you may write.",
    errno.EIO: "The disk or its file server failed: look at its health, then run it again.",
}


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system about `path` into `NotWritten`: which file, why, and what to do."""
    path = Path(path)
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename
        if isinstance(named, str | os.PathLike):
            other = Path(named)
            # Calls relative to an open folder name the file by its last name alone.
            names = (path.name, aside_of(path).name)
            is_ours = other.name == str(other) and (other.name in names or is_unfinished(other.name))
            if not is_ours and path.parent not in other.parents and other not in path.parents:
                raise  # an input that the block reads is no failed write
        hint = _HINTS.get(error.errno or 0, "Run it again once that is mended: nothing was left half-written.")
        raise NotWritten(path, f"could not be written: {error.strerror or error}.", hint) from error
