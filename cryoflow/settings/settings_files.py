"""Where settings files lie: a command for which nothing is set need not load the settings and their checks."""

from __future__ import annotations

import os
from pathlib import Path

FILE_NAME = "cryoflow.toml"
PREFIX = "CRYOFLOW_"
"""Of the variables that set a setting, or name a settings file."""
SITE_FOLDER = Path("/etc/cryoflow")
"""Where a site keeps its settings file."""


def user_folder() -> Path:
    """Return the folder of the user's own settings file."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config", "cryoflow")


def nothing_is_set() -> bool:
    """Return whether no settings file and no variable is there at all, so that all settings have their defaults."""
    work = Path.cwd()
    folders = (work, *work.parents, user_folder(), SITE_FOLDER)
    return not any(name.startswith(PREFIX) for name in os.environ) and not any(
        (folder / FILE_NAME).exists() for folder in folders
    )
