"""Processes of this machine: a dead one whose parent has not asked for it does not run."""

from __future__ import annotations

import os
import time
from pathlib import Path

from cryoflow.system.processes import runs, some_runs, started


def test_a_dead_process_that_nobody_has_asked_for_neither_runs_nor_has_a_start() -> None:
    begun = started(os.getpid())
    assert runs(os.getpid(), begun)
    child = os.fork()
    if child == 0:
        os._exit(0)
    try:
        end = time.monotonic() + 60
        while Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z" and time.monotonic() < end:
            time.sleep(0.01)
        assert started(child) == ""
        assert not some_runs(child)
    finally:
        os.waitpid(child, 0)
