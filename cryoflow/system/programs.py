"""One function runs external programs: an argument list, never a shell string."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cryoflow.errors import ToolFailed
from cryoflow.system.working_folder import of_other_programs

log = logging.getLogger(__name__)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    log_file: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    tail_lines: int = 40,
) -> str:
    """Run a program to its end and return what it printed (stdout and stderr together).

    Parameters
    ----------
    argv
        Program and arguments; no shell sees them.
    env
        The whole environment of the program; None hands on ours.
    timeout_s
        After this long the program and its children are ended, and `ToolFailed` raised.
    log_file
        Where the output is copied to, line by line.
    on_line
        Called with each line as it comes.

    Raises
    ------
    ToolFailed
        Where it cannot be started, exits non-zero, or runs out of time; carries the last `tail_lines` lines.
    """
    arguments = [os.fspath(a) for a in argv]
    log.info("running %s", shlex.join(arguments))
    tail: deque[str] = deque(maxlen=tail_lines)
    kept: list[str] = []
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=of_other_programs(os.environ if env is None else env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise ToolFailed(arguments, None, str(error)) from error
    overtime = threading.Event()

    def end() -> None:
        overtime.set()
        _end_group(process)

    timer = threading.Timer(timeout_s, end) if timeout_s else None
    if timer:
        timer.start()
    try:
        with log_file.open("a") if log_file else open(os.devnull, "w") as copy:
            assert process.stdout is not None
            for line in process.stdout:
                copy.write(line)
                copy.flush()
                tail.append(line.rstrip("\n"))
                kept.append(line)
                if on_line:
                    on_line(line.rstrip("\n"))
        returncode = process.wait()
    except BaseException:
        _end_group(process)
        raise
    finally:
        if timer:
            timer.cancel()
    if overtime.is_set():
        tail.append(f"ended by cryoflow: it ran longer than {timeout_s:g} s")
    if returncode != 0 or overtime.is_set():
        raise ToolFailed(arguments, returncode, "\n".join(tail))
    log.info("%s took %.1f s", arguments[0], time.monotonic() - started)
    return "".join(kept)


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a program and its children: politely first, then at once."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        try:
            process.wait(timeout=5)
            return
        except subprocess.TimeoutExpired:
            continue
