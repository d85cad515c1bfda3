"""The database's lock: one writer at a time, on one host or many, on network file systems too.

The lock is a hard link to a file that says who holds it; making a hard link succeeds for one process only, on NFS as
well, and the content is whole from the first moment. A lock whose owner died on this host (its process is gone, its
number was given to another, or the machine was started again) is taken over. A lock of another host is never stolen:
nobody here can know whether its owner lives. A person can, and says so with `cryoflow database unlock`.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import re
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from cryoflow.errors import BadInput, DatabaseBusy
from cryoflow.storage import fault_points, files, folders, inputs, write_errors
from cryoflow.storage.parsing import parse_record
from cryoflow.storage.stale_files import hidden_name
from cryoflow.system.processes import pid_space, runs, some_runs, started, text_of

log = logging.getLogger(__name__)

NAME = ".lock"
TELL_AFTER_S = 5.0
"""Seconds to wait before logging who holds the lock."""
FIRST_PID_SPACE = "pid:[4026531836]"
"""What Linux calls the process numbers of the machine itself, as opposed to a container's."""


@dataclass(frozen=True)
class Owner:
    """Holder of a lock. `machine`, `boot` and `pid_space` tell its process number from another machine's of the same
    name, from one of before the machine was started again, and from one of another container.
    """

    host: str
    machine: str
    pid: int
    boot: str
    pid_space: str
    started: str
    since: str
    slurm_job: str = ""

    def __str__(self) -> str:
        job = f"SLURM job {self.slurm_job}, " if self.slurm_job else ""
        return f"process {self.pid} on {self.host} ({job}since {self.since})"


@contextmanager
def locked(folder: Path, *, timeout_s: float = 600.0) -> Iterator[bool]:
    """Hold the lock of `folder`; gives whether it was taken over from a dead process, which may have left a mess.

    Raises
    ------
    DatabaseBusy
        Where another process holds it for longer than `timeout_s`; names the owner and the remedy.
    NotWritten
        Where the folder cannot be written.
    """
    path = folder / NAME
    mine = folder / hidden_name(NAME)
    me = this_process()
    taken = False
    try:
        with write_errors.clear_errors(path):
            # Synced: after a loss of power, a lock without an owner could not be taken over.
            files.write_new(mine, json.dumps(asdict(me)).encode(), sync=True)
            fault_points.fault_point("lock.written")
            taken_over = _take(mine, path, timeout_s)
            taken = True
            fault_points.fault_point("lock.taken")
            mine.unlink(missing_ok=True)
            _remove_abandoned(folder)
        yield taken_over
    finally:
        with write_errors.clear_errors(path):
            mine.unlink(missing_ok=True)
            if taken and _owner(path) == me:  # somebody may have removed it by hand, and another taken it
                path.unlink(missing_ok=True)
                fault_points.fault_point("lock.released")


def _take(mine: Path, path: Path, timeout_s: float) -> bool:
    """Wait for the lock and take it; whether a dead process held it."""
    begun = time.monotonic()
    taken_over = is_logged = False
    while not _link(mine, path):
        owner = _owner(path)
        if owner is not None and _lives(owner) is False and clear_lock(path, owner):
            taken_over = True
            continue
        waited_s = time.monotonic() - begun
        if waited_s > TELL_AFTER_S and not is_logged:
            is_logged = True
            log.warning("%s: waiting for %s, which writes to this database", path.parent, owner or "another process")
        if waited_s > timeout_s:
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


def this_process() -> Owner:
    """Return this process as the owner of a lock."""
    return Owner(
        host=socket.gethostname(),
        machine=text_of("/etc/machine-id"),
        pid=os.getpid(),
        boot=text_of("/proc/sys/kernel/random/boot_id"),
        pid_space=pid_space(),
        started=started(os.getpid()),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
        slurm_job=os.environ.get("SLURM_JOB_ID", ""),
    )


def _owner(path: Path) -> Owner | None:
    """Return who holds the lock; None where it was just released or cannot be read."""
    try:
        return parse_record(path, inputs.read_bytes(path, at_most=1 << 16), Owner)
    except (OSError, BadInput):
        return None


def _lives(owner: Owner) -> bool | None:
    """Return whether the process that took a lock still runs; None where that cannot be known from here."""
    here = (socket.gethostname(), text_of("/etc/machine-id"), pid_space())
    if (owner.host, owner.machine, owner.pid_space) != here:
        return None
    if owner.boot != text_of("/proc/sys/kernel/random/boot_id"):
        # Two machines of one name may look alike from inside containers; no container is in the first space.
        return False if owner.machine and owner.pid_space == FIRST_PID_SPACE else None
    return runs(owner.pid, owner.started)


def clear_lock(path: Path, dead: Owner) -> bool:
    """Remove a dead owner's lock, unless another process on this host did so first.

    Only processes of the dead owner's own host come here, so that a lock of the kernel between them is enough to keep
    two of them from removing one lock each, the second of which would be a living one's.
    """
    guard = path.with_name(f"{NAME}-recovery-{socket.gethostname()}")
    try:
        # Not followed: a database that somebody sent may hold a link of this name.
        with open(os.open(guard, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _owner(path) == dead:
                path.unlink(missing_ok=True)
                return True
            return False
    except OSError:
        return False  # a file system without locks: DatabaseBusy then says which file to remove by hand


def is_abandoned(path: Path) -> bool:
    """Return whether a file is the owner's file of a killed process of this host, empty if it was killed at once.

    Today's owner files have names of unfinished writes (`stale_files.hidden_name`); earlier ones are known here.
    """
    match = re.fullmatch(rf"{re.escape(f'{NAME}-{socket.gethostname()}-')}(\d+)-[0-9a-f]{{8}}", path.name)
    if match is None:
        return False
    owner = _owner(path)
    return _lives(owner) is False if owner is not None else not some_runs(int(match[1]))


def _remove_abandoned(folder: Path) -> None:
    """Remove the owners' files of killed processes."""
    folders.clean(folder, root=folder)
    for old in folder.glob(f"{NAME}-*"):
        if is_abandoned(old):
            old.unlink(missing_ok=True)


def unlock(folder: Path, *, force: bool = False) -> Owner | None:
    """Remove a lock whose owner ended without letting go of it; who held it, None where there is none.

    Parameters
    ----------
    force
        Also where it cannot be known from here whether the owner lives. A person has looked.

    Raises
    ------
    DatabaseBusy
        Where the owner lives, or may live.
    NotWritten
        Where the lock cannot be removed.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        return None
    owner = _owner(path)
    lives = _lives(owner) if owner else None
    if lives:
        raise DatabaseBusy(
            f"{folder}: {owner} is at work here. Let it finish, or end it; the lock then goes by itself."
        )
    if lives is None and not force:
        where = f"squeue -j {owner.slurm_job}" if owner and owner.slurm_job else "ps -p PID, on that machine"
        where = where.replace("PID", str(owner.pid)) if owner else "ps, on the machines that write here"
        raise DatabaseBusy(
            f"{folder}: {owner or 'an unknown process'} holds the lock, and whether it still runs cannot be seen from "
            f"here. Look for it ({where}); if it is gone, add --force."
        )
    with write_errors.clear_errors(path):
        if _owner(path) == owner:  # nobody took it meanwhile
            path.unlink(missing_ok=True)
    return owner or Owner("an unknown machine", "", 0, "", "", "", "an unknown time")


def _busy(path: Path, owner: Owner | None, waited_s: float) -> str:
    who = str(owner) if owner else "another process"
    return (
        f"{path.parent}: {who} is writing to this database; waited {waited_s:.0f} s. Try again when it is done. "
        f"If it was killed, remove its lock: cryoflow database unlock --database {shlex.quote(str(path.parent))}"
    )
