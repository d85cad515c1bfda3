"""Start the viewer: its tokens, its socket, and the links that are printed."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from cryoflow.database import Database
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.models.find_model import registry_beside
from cryoflow.settings.load import Settings
from cryoflow.storage import inputs, write_errors
from cryoflow.view.access import LOOPBACK, Access, new_token
from cryoflow.view.addresses import report_folders
from cryoflow.view.parameters import ViewParameters

if TYPE_CHECKING:
    from cryoflow.view.opened_entries import Library

MOST_CONNECTIONS = 200
"""Requests at the same time; more are refused with status 503."""


@dataclass(frozen=True)
class Links:
    """Addresses to open; each lets in whoever has it."""

    read: str
    write: str | None


def serve(parameters: ViewParameters, settings: Settings, on_started: Callable[[Links], None]) -> None:
    """Serve the viewer until SIGINT or SIGTERM.

    Parameters
    ----------
    on_started
        Called with the links once the port is open.

    Raises
    ------
    BadInput
        Where there is no such database, entry or model.
    CryoflowError
        Where the port is taken.
    """
    import uvicorn

    from cryoflow.view.app import make_app
    from cryoflow.view.opened_entries import Library
    from cryoflow.view.training import Trainings

    p = parameters
    database = Database(p.database)
    if not database.exists:
        raise BadInput(p.database, "there is no database here.", "Make one with 'cryoflow ingest ROOT --database DB'.")
    names = [database.entry(name).name for name in database.matching(p.entries)]
    library = Library(database, state_folder=p.state, model=p.model, masks=p.masks or settings.site.masks)
    listening = _listening(p.port)
    port = int(listening.getsockname()[1])
    read, write = tokens(p.token_file)
    access = Access(
        read_token=read,
        write_token=write if p.write else None,
        user_header=p.user_header,
        hosts=LOOPBACK | {name.lower() for name in p.host_name},
        cookie=f"cryoflow_view_{port}",
    )
    site = settings.site
    beside = registry_beside(database.root)
    models = p.models or tuple(
        dict.fromkeys((*((site.models,) if site.models else ()), *((beside,) if beside.is_dir() else ())))
    )

    trainings = None
    if site.models:
        trainings = Trainings(database.root.absolute(), site.server, settings.place, site.models)
    app = make_app(
        library,
        access,
        reports=p.reports or report_folders(site),
        models=models,
        trainings=trainings,
    )
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=3,
        server_header=False,
        ws="none",
        http="h11",  # the other one that uvicorn takes where it is installed does not bound a request's headers
        lifespan="off",
    )
    try:
        on_started(links_of(port, read, write if p.write else None, names))
        threading.Thread(target=_prepare, args=(library, names[:4]), daemon=True).start()
        uvicorn.Server(config).run(sockets=[listening])
    finally:
        listening.close()


def links_of(port: int, read: str, write: str | None, entries: Sequence[str] = ()) -> Links:
    """Return the links that carry the tokens.

    Parameters
    ----------
    entries
        The first is shown, up to three more are drawn on top; without any the links lead to the database.
    """
    page = f"http://127.0.0.1:{port}/{'look' if entries else ''}"
    query = {"entry": entries[0], "with": list(entries[1:4])} if entries else {}
    links = [t and f"{page}?{urlencode({'token': t, **query}, doseq=True)}" for t in (read, write)]
    return Links(links[0] or "", links[1])


def tokens(file: Path | None) -> tuple[str, str]:
    """Return the tokens for reading and for writing: new ones, or those of a file.

    Raises
    ------
    BadInput
        Where others may read the file, or it does not hold two tokens.
    NotWritten
        Where it cannot be made.
    """
    if file is None:
        return new_token(), new_token()
    if not file.exists():
        with write_errors.clear_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            hidden = file.with_name(f".{file.name}-{secrets.token_hex(4)}")
            descriptor = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as opened:
                opened.write(f"{new_token()}\n{new_token()}\n")
            try:
                os.link(hidden, file)  # whoever was quicker wins
            except FileExistsError:
                pass
            finally:
                hidden.unlink()
    try:
        lines = inputs.read_text(file, at_most=1 << 12).split()
        mode = stat.S_IMODE(os.stat(file).st_mode)
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(file, f"cannot be read: {error}.") from error
    if mode & 0o077:
        raise BadInput(file, f"others may read it (permissions {mode:o}).", "Run 'chmod 600' on it.")
    if len(lines) != 2 or len(set(lines)) != 2 or any(len(t) < 20 or not t.isascii() for t in lines):
        raise BadInput(file, "holds no two tokens of 20 characters or more, one a line.", "Remove it to get new ones.")
    return lines[0], lines[1]


def _prepare(library: Library, names: Sequence[str]) -> None:
    """Load what the first page needs while the person still opens the link."""
    from cryoflow.view import pages

    pages.prepare()
    for name in names:
        with contextlib.suppress(CryoflowError, OSError, IndexError):  # the page will tell
            library.prepare(name, 0)


def _listening(port: int) -> socket.socket:
    """Return a socket that listens on loopback. The viewer is reached from elsewhere by ssh -L or a proxy only."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise CryoflowError(f"port {port} of 127.0.0.1: {error.strerror}. Choose another with --port.") from None
    return listening
