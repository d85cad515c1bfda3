"""The database's lock: one writer at a time, on one host or many, on network file systems too.

The lock is a hard link to a file that says who holds it; making a hard link succeeds for one process only, on NFS as
well, and the content is whole from the first moment. A lock whose owner died on this host (its process is gone, its
number was given to another, or the machine was started again) is taken over. A lock of another host is never stolen:
nobody here can know whether its owner lives.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cryoflow import files
from cryoflow.errors import DatabaseBusy

NAME = ".lock"


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: `boot` and `pid_space` tell a process number of now from one of another start or container."""

    host: str
    pid: int
    boot: str
    pid_space: str
    started: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


@contextmanager
def locked(folder: Path, *, timeout_s: float = 600.0) -> Iterator[bool]:
    """Hold the lock of `folder`; gives whether it was taken over from a dead process, which may have left a mess.

    Raises
    ------
    DatabaseBusy
        Where somebody else holds it for longer than `timeout_s`; says who, and what to do.
    NotWritten
        Where the folder cannot be written.
    """
    path = folder / NAME
    mine = folder / f"{NAME}-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    me = _me()
    taken = False
    try:
        with files.clear_errors(path):
            mine.write_text(json.dumps(asdict(me)))
            files.fault_point("lock.written")
            taken_over = _take(mine, path, timeout_s)
            taken = True
            files.fault_point("lock.taken")
            mine.unlink(missing_ok=True)
            _remove_abandoned(folder)
        yield taken_over
    finally:
        with files.clear_errors(path):
            mine.unlink(missing_ok=True)
            if taken and _owner(path) == me:  # somebody may have removed it by hand, and another taken it
                path.unlink(missing_ok=True)
                files.fault_point("lock.released")


def _take(mine: Path, path: Path, timeout_s: float) -> bool:
    """Wait for the lock and take it; whether a dead process held it."""
    end = time.monotonic() + timeout_s
    taken_over = False
    while not _link(mine, path):
        owner = _owner(path)
        if owner is not None and _is_dead(owner) and _clear(path, owner):
            taken_over = True
            continue
        if time.monotonic() > end:
            raise DatabaseBusy(_busy(path, owner, timeout_s))
        time.sleep(random.uniform(0.01, 0.05))  # noqa: S311 spreads waiting processes out, guards nothing
    return taken_over


def _link(mine: Path, path: Path) -> bool:
    try:
        path.hardlink_to(mine)
    except FileExistsError:
        # Over NFS the answer to a link that was made may get lost: the count of links tells.
        return mine.stat().st_nlink == 2
    return True


def _me() -> Owner:
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot=_read("/proc/sys/kernel/random/boot_id"),
        pid_space=_pid_space(),
        started=_started(os.getpid()),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


def _owner(path: Path) -> Owner | None:
    """Who holds the lock; None where it was just released or cannot be read."""
    try:
        return Owner(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_dead(owner: Owner) -> bool:
    if owner.host != socket.gethostname():
        return False
    if owner.boot != _read("/proc/sys/kernel/random/boot_id"):
        return True
    if owner.pid_space != _pid_space():
        return False  # a container of the same name: its processes cannot be seen from here
    try:
        os.kill(owner.pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return owner.started != _started(owner.pid)


def _clear(path: Path, dead: Owner) -> bool:
    """Remove a dead owner's lock, unless somebody on this host did so first.

    Only processes of the dead owner's own host come here, so that a lock of the kernel between them is enough to keep
    two of them from removing one lock each, the second of which would be a living one's.
    """
    guard = path.with_name(f"{NAME}-recovery-{socket.gethostname()}")
    try:
        with guard.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _owner(path) == dead:
                path.unlink(missing_ok=True)
                return True
            return False
    except OSError:
        return False  # a file system without locks: DatabaseBusy then says which file to remove by hand


def _remove_abandoned(folder: Path) -> None:
    """Remove the owner files that killed processes of this host left behind."""
    prefix = f"{NAME}-{socket.gethostname()}-"
    for old in folder.glob(f"{NAME}-*"):
        if old.name.startswith(prefix) and (owner := _owner(old)) is not None and _is_dead(owner):
            old.unlink(missing_ok=True)


def _busy(path: Path, owner: Owner | None, waited_s: float) -> str:
    who = str(owner) if owner else "somebody"
    return (
        f"{path.parent}: {who} is writing to this database; waited {waited_s:.0f} s. Try again when it is done. "
        f"If you are sure that it no longer runs, remove {path}."
    )


def _pid_space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; empty where it is gone or cannot be seen."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
