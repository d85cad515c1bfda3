"""The errors that cryoflow raises on purpose, and the exit codes of its command line.

A message names the file, the problem and the remedy. Batch work collects these errors, goes on with the
rest, and ends with `ExitCode.PARTLY_FAILED`; anything else that escapes is a defect of cryoflow.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path


class ExitCode(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    FAILED = 1
    USAGE = 2
    PARTLY_FAILED = 3


class CryoflowError(Exception):
    """Base of every error that cryoflow raises on purpose."""


class BadInput(CryoflowError):
    """A file or a folder is not what it should be.

    Parameters
    ----------
    path
        The file or folder.
    reason
        What was found, and what was expected.
    hint
        What the user can do about it.
    """

    def __init__(self, path: str | Path, reason: str, hint: str = "") -> None:
        self.path, self.reason, self.hint = Path(path), reason, hint
        super().__init__(f"{path}: {reason}" + (f" {hint}" if hint else ""))

    def __reduce__(self) -> tuple[type[BadInput], tuple[Path, str, str]]:  # crosses process pools whole
        return type(self), (self.path, self.reason, self.hint)


class MissingMetadata(BadInput):
    """A file is sound but lacks a value that the work at hand needs (a pixel size, a micrograph's shape)."""


class UnsafePath(BadInput):
    """A name that would lead outside the folder it belongs to."""


class NewerFormat(BadInput):
    """A file that a newer cryoflow wrote. It is neither read nor replaced."""


class OverBudget(BadInput):
    """A file whose content would cost more time or memory than its size allows (`cryoflow.storage.budgets`)."""


class NotWritten(BadInput):
    """A file or folder of ours could not be written: the disk is full, it is read-only, or the disk failed."""


class DatabaseBusy(CryoflowError):
    """Another process holds the database's lock."""


def defect(path: str | Path, error: Exception) -> BadInput:
    """Return the error of one line for an exception that was not raised on purpose while `path` was read."""
    what = f"{type(error).__name__}: {error}".partition("\n")[0]
    return BadInput(path, f"a defect of cryoflow ({what}).", "Please report it with what --debug prints.")


class ToolFailed(CryoflowError):
    """An external program failed.

    Parameters
    ----------
    argv
        Its argument list.
    returncode
        Its exit status, or None where it never started.
    tail
        The end of what it printed.
    """

    def __init__(self, argv: Sequence[str], returncode: int | None, tail: str) -> None:
        self.argv, self.returncode, self.tail = tuple(argv), returncode, tail
        how = "could not be started" if returncode is None else f"ended with status {returncode}"
        super().__init__(f"{shlex.join(self.argv)} {how}" + (f":\n{tail}" if tail else ""))

    def __reduce__(self) -> tuple[type[ToolFailed], tuple[tuple[str, ...], int | None, str]]:
        return type(self), (self.argv, self.returncode, self.tail)
