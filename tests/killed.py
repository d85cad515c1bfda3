"""Work in forked children that end, or fail, at the named fault points of a write."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryoflow.errors import CryoflowError
from cryoflow.storage import fault_points

KILLED = 77
"""Exit status of a process that `die` ended."""


def tensorflow_has_run() -> bool:
    """Return whether TensorFlow has started threads in this process; its import alone starts none that matter."""
    if "tensorflow" not in sys.modules or not Path("/proc/self/task").is_dir():
        return "tensorflow" in sys.modules
    names = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has ended since
            names.append((thread / "comm").read_text())
    return any(name.startswith("tf_") for name in names)


def fork() -> int:
    """Fork this process, as `os.fork`, for a child that does some work: see the marker `forks`."""
    assert not tensorflow_has_run(), "give this test the marker `forks`: its child would meet TensorFlow's locks"
    return os.fork()


def in_child(work: Callable[[], object], *, stderr: Path | None = None) -> int:
    """Run something in a forked child. Its exit status: 0 done, 1 a clear error, 2 another, `KILLED`, or -signal."""
    pid = fork()
    if pid == 0:
        status = 2
        try:
            if stderr is not None:
                sys.stderr = stderr.open("w")
            work()
            status = 0
        except CryoflowError as error:
            print(error, file=sys.stderr)
            status = 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at(number: int, act: Callable[[], None]) -> Callable[..., None]:
    """A function that acts at its call number `number` (from 0) and at every later one."""
    left = [number]

    def call(*_: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            act()

    return call


def die() -> None:
    """End the process at once: nothing is flushed, no `finally` is run."""
    os._exit(KILLED)


@contextmanager
def fault_hook(on_point: Callable[[str], None]) -> Iterator[None]:
    """Call something at each named fault point of `cryoflow.storage.files`."""
    fault_points.on_fault_point = on_point
    try:
        yield
    finally:
        fault_points.on_fault_point = None


def points_of(work: Callable[[], object], log: Path) -> list[str]:
    """The fault points that some work passes, in order."""

    def run() -> None:
        with log.open("w") as file, fault_hook(lambda name: print(name, file=file, flush=True)):
            work()

    assert in_child(run) == 0
    return log.read_text().split()
