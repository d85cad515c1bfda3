"""Processes of this machine: which of them run, and what they inherit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cryoflow.system.processes import giving_variables, runs, some_runs, started


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


def test_a_service_that_is_started_in_the_background_of_a_script_does_not_ignore_sigint() -> None:
    """Prefect's services turn SIGTERM into SIGINT; one that ignored it would be stopped by SIGKILL alone."""
    lines = [sys.executable, "-m", "cryoflow.system.processes", "$$", "cat", "/proc/self/status"]
    script = f"trap '' INT; {' '.join(lines)}; exit"
    status = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
    assert not ignored >> (signal.SIGINT - 1) & 1


def test_processes_inherit_given_variables_and_readers_of_ours_never_lose_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads of Prefect read `os.environ` item by item, while jobs are given to processes that read them."""

    def inherited() -> dict[str, str]:
        lines = subprocess.run(["env", "-0"], capture_output=True, text=True, check=True).stdout.split("\0")
        return dict(line.split("=", 1) for line in lines if line)

    monkeypatch.setenv("OF_USER", "before")
    monkeypatch.delenv("OF_NOBODY", raising=False)
    names = list(os.environ)  # as a thread has them that is in the middle of reading
    with giving_variables({"OF_USER": "within", "OF_NOBODY": "within"}):
        assert [inherited()[name] for name in ("OF_USER", "OF_NOBODY")] == ["within", "within"]
        assert [os.environ[name] for name in names]
        names = list(os.environ)
    assert [os.environ[name] for name in names]
    assert {name: inherited().get(name) for name in ("OF_USER", "OF_NOBODY")} == {
        "OF_USER": "before",
        "OF_NOBODY": None,
    }
