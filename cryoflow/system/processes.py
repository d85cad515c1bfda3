"""Processes of this machine: their identity, and whether they still run. Most of it is in Linux' /proc."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def pid_space() -> str:
    """Return which set of process numbers this process is in: each container has its own. Empty where it is not
    known."""
    try:
        return Path("/proc/self/ns/pid").readlink().name
    except OSError:
        return ""


def started(pid: int) -> str:
    """Return when a process started, in clock ticks since the machine did; empty where it is gone or cannot be seen."""
    fields = text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[19] if len(fields) > 19 and fields[0] != "Z" else ""  # Z: dead, and its parent has not asked yet


def runs(pid: int, since: str) -> bool:
    """Return whether the process that had this number and start still runs; the number may be another's by now."""
    return some_runs(pid) and since == started(pid)


def some_runs(pid: int) -> bool:
    """Return whether any process of this number runs. One that is dead and that its parent has not asked for does
    not."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        pass
    return text_of(f"/proc/{pid}/stat").rpartition(")")[2].split()[:1] != ["Z"]


def text_of(path: str) -> str:
    """Return the text of a file of the system, empty where it is missing."""
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


@contextmanager
def giving_variables(variables: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started within inherit these variables, and leave `os.environ` as it is.

    Other threads may be reading that mapping, as Prefect's do: one that loses a name meanwhile makes them fail with
    `KeyError`. Only processes that are started without an environment of their own inherit them, such as those of
    `multiprocessing`.
    """
    for name, value in variables.items():
        os.putenv(name, value)
    try:
        yield
    finally:
        for name in variables:
            if (before := os.environ.get(name)) is None:
                os.unsetenv(name)
            else:
                os.putenv(name, before)


def ending_with_us(argv: Sequence[str]) -> list[str]:
    """Return arguments that start a program which gets SIGTERM when the thread that starts it ends, however that ends.

    On Linux; elsewhere the program starts as it would without.
    """
    return [sys.executable, "-m", "cryoflow.system.processes", str(os.getpid()), *argv]


def _become(starter: int, argv: list[str]) -> None:
    """Ask the kernel for the signal, and become the program: the request outlives that."""
    import ctypes
    import signal

    # A shell that starts us in the background has SIGINT ignored, by which Prefect's services stop on SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of linux/prctl.h
        ctypes.CDLL(None).prctl(set_parent_death_signal, int(signal.SIGTERM))
        if os.getppid() != starter:  # it ended before we asked
            sys.exit(1)
    os.execvp(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
