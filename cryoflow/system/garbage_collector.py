"""Keeping Python's garbage collector out of what it disturbs."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.Lock()
_n_pausing = 0
_was_enabled = False


def _after_fork() -> None:
    """Let a child whose parent paused collect again: the threads that paused are not in it."""
    global _lock, _n_pausing
    _lock = threading.Lock()
    if _n_pausing and _was_enabled:
        gc.enable()
    _n_pausing = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def paused() -> Iterator[None]:
    """Collect no garbage meanwhile, in any thread; for all parsing of Python code.

    Up to Python 3.11.7 and 3.12.0 all syntax trees count their depth in one place (gh-106905). Where a collection in
    the middle of one runs code that makes another (a traceback does), or lets another thread do so, the first one ends
    in a `SystemError`. NumPy parses the header of each array that it loads.
    """
    global _n_pausing, _was_enabled
    with _lock:
        _n_pausing += 1  # before the collector stops: a child that is forked in between starts it again
        if _n_pausing == 1:
            _was_enabled = gc.isenabled()
            gc.disable()
    try:
        yield
    finally:
        with _lock:
            if _n_pausing <= 1 and _was_enabled:
                gc.enable()
            _n_pausing = max(0, _n_pausing - 1)  # 0 in a child that was forked within a pause
