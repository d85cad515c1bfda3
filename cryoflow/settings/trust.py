"""Which settings files of working folders a user trusts: path and fingerprint of the content, as direnv does.

A `cryoflow.toml` decides which server receives the user's secret and which shell lines run on a node. One that lies in
the working folder or above it may have come with somebody's project, so it is used only after the user has read it and
run `cryoflow settings trust`. A change of its content ends the trust.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.parsing import read_record


def store() -> Path:
    """Return the file that lists trusted settings files: `$XDG_STATE_HOME/cryoflow/trusted.json`."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "cryoflow", "trusted.json")


def trusted() -> dict[str, str]:
    """Return the fingerprint of the content of each trusted file, by its path.

    Raises
    ------
    BadInput
        If the list is damaged.
    """
    path = store()
    if not path.is_file():
        return {}
    return read_record(path, dict[str, str], "Remove it, and trust your settings files again.")


def is_trusted(path: Path, content: bytes) -> bool:
    """Return whether the user trusts this file with this content."""
    return trusted().get(os.path.realpath(path)) == fingerprint_of(content)


def trust(path: Path, content: bytes) -> None:
    """Trust a file as long as it has this content."""
    _write(trusted() | {os.path.realpath(path): fingerprint_of(content)})


def untrust(path: Path) -> bool:
    """End the trust in a file; returns whether there was any."""
    known = trusted()
    found = known.pop(os.path.realpath(path), None)
    if found is not None:
        _write(known)
    return found is not None


def _write(known: dict[str, str]) -> None:
    path = store()
    if path.is_symlink():
        raise BadInput(path, "is a link; the list of trusted files is not written through it.", "Remove it.")
    write_atomically(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")
