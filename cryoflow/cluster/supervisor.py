"""Child processes that are started together, restarted where they end, and stopped together."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess  # noqa: TID251 (services of our own, which are supervised)
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.errors import ToolFailed
from cryoflow.system.processes import ending_with_us
from cryoflow.system.working_folder import OURS, SAFE_PATH

READY_S = 180
"""Seconds that a service has to become ready."""
RESTARTS, RESTARTS_WITHIN_S = 5, 600.0
"""So often a service that ended by itself is started again before `up` gives up."""


@dataclass(frozen=True)
class Service:
    """A process to be started: its arguments, and what it needs in its environment."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


class Running:
    """Started services. Use it as a context manager: at its end all are stopped, in the reverse order."""

    def __init__(self, log_folder: Path) -> None:
        self.log_folder = log_folder
        self.processes: list[tuple[Service, subprocess.Popen[bytes]]] = []
        self._restarts: dict[str, list[float]] = {}

    def __enter__(self) -> Running:
        self.log_folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        with _deaf():  # a second Ctrl-C would leave the rest running
            for _, process in reversed(self.processes):
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    try:
                        process.wait(20)
                    except subprocess.TimeoutExpired:
                        os.killpg(process.pid, signal.SIGKILL)

    def start(self, service: Service) -> bool:
        """Start a service; its output goes to a file of the log folder. False where it runs already.

        It is stopped when we are killed, too. The file is locked for as long as it runs: a second worker of a pool
        would take its jobs for lost ones.
        """
        with self.log(service).open("ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            process = subprocess.Popen(
                ending_with_us(service.argv),
                env={**os.environ, SAFE_PATH: OURS, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop them in order
            )
        self.processes.append((service, process))
        return True

    def restart(self, service: Service) -> bool:
        """Start a service again that has ended by itself; False where it has ended too often lately."""
        now = time.monotonic()
        recent = [t for t in self._restarts.get(service.name, []) if now - t < RESTARTS_WITHIN_S]
        if len(recent) >= RESTARTS:
            return False
        self._restarts[service.name] = [*recent, now]
        self.processes = [(s, process) for s, process in self.processes if s.name != service.name]
        return self.start(service)

    def __len__(self) -> int:
        return len(self.processes)

    def log(self, service: Service) -> Path:
        """Return the file of a service's output."""
        return self.log_folder / f"{service.name.replace(' ', '-')}.log"

    def ended(self) -> Service | None:
        """Return a service that has ended by itself, None where all run."""
        return next((service for service, process in self.processes if process.poll() is not None), None)

    def wait_for(self, what: str, is_ready: Callable[[], bool]) -> None:
        """Wait until something is ready.

        Raises
        ------
        ToolFailed
            Where a service ended instead, or it took too long; with the end of the log.
        """
        end = time.monotonic() + READY_S
        while not is_ready():
            if (dead := self.ended()) is not None:
                raise ToolFailed(dead.argv, 1, _tail(self.log(dead)))
            if time.monotonic() > end:
                raise ToolFailed((what,), None, f"it was not ready after {READY_S:g} s")
            time.sleep(0.5)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM within, where this is the thread that gets them."""
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])
