"""Repairs of a database: each does one thing under the lock, deletes nothing, and returns in words what it did."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cryoflow.database import layout
from cryoflow.database.data_reader import read_data_text
from cryoflow.database.info import parse_info
from cryoflow.database.micrograph_links import (
    Link,
    ProjectLinks,
    is_link_name,
    link_path,
    links_text,
    read_link,
    read_links,
)
from cryoflow.database.quarantine import free_place
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.storage import files
from cryoflow.storage.safe_names import safe_name
from cryoflow.storage.sealing import sealed


def quarantine(path: Path) -> Callable[[Database], str]:
    """Move something damaged into the quarantine."""

    def repair(database: Database) -> str:
        if not os.path.lexists(path):
            return "quarantined already"
        return f"quarantined in {database.quarantine(path).relative_to(database.root)}"

    return repair


def quarantine_and_rebuild(project: Path, entries: list[Path]) -> Callable[[Database], str]:
    """Move the record of a project's links into the quarantine, and make it again from the entries."""

    def repair(database: Database) -> str:
        database.quarantine(project / layout.MICROGRAPHS_TEXT)
        return "quarantined; " + rebuild_record(database, project, entries)

    return repair


def forget(name: str) -> Callable[[Database], str]:
    """Take a project whose folder is gone off the list of projects."""

    def repair(database: Database) -> str:
        database.records.forget_project(name)
        return "taken off the list"

    return repair


def move_back(project: Path, name: str) -> Callable[[Database], str]:
    """Give a project folder the name that its record has, or put it aside where that is not free."""

    def repair(database: Database) -> str:
        to = database.root / name
        if safe_name(name) == name and not os.path.lexists(to) and name in (database.projects() or {}):
            files.move(project, to, root=database.root)
            return f"renamed to {name}"
        return f"quarantined in {database.quarantine(project).relative_to(database.root)}"

    return repair


def mend(hidden: Path) -> Callable[[Database], str]:
    """Give an entry that a killed writer moved aside its name again, or quarantine it where that is taken."""

    def repair(database: Database) -> str:
        if not hidden.exists():
            return "mended already"
        if hidden.with_name(layout.entry_name(hidden)).exists():
            return f"quarantined in {database.quarantine(hidden).relative_to(database.root)}"
        files.move(hidden, hidden.with_name(layout.entry_name(hidden)), root=database.root)
        return "moved back"

    return repair


def relink(path: Path, target: str) -> Callable[[Database], str]:
    """Make a link to a micrograph as it is recorded."""

    def repair(database: Database) -> str:
        if os.path.lexists(path):
            database.quarantine(path)
        files.link(path, target, root=database.root)
        return "linked again"

    return repair


def mark_again(database: Database, folder: Path) -> str:
    """Mark an entry whose mark was damaged as stale, so that the next ingest looks at its job."""
    path = folder / layout.MARK
    if os.path.lexists(path):
        try:
            damaged = layout.content(path)  # copied, not moved: an entry must not lose its mark on the way
            files.write_atomically(free_place(database.root, path), damaged, root=database.root)
        except BadInput:  # what cannot be read cannot be copied
            database.quarantine(path)
    reason = "its mark was damaged; ingest will look at it again"
    mark = {"format": layout.MARK_VERSION, "status": "stale", "reason": reason}
    files.write_atomically(path, sealed(mark), root=database.root)
    return "quarantined; marked as stale"


def rebuild_record(database: Database, project: Path, entries: list[Path]) -> str:
    """Make micrographs.txt again from the entries and the targets of the links.

    Names that cannot be those of links, in a data.txt that somebody sent, are left out.
    """
    record: ProjectLinks | None = None
    try:
        record = read_links(project)
    except BadInput:
        pass
    links: dict[str, Link] = dict(record.links) if record else {}
    for folder in entries:
        try:
            info = parse_info(folder / layout.INFO, layout.content(folder / layout.INFO).decode())
            text = read_data_text(folder / layout.DATA)
        except (BadInput, OSError, UnicodeDecodeError):
            continue
        record = record or ProjectLinks(Path(info.text("Project Path")), info.text("Project"))
        names = zip(text.links, text.micrographs["name"], strict=True)
        known = {link: Link(name, None) for link, name in names if is_link_name(link)}
        links = {**known, **links}
    if record is None:
        return "no entry says what it should hold"
    for name, link in links.items():
        links[name] = Link(link.name, read_link(link_path(project, name)) or link.target)
    whole = ProjectLinks(record.project, record.title, links)
    files.write_atomically(project / layout.MICROGRAPHS_TEXT, links_text(whole), root=database.root)
    return "made again from the entries"
