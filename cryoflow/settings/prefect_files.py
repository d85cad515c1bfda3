"""Refuse settings of Prefect that lie in the working folder: they may have come with somebody's project."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.system.working_folder import OURS, SAFE_PATH

FILES = ("prefect.toml", ".env", "pyproject.toml")
"""Files of the working folder that Prefect takes settings from."""


def guard_prefect() -> None:
    """Prepare for the import of Prefect: refuse its settings files of the working folder, and set `SAFE_PATH`.

    Prefect reads those files whenever it makes settings, and its server is a process that inherits our variables.
    Without effect after that import, as when a user's own `prefect` command loads our worker.

    Raises
    ------
    BadInput
        If Prefect would take settings from a file of the working folder.
    """
    if "prefect" in sys.modules:
        return
    for name in FILES:
        if os.path.lexists(name) and _is_obeyed(Path(name)):
            raise BadInput(
                Path.cwd() / name,
                "Prefect would obey this file: it chooses the server that gets your secret, and code for its logs.",
                "Work in another folder, or remove Prefect's settings from it and set PREFECT_* variables.",
            )
    os.environ.setdefault(SAFE_PATH, OURS)


def _is_obeyed(path: Path) -> bool:
    """Return whether a file has settings of Prefect; one that cannot be read is taken to have some."""
    from cryoflow.storage import budgets, inputs
    from cryoflow.storage.parsing import parse_toml

    if path.name == FILES[0]:
        return True
    try:
        raw = inputs.read_bytes(path, at_most=budgets.TOML_BYTES)
        if path.name == ".env":
            return b"prefect" in raw.lower()
        tools = parse_toml(path, raw).get("tool", {})
    except (OSError, BadInput):
        return not path.is_dir()
    return isinstance(tools, dict) and "prefect" in tools
