"""Run what cryoflow's pages need: the Prefect server, the workers and the viewer, as child processes.

`cryoflow up` is for one person and for trying a site; a site that is in use starts the same commands with systemd.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
import tempfile
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from cryoflow.cluster.deployments import pools
from cryoflow.cluster.supervisor import Service
from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.settings.load import FILE_NAME, Settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.settings_files import PREFIX
from cryoflow.view.parameters import ViewParameters

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SITE_VARIABLE = f"{PREFIX}SITE"
VIEWER_PORT = ViewParameters.port
"""Port of the viewer where the site names no address, or one that a proxy answers."""


def server_environment(settings: Settings) -> dict[str, str]:
    """Return the server's variables: its database, the address that its pages call, and folders of this account."""
    import prefect

    site = settings.site
    values = {
        "PREFECT_UI_API_URL": f"{site.server.rstrip('/')}/api",
        # The server unpacks its pages at its start; its own package may belong to another account.
        "PREFECT_UI_STATIC_DIRECTORY": str(state_folder() / f"pages-{prefect.__version__}"),
        "TMPDIR": str(temporary_folder()),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "DO_NOT_TRACK": "1",
    }
    if site.server_database:
        values["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = site.server_database.get_secret_value()
    return values


def server(settings: Settings, *, host: str = "127.0.0.1") -> Service:
    """Return Prefect's server. It listens on loopback by default: a reverse proxy gives it to the network."""
    port = urlsplit(settings.site.server).port or 4200
    argv = (sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port))
    return Service("server", argv, server_environment(settings))


def workers(settings: Settings, profile: ProfileName) -> tuple[Service, ...]:
    """Return one worker for each pool of a profile, with a name that no other account or machine gives."""
    environment = {
        "PREFECT_API_URL": f"{settings.site.server.rstrip('/')}/api",
        "PREFECT_WORKER_QUERY_SECONDS": "5",
        "TMPDIR": str(temporary_folder()),  # a process worker keeps its runs in a folder of one fixed name there
        **_viewer_variable(settings),
    }
    start = (sys.executable, "-m", "prefect", "worker", "start")
    return tuple(
        Service(
            f"worker {pool}",
            (*start, "--pool", pool, "--type", kind, "--name", f"{pool} of {getpass.getuser()} on {_host()}"),
            environment,
        )
        for pool, kind in pools(profile).items()
    )


def with_viewer(settings: Settings) -> Settings:
    """Return settings whose `viewer` is the address of the viewer that `viewer` starts, where the site names none."""
    if settings.site.viewer or settings.database is None:
        return settings
    site = settings.site.model_copy(update={"viewer": f"http://127.0.0.1:{VIEWER_PORT}"})
    return settings.model_copy(update={"site": site})


def viewer(settings: Settings) -> Service | None:
    """Return the viewer of the site's database, None as long as there is no such database.

    It listens on loopback like every viewer: on the port of the site's `viewer`, or behind a proxy of that name.
    """
    if settings.database is None or not Database(settings.database).exists:
        return None
    host = urlsplit(settings.site.viewer or "").hostname
    argv = [sys.executable, "-m", "cryoflow", "view", "--database", str(settings.database.absolute()), "--write"]
    argv += ["--port", str(viewer_port(settings)), "--token-file", str(viewer_tokens())]
    argv += ["--host-name", host] if host and host not in LOOPBACK else []
    return Service("viewer", tuple(argv))


def viewer_port(settings: Settings) -> int:
    """Return the port of loopback that the viewer listens on."""
    address = urlsplit(settings.site.viewer or "")
    return address.port or VIEWER_PORT if address.scheme != "https" else VIEWER_PORT


def viewer_tokens() -> Path:
    """Return the file of this account that keeps the viewer's tokens."""
    return state_folder() / "view-tokens"


def is_taken(port: int) -> bool:
    """Return whether a program listens on a port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return True
    except OSError:
        return False


def other_workers(settings: Settings, profile: ProfileName) -> list[str]:
    """Return sentences on workers of a profile's pools that are online already."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import WorkerStatus

    found: list[str] = []
    ours = {service.argv[-1] for service in workers(settings, profile)}
    with get_client(sync_client=True) as client:
        for pool in pools(profile):
            online = [w for w in client.read_workers_for_work_pool(pool) if w.status == WorkerStatus.ONLINE]
            found += [f"another worker serves the pool {pool} too: {w.name}" for w in online if w.name not in ours]
    return found


def state_folder() -> Path:
    """Return the folder of this account for what services keep; make it where it is missing."""
    folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "cryoflow")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def temporary_folder() -> Path:
    """Return a temporary folder of this account; make it where it is missing.

    Raises
    ------
    BadInput
        Where it belongs to another user.
    """
    folder = Path(tempfile.gettempdir(), f"cryoflow-{getpass.getuser()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise BadInput(folder, "belongs to another account.", "Set TMPDIR to a folder of this account's own.")
    return folder


def _viewer_variable(settings: Settings) -> dict[str, str]:
    """Return the variable by which runs learn the viewer's address, for their links to reports."""
    try:
        given = json.loads(os.environ.get(SITE_VARIABLE) or "{}")
    except ValueError:  # `load_settings` has refused it
        given = {}
    return {SITE_VARIABLE: json.dumps({**given, "viewer": settings.site.viewer})} if settings.site.viewer else {}


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def check(settings: Settings, profile: ProfileName, *, host: str = "127.0.0.1", insecure: bool = False) -> None:
    """Refuse what is known not to work, or to be open to everybody.

    Parameters
    ----------
    host
        Address that the server is to listen on.
    insecure
        Listen on the network without a secret.

    Raises
    ------
    BadInput
        For SLURM without PostgreSQL, for a server that nobody reaches at the address of the settings, and for one that
        anybody in the network may use.
    """
    site = settings.site
    if host not in LOOPBACK and not insecure and not os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        raise BadInput(
            f"--host {host}",
            "would let everybody in that network run stages as this account: no secret is set.",
            "Set PREFECT_SERVER_API_AUTH_STRING and PREFECT_API_AUTH_STRING to NAME:SECRET, or add --insecure.",
        )
    if host in LOOPBACK and (name := urlsplit(site.server).hostname) not in LOOPBACK:
        raise BadInput(
            FILE_NAME,
            f"names the server {site.server}, but it would listen on {host} alone, where {name} does not lead.",
            "Add --host with the address of the network that nodes are on, and a secret: docs/cluster.md, Security.",
        )
    if profile in (ProfileName.SLURM, ProfileName.SLURM_BARE) and not site.server_database:
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
    """Return the number of the user who listens on a port of this machine, None where /proc lists none."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for words in map(str.split, lines):
            if words[3] == "0A" and int(words[1].rpartition(":")[2], 16) == port:  # 0A: listening
                return int(words[7])
    return None


def answers(address: str) -> bool:
    """Return whether a Prefect server answers there."""
    if urlsplit(address).scheme not in ("http", "https"):
        return False
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def page_problem(address: str) -> str:
    """Return what is wrong with the server's page, empty where a browser would show it."""
    try:
        with urllib.request.urlopen(address, timeout=20) as answer:  # noqa: S310  # http or https, as `answers` checked
            kind, text = answer.headers.get_content_type(), answer.read(4000).decode(errors="replace")
    except (OSError, ValueError) as error:
        return str(error)
    return "" if kind == "text/html" and "<html" in text.lower() else f"its answer is {kind}: {text[:80]}"
