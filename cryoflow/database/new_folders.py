"""Which folder a new entry gets: that of its project, and a name that no other entry has."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path, PurePosixPath

from cryoflow.database import layout
from cryoflow.database.entry import DAMAGED, Entry, read_entry
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.entry_manifest import read_manifest
from cryoflow.database.micrograph_links import project_of, read_links
from cryoflow.errors import BadInput
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
    """Return the entry's folder: the one that it has, else one that no other entry has.

    A name that differs by case alone gets a hash, for file systems that ignore case. Tables that share a name get their
    folder into it, or their extension, and where that is not enough, a hash of the path.
    """
    parent = project / layout.ENTRIES
    there = set(os.listdir(parent)) if parent.exists() else set()
    names = [safe_name(who.entry_name)]
    if who.program == "file":
        table = PurePosixPath(who.output_group)
        endings = (*table.parts[:-1][-1:], table.suffix.removeprefix("."), short_hash(who.output_group))
        # In the job, without the `_` that ends it: what is made of an entry has the name of its job.
        jobs = [f"{who.job}-{safe_name(ending).replace('_', '-')}" for ending in endings if ending]
        names += [safe_name(replace(who, job=job).entry_name) for job in jobs]
        names += [safe_name(f"{who.entry_name}-{ending}") for ending in endings[-2:]]  # of earlier versions
    wanted = [*names, *(f"{name}-{short_hash(name, 4)}" for name in names)]
    entries = [name for name in wanted if name in there and layout.is_entry(parent / name)]
    others: set[str] = set()
    for name in entries:
        if who.program != "file":
            return parent / name
        entry = read_entry(parent / name)
        is_of_it = _is_of_table(entry, who)
        if is_of_it:
            return parent / name
        if is_of_it is False:
            others.add(name)
    for name in wanted:
        if name not in others and layout.folded(name) not in {layout.folded(n) for n in there - {name}}:
            return parent / name
    return parent / layout.free_name(wanted, {layout.folded(n) for n in there})


def _is_of_table(entry: Entry, who: Provenance) -> bool | None:
    """Return whether an entry was read from the table of `who`; None for a damaged one that names no table.

    Earlier versions named a table without its folder: where both name the file that they were read from, it decides.
    """
    try:
        sources = read_manifest(entry.folder / MANIFEST).sources
    except (OSError, BadInput):
        sources = ()
    name = PurePosixPath(who.output_group).name
    before, now = ({s.path for s in files if s.path.name == name} for files in (sources, who.sources))
    if before and now:
        return bool(before & now)
    return None if entry.status == DAMAGED and not entry.output_group else entry.output_group == who.output_group


def _is_called(project: Path, name: str) -> bool:
    """Return whether a project's folder is that of this name; lone tables of one folder may go under several."""
    record = read_links(project)
    return record is None or record.title == name
