"""What must run for cryoflow to be used from Prefect's pages: the server and the workers, as child processes.

`cryoflow up` is for one person and for trying a site; a site that is in use starts the same commands with systemd.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cryoflow.cluster.deployments import POOL_TYPES, pools
from cryoflow.errors import BadInput, ToolFailed
from cryoflow.settings.load import FILE_NAME, Settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.system.processes import ending_with_us

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Service:
    """A process to be started: its arguments, and what it needs in its environment."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def server_environment(settings: Settings) -> dict[str, str]:
    """What the server is told: its database, and the address that its pages call."""
    site = settings.site
    values = {
        "PREFECT_UI_API_URL": f"{site.server.rstrip('/')}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    if site.server_database:
        values["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = site.server_database.get_secret_value()
    return values


def server(settings: Settings, *, host: str = "127.0.0.1") -> Service:
    """Prefect's server. It listens on loopback unless told otherwise: a reverse proxy gives it to the network."""
    port = urlsplit(settings.site.server).port or 4200
    argv = (sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port))
    return Service("server", argv, server_environment(settings))


def workers(settings: Settings, profile: ProfileName) -> tuple[Service, ...]:
    """One worker for each pool of a profile."""
    environment = {"PREFECT_API_URL": f"{settings.site.server.rstrip('/')}/api", "PREFECT_WORKER_QUERY_SECONDS": "5"}
    return tuple(
        Service(
            f"worker {pool}",
            (sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", kind, "--name", pool),
            environment,
        )
        for pool, kind in pools(profile).items()
    )


def check(settings: Settings, profile: ProfileName, *, host: str = "127.0.0.1") -> None:
    """Refuse what is known not to work.

    Parameters
    ----------
    host
        Address that the server is to listen on.

    Raises
    ------
    BadInput
        For SLURM without PostgreSQL, and for a server that nobody reaches at the address of the settings.
    """
    site = settings.site
    if host in LOOPBACK and (name := urlsplit(site.server).hostname) not in LOOPBACK:
        raise BadInput(
            FILE_NAME,
            f"names the server {site.server}, but it would listen on {host} alone, where {name} does not lead.",
            "Add --host with the address of the network that nodes are on, and a secret: docs/cluster.md, Security.",
        )
    if POOL_TYPES[profile] == "slurm" and not site.server_database:
        raise BadInput(
            FILE_NAME,
            f"the profile {profile} needs PostgreSQL: with SQLite, runs at the same time are lost to locks.",
            'Set server_database = "postgresql+asyncpg://..." in [site], or start the server yourself (--no-server).',
        )


def check_port(address: str) -> None:
    """Refuse a port that another program or another user listens on.

    Parameters
    ----------
    address
        Of Prefect's server, which is to be started there, or answers already.

    Raises
    ------
    BadInput
        Where something else answers, or a server of somebody else: it would run our stages, and we theirs.
    """
    name, port = urlsplit(address).hostname or "", urlsplit(address).port or 4200
    another = f'Name another port in [site]: server = "http://{name}:{port + 1}".'
    if not answers(address):
        try:
            with socket.create_connection((name, port), timeout=2):
                raise BadInput(address, "is taken: another program listens on that port.", another)
        except OSError:
            return
    elif (owner := _listener(port)) not in (None, os.getuid()):
        hint = f"{another} To use theirs: --no-server."
        raise BadInput(address, f"is the server of another user (number {owner}).", hint)


def _listener(port: int) -> int | None:
    """Number of the user who listens on a port of this machine, as far as /proc tells."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:  # 0A: listening
                return int(words[7])
    return None


class Running:
    """Started services. Use it as a context manager: at its end all are stopped, in the reverse order."""

    def __init__(self, log_folder: Path) -> None:
        self.log_folder = log_folder
        self._processes: list[tuple[Service, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Running:
        self.log_folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_exc_info: object) -> None:
        with _deaf():  # a second Ctrl-C would leave the rest running
            for _, process in reversed(self._processes):
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
                env={**os.environ, **service.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop them in order
            )
        self._processes.append((service, process))
        return True

    def __len__(self) -> int:
        return len(self._processes)

    def log(self, service: Service) -> Path:
        """Where a service's output goes."""
        return self.log_folder / f"{service.name.replace(' ', '-')}.log"

    def ended(self) -> Service | None:
        """A service that has ended by itself, None where all run."""
        return next((service for service, process in self._processes if process.poll() is not None), None)

    def wait_for(self, what: str, is_ready: Callable[[], bool], *, timeout_s: float = 180) -> None:
        """Wait until something is ready.

        Raises
        ------
        ToolFailed
            Where a service ended instead, or it took too long; with the end of the log.
        """
        end = time.monotonic() + timeout_s
        while not is_ready():
            if (dead := self.ended()) is not None:
                raise ToolFailed(dead.argv, 1, _tail(self.log(dead)))
            if time.monotonic() > end:
                raise ToolFailed((what,), None, f"it was not ready after {timeout_s:g} s")
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


def answers(address: str) -> bool:
    """Whether a Prefect server answers there."""
    if urlsplit(address).scheme not in ("http", "https"):
        return False
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
