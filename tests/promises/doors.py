"""Record what goes past `cryoflow.storage`: files of users that it did not open, and changes that it did not make.

Python's audit events are watched, so that a call of any library is seen; the stack says who made it.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path

import promise_tools as tools

import cryoflow
from cryoflow.storage import inputs
from cryoflow.storage.stale_files import is_unfinished

PACKAGE = str(Path(cryoflow.__file__).parent)
STORAGE = os.path.join(PACKAGE, "storage") + os.sep
LOCK = os.path.join(PACKAGE, "database", "lock.py")
"""Makes and removes its own files, since a lock is a second name for a file and no file that is replaced."""
_READS_FOLDERS = os.O_DIRECTORY | getattr(os, "O_PATH", 0)


def watch(users: Path, output: Path, tell: Callable[[str], None]) -> None:
    """Call `tell` with one line for each access past `cryoflow.storage`, from now to the end of the process.

    Parameters
    ----------
    users
        Folder of files that others wrote.
    output
        Folder that the user named for what cryoflow writes.
    """
    below = os.path.realpath(users) + os.sep

    def on_change(event: str, path: str) -> None:
        # Inside a hidden folder or file anything may be written: storage made it, and renames it when it is complete.
        if not any(is_unfinished(part) for part in Path(path).parts):
            stack = _stack()
            if LOCK not in stack and not any(name.startswith(STORAGE) for name in stack):
                tell(f"{event} {path} by {_ours()}")

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and isinstance(args[2], int):
            path = os.path.realpath(args[0])
            if path.startswith(below) and not args[2] & _READS_FOLDERS and inputs.__file__ not in _stack():
                tell(f"read {path} by {_ours()}")

    for folder in (users, output):
        tools.on_each_change(folder, on_change)
    sys.addaudithook(hook)


def _stack() -> list[str]:
    """The files of the functions that are at work, the innermost first."""
    frame = inspect.currentframe()
    found = []
    while frame is not None:
        found.append(frame.f_code.co_filename)
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _ours() -> str:
    """Where the product made the call."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(PACKAGE):
            return f"{name.removeprefix(PACKAGE + os.sep)}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "a library"
