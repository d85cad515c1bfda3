"""Where a database puts what is removed or damaged: `.quarantine/`, from which nothing is deleted."""

from __future__ import annotations

import os
from pathlib import Path

from cryoflow.database import layout
from cryoflow.storage.safe_names import safe_name


def was_removed(root: Path, name: str) -> bool:
    """Return whether an entry of this name is in the quarantine."""
    project, _, entry = name.strip("/").partition("/")
    if not project or not entry or {safe_name(project), safe_name(entry)} != {project, entry}:
        return False
    place = root / layout.QUARANTINE / project / layout.ENTRIES
    return any(path.name.rpartition(".")[0] == entry for path in place.glob(f"{entry}.*"))


def free_place(root: Path, path: Path) -> Path:
    """Return a free place in the quarantine for something of the database."""
    place = root / layout.QUARANTINE / path.relative_to(root)
    number = 1
    while os.path.lexists(to := place.with_name(f"{place.name}.{number}")):
        number += 1
    return to
