"""Which folder a new entry gets: that of its project, and a name that no other entry has."""

from __future__ import annotations

import os
from pathlib import Path

from cryoflow.database import layout
from cryoflow.database.entry import DAMAGED, read_entry
from cryoflow.database.micrograph_links import project_of, read_links
from cryoflow.picks import Provenance
from cryoflow.storage.safe_names import safe_name, short_hash


def folder_of_project(root: Path, who: Provenance) -> Path:
    """Return the project's folder: its own if it has one, else one of a name that is free."""
    taken: set[str] = set()
    names = layout.project_names(who.project_name, who.project)
    for name in os.listdir(root):
        folder = root / name
        if not name.startswith(".") and folder.is_dir():
            if project_of(folder) == who.project and (who.program != "file" or _is_called(folder, who.project_name)):
                return folder
            if name in names and project_of(folder) is None:
                read_links(folder)  # a damaged record may be this project's: say so
                if all(n.startswith(".") for n in os.listdir(folder)):
                    continue  # a killed writer had just made it
        taken.add(layout.folded(name))
    return root / layout.free_name(names, taken)


def folder_of_entry(project: Path, who: Provenance) -> Path:
    """Return the entry's folder; a name that differs by case alone gets a hash, for file systems that ignore case.

    Of two tables that differ by their extension alone, the second gets it into its name.
    """
    parent = project / layout.ENTRIES
    name = safe_name(who.entry_name)
    if who.program == "file" and layout.is_entry(parent / name):
        other = read_entry(parent / name)
        if other.status != DAMAGED and other.output_group != who.output_group:
            name = safe_name(f"{who.entry_name}-{Path(who.output_group).suffix.removeprefix('.')}")
    others = {layout.folded(n) for n in (os.listdir(parent) if parent.exists() else []) if n != name}
    return parent / layout.free_name([name, f"{name}-{short_hash(name, 4)}"], others)


def _is_called(project: Path, name: str) -> bool:
    """Return whether a project's folder is that of this name; lone tables of one folder may go under several."""
    record = read_links(project)
    return record is None or record.title == name
