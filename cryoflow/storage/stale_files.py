"""What is being written, under hidden names that say by whom (`.NAME.tmp-HOST-PID-...`), and what killed writers left.

A leftover is removed by the next process that writes into its folder.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

from cryoflow.storage.safe_names import short_hash
from cryoflow.system.processes import pid_space, some_runs


def hidden_sibling(path: Path) -> Path:
    """A free hidden name beside `path` that says which process writes it."""
    name = os.fsencode(path.name)[:80].decode(errors="ignore")  # names of files have at most 255 bytes
    return path.with_name(f".{name}.tmp-{_host()}-{os.getpid()}-{secrets.token_hex(4)}")


_UNFINISHED = re.compile(r"\..+\.tmp-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}", re.ASCII | re.DOTALL)


def is_unfinished(name: str) -> bool:
    """Whether a name is one that `replacing` and its like give to what they write."""
    return _UNFINISHED.fullmatch(name) is not None


_swept: set[str] = set()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder, once a process; what a living process writes now is left alone."""
    if str(folder) not in _swept:
        _swept.add(str(folder))
        sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder, also where this process did so before."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if is_abandoned(old := folder / name):
                if old.is_dir() and not old.is_symlink():
                    shutil.rmtree(old, ignore_errors=True)
                else:
                    old.unlink(missing_ok=True)


def is_abandoned(path: Path) -> bool:
    """Whether a file is of an unfinished write whose process is gone: dead on this host, or elsewhere and a day old."""
    if (match := _UNFINISHED.fullmatch(path.name)) is None:
        return False
    if match["host"] == _host():
        return not some_runs(int(match["pid"]))
    try:
        return time.time() - path.lstat().st_mtime > 86400
    except OSError:
        return False


def _host() -> str:
    """This host, and within it the container: each has process numbers of its own."""
    return re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:40] + f"_{short_hash(pid_space(), 4)}"
