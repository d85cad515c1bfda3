"""Memory: how much this process may take, and whether an error is due to a lack of it."""

from __future__ import annotations

import errno
import sys

_ADVICE = "Ask for more memory, or use fewer workers (--workers)."


LEAST_TO_READ = 1 << 30
"""Bytes of address space for any command; with less, OpenBLAS tries for ever to get memory while it is loaded."""


def require(least: int) -> None:
    """Refuse work for which the limit of this process's memory is too low.

    Raises
    ------
    MemoryError
        If the limit (`ulimit -v`) is below `least` bytes.
    """
    limit = _limit_bytes()
    if limit is not None and limit < least:
        raise MemoryError(f"{least / 1e9:.1f} GB are needed")


def shortage(error: BaseException) -> str:
    """Return one line on a lack of memory that caused an error; empty if another reason is more likely.

    Python raises `MemoryError` only for objects of its own. Threads that cannot start, libraries that cannot be loaded
    and calls of the operating system fail in other ways.
    """
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if _is_shortage(cause):
            detail = f"; {cause}" if isinstance(cause, MemoryError) and str(cause) else ""
            return f"there is not enough memory{_limit()}{detail}. {_ADVICE}"
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return ""


def _is_shortage(error: BaseException) -> bool:
    text = str(error)
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, ImportError) and ("failed to map segment" in text or "cannot allocate memory" in text))
        or (isinstance(error, RuntimeError) and "can't start new thread" in text)
        or (isinstance(error, SystemError) and "without exception set" in text and bool(_limit()))
    )


def _limit() -> str:
    """Return the limit of this process's memory as a remark, empty where it has none."""
    limit = _limit_bytes()
    return "" if limit is None else f": this process may take {limit / 1e9:.1f} GB (`ulimit -v`)"


def _limit_bytes() -> int | None:
    """Return the limit of this process's address space; None where it has none."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft
