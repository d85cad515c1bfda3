"""Processes of this machine: what tells one from another, and whether it still runs. Linux says most of it in /proc."""

from __future__ import annotations

import os
from pathlib import Path


def pid_space() -> str:
    """Which set of process numbers this process is in: each container has its own. Empty where it is not known."""
    try:
        return Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return ""


def started(pid: int) -> str:
    """When a process started, in clock ticks since the machine did; empty where it is gone or cannot be seen."""
    fields = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""  # Z: dead, and its parent has not asked yet


def runs(pid: int, since: str) -> bool:
    """Whether the process that had this number and start still runs; the number may be another's by now."""
    return some_runs(pid) and since == started(pid)


def some_runs(pid: int) -> bool:
    """Whether any process of this number runs. One that is dead and that its parent has not asked for does not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] != ["Z"]


def text_of(path: str) -> str:
    """What a file of the system says, empty where it is not there."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
