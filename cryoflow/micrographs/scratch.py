"""Reading micrographs through a fast folder of this machine, where there is one: `CRYOFLOW_SCRATCH`, which jobs get.

A file is copied there in one go, read from there, and removed. It is read where it lies if there is no such folder, or
no room in it: scratch makes reading faster, and is never a reason to fail. A job's folder goes with the job, also one
that was killed: the next job on that machine removes it (`cryoflow/execution/stage_script.py`).
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.storage import inputs

log = logging.getLogger(__name__)

KEPT_FREE = 0.05
"""Share of the disk that is left to others."""
_one_at_a_time = threading.Lock()
"""While room is looked for and taken, so that threads do not take the same room."""


def folder() -> Path | None:
    """Return the scratch folder of this process, None where it has none."""
    named = os.environ.get("CRYOFLOW_SCRATCH")
    return Path(named) if named and os.access(named, os.W_OK | os.X_OK) else None


@contextmanager
def local_copy(path: Path) -> Iterator[Path]:
    """Yield a copy of a file in scratch, removed at the end; the file itself where there is no scratch or no space.

    What a reader says of the copy, `BadInput`, is said of the file.
    """
    copy = _copied(path)
    if copy is None:
        yield path
        return
    try:
        yield copy
    except BadInput as error:
        if error.path != copy:
            raise
        raise type(error)(path, error.reason, error.hint) from error
    finally:
        copy.unlink(missing_ok=True)


@contextmanager
def local_copies(paths: Sequence[Path]) -> Iterator[Mapping[Path, Path]]:
    """Yield copies of as many files as fit in scratch, file -> copy; all are removed at the end."""
    with ExitStack() as stack:
        copies = {path: stack.enter_context(local_copy(path)) for path in dict.fromkeys(paths)}
        yield {path: copy for path, copy in copies.items() if copy != path}


def _copied(path: Path) -> Path | None:
    scratch = folder()
    if scratch is None:
        return None
    try:
        copy = _with_room(scratch, path.suffix, path.stat().st_size)
    except FileNotFoundError:
        return None  # who reads it will say so
    except OSError as error:
        log.warning("%s: read where it lies, scratch cannot be used: %s", path, error)
        return None
    if copy is None:
        return None
    try:
        # Only regular files: a pipe or a device in a project has no end.
        with inputs.unbuffered(path) as old, copy.open("r+b") as new:  # "wb" would give the room back
            shutil.copyfileobj(old, new, 1 << 23)
            new.truncate()
    except OSError as error:
        copy.unlink(missing_ok=True)
        log.warning("%s: read where it lies, it could not be copied to %s: %s", path, scratch, error)
        return None
    return copy


def _with_room(scratch: Path, suffix: str, n_bytes: int) -> Path | None:
    """Return a new file of so many bytes that nobody else's writes can take any more; None where there is no room."""
    with _one_at_a_time:
        disk = shutil.disk_usage(scratch)
        if n_bytes > disk.free - KEPT_FREE * disk.total:
            return None
        handle, name = tempfile.mkstemp(suffix, "micrograph-", scratch)
        try:
            os.posix_fallocate(handle, 0, max(n_bytes, 1))
        except OSError:
            Path(name).unlink()
            raise
        finally:
            os.close(handle)
    return Path(name)
