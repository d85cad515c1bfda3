"""Hidden names of unfinished writes (`.NAME.tmp-HOST-PID-...`), and the removal of those that killed writers left.

The next process that writes into a folder removes the stale files in it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

from cryoflow.storage.safe_names import short_hash
from cryoflow.system.processes import pid_space, some_runs


def hidden_name(name: str) -> str:
    """Return a free hidden name for the unfinished content of `name`, which says which process writes it."""
    start = os.fsencode(name)[:80].decode(errors="ignore")  # names of files have at most 255 bytes
    return f".{start}.tmp-{host_name()}-{os.getpid()}-{secrets.token_hex(4)}"


def hidden_sibling(path: Path) -> Path:
    """Return a free hidden name beside `path`, see `hidden_name`."""
    return path.with_name(hidden_name(path.name))


_UNFINISHED = re.compile(r"\..+\.tmp-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}", re.ASCII | re.DOTALL)


def is_unfinished(name: str) -> bool:
    """Return whether a name is one that `hidden_name` makes."""
    return _UNFINISHED.fullmatch(name) is not None


swept_folders: set[tuple[int, int]] = set()
os.register_at_fork(after_in_child=swept_folders.clear)  # what a child's parent swept may be gone, its inode another's


def remove_stale_files(folder: int) -> None:
    """Remove what killed writers left in an open folder, once in a process."""
    status = os.fstat(folder)
    if (status.st_dev, status.st_ino) not in swept_folders:
        swept_folders.add((status.st_dev, status.st_ino))
        sweep(folder)


def sweep(folder: int) -> None:
    """Remove what killed writers left in an open folder; unfinished files of living processes stay."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if is_unfinished(name) and _is_abandoned(name, folder):
                if stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
                else:
                    with suppress(FileNotFoundError):
                        os.unlink(name, dir_fd=folder)


def is_abandoned(path: Path) -> bool:
    """Return whether the writer of an unfinished file is gone: dead on this host, or elsewhere and a day old."""
    return is_unfinished(path.name) and _is_abandoned(str(path), None)


def _is_abandoned(path: str, folder: int | None) -> bool:
    match = _UNFINISHED.fullmatch(os.path.basename(path))  # noqa: PTH119
    assert match is not None
    if match["host"] == host_name():
        return not some_runs(int(match["pid"]))
    try:
        return time.time() - os.stat(path, dir_fd=folder, follow_symlinks=False).st_mtime > 86400
    except OSError:
        return False


def host_name() -> str:
    """Return the host, and within it the container: each has process numbers of its own."""
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40] + f"_{short_hash(pid_space(), 4)}"


ASIDE = ".cryoflow-old"


def aside_of(path: Path) -> Path:
    """Return where `replacing_folder` keeps the old folder between its two renames."""
    return path.with_name(f".{path.name}{ASIDE}")
