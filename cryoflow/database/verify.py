"""Check a database against its checksums, and quarantine what is damaged.

Checked are: the marker and its list of projects; each project's list of entries, and each entry against it; each
project's record of links and the links themselves; each entry's files against its manifest, the manifest against its
own checksum, the folder's name, marks; that data.txt names recorded links only; the state of ingest; what killed
writers left. A database of the older scripts has no checksums, and one of format 1 no lists: a notice says so.

Repair moves damaged files into `.quarantine/` and deletes nothing. It makes links again from their record, and the
record from the entries. The next ingest reads the jobs of the entries that were quarantined.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

from cryoflow.database import layout, repairs
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.findings import Broken, Finding
from cryoflow.database.lock import NAME as LOCK
from cryoflow.database.micrograph_links import ProjectLinks, project_of, read_links
from cryoflow.database.record import ProjectRecord, State, read_record, state_of
from cryoflow.database.store import Database
from cryoflow.database.verify_entry import Shapes, check_entry, check_links, check_sealed, check_strangers
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.storage.sealing import unsealed


def verify(root: str | Path | Database, *, repair: bool = False) -> list[Finding]:
    """Return everything in a database that is not as it was written; an empty list, or notices alone, where all is
    well.

    Raises
    ------
    BadInput
        Where there is no database, or a newer cryoflow made it.
    DatabaseBusy, NotWritten
        Where it is to be repaired and cannot be written.
    """
    root = root.root if isinstance(root, Database) else Path(os.path.abspath(root))  # noqa: PTH100
    if not root.is_dir():
        raise BadInput(root, "there is no database here.")
    found: list[Finding] = []
    marker = list(_marker(root))
    database = _opened(root, marker, repair)
    if not marker and not database.exists:
        raise BadInput(root, "there is no database here.")
    reseal: dict[Path, None] = {}
    with database.writing() if repair else nullcontext():
        for broken in itertools.chain(marker, _everything(database)):
            done = broken.repair(database) if repair and broken.repair else ""
            found.append(Finding(broken.finding.severity, broken.finding.path, broken.finding.what, done))
            if done and broken.reseal:
                reseal[broken.reseal] = None
        for project in reseal:
            database.records.reseal(project)
    return found


def _opened(root: Path, marker: list[Broken], repair: bool) -> Database:
    """Return the database, also where its marker is damaged (which `Database` refuses)."""
    if not marker:
        return Database(root)
    database = Database(root, check=False)
    if repair and (root / layout.MARKER).exists():
        # The lock's owner writes a new marker where there is none.
        database.quarantine(root / layout.MARKER)
    return database


def _marker(root: Path) -> Iterator[Broken]:
    path = root / layout.MARKER
    try:
        unsealed(path, layout.content(path), layout.VERSION)
    except FileNotFoundError:
        if any((f / MANIFEST).exists() for f in layout.entry_folders(root)):
            finding = Finding("damage", path, "the marker of the database is missing")
            yield Broken(finding, lambda _: "written again")
    except NewerFormat:
        raise
    except BadInput as error:
        yield Broken(Finding("damage", path, error.reason), lambda _: "quarantined and written again")


def _everything(database: Database) -> Iterator[Broken]:
    root = database.root
    expected = {layout.MARKER, layout.JOBS, layout.QUARANTINE, layout.REVIEWS, LOCK}
    yield from check_strangers(root, expected, folders=True)
    for path in sorted((root / layout.JOBS).glob("*.json")):
        yield from check_sealed(path)
    try:
        projects = database.projects()
    except NewerFormat:
        raise
    except BadInput:
        projects = None  # told already
    if projects is None and any((f / MANIFEST).exists() for f in layout.entry_folders(root)):
        what = "of format 1, without lists of entries; the next write adds them"
        yield Broken(Finding("notice", root / layout.MARKER, what))
    for folder in layout.project_folders(root):
        yield from _project(database, folder, projects)
    for name in sorted(set(projects or {}) - {f.name for f in layout.project_folders(root)}):
        if name in (database.projects() or {}):  # not taken off the list meanwhile
            what = f"the project {name!r} is in the list of projects, and its folder is gone"
            yield Broken(Finding("damage", root / layout.MARKER, what), repairs.forget(name))


def _project(database: Database, project: Path, projects: dict[str, str] | None) -> Iterator[Broken]:
    record: ProjectRecord | None = None
    if projects is not None:
        whole = True
        for broken in _record(database, project):
            whole = False
            yield broken
        if not whole and not project.is_dir():
            return  # repair moved it
        with suppress(BadInput):
            record = read_record(project)
    yield from check_strangers(project, {layout.MICROGRAPHS_TEXT, layout.LINKS, layout.ENTRIES, layout.RECORD})
    entries = list(layout.entry_folders_of(project))
    ours = any((f / MANIFEST).exists() for f in entries)
    links: ProjectLinks | None = None
    try:
        links = read_links(project)
        if links is None and ours:
            finding = Finding("damage", project / layout.MICROGRAPHS_TEXT, "the record of the links is missing")
            yield Broken(finding, lambda db: repairs.rebuild_record(db, project, entries))
        elif links is not None and record is not None and str(links.project) != record.project:
            what = f"it is of the project {links.project}; this folder is of {record.project}"
            yield Broken(
                Finding("damage", project / layout.MICROGRAPHS_TEXT, what),
                repairs.quarantine_and_rebuild(project, entries),
            )
            links = None
    except NewerFormat:
        raise
    except BadInput as error:
        yield Broken(Finding("damage", error.path, error.reason), repairs.quarantine_and_rebuild(project, entries))
    if links is not None:
        yield from check_links(project, links)
    yield from check_strangers(project / layout.ENTRIES, {f.name for f in entries})
    shapes: Shapes = {}
    for folder in entries:
        yield from check_entry(folder, links, shapes)
    if record is not None:
        yield from _states(project)


def _record(database: Database, project: Path) -> Iterator[Broken]:
    """Check that a project's folder is the one that the marker and its own list of entries name."""
    path = project / layout.RECORD
    for attempt in range(_ATTEMPTS):
        projects = database.projects() or {}
        try:
            record = read_record(project)
        except NewerFormat:
            raise
        except BadInput as error:
            yield Broken(Finding("damage", error.path, error.reason), repairs.quarantine(path), project)
            return
        listed = projects.get(project.name)
        if record is None and listed is None and next(layout.entry_folders_of(project), None) is None:
            return  # a folder of somebody else, or one that a writer has just made
        if record is not None and record.folder == project.name and (listed == record.project or record.pending):
            if record.pending and attempt == _ATTEMPTS - 1 and not os.path.lexists(database.root / LOCK):
                what = "a writer that was killed had announced a change of an entry"
                yield Broken(Finding("leftover", path, what))
            if not record.pending:
                return
        time.sleep(0.02)  # a writer may be between two steps
    if record is None:
        yield Broken(Finding("damage", path, "the list of entries is missing"), lambda _: "made again", project)
    elif record.folder != project.name and listed is not None and listed == str(project_of(project)):
        what = f"the list of entries is that of {record.folder}"
        yield Broken(Finding("damage", path, what), repairs.quarantine(path), project)
    elif record.folder != project.name:
        what = f"this folder was {record.folder}: it was renamed, copied or exchanged"
        yield Broken(Finding("damage", project, what), repairs.move_back(project, record.folder))
    elif listed != record.project and not record.pending:
        what = "the project is not in the list of projects" if listed is None else f"the list of projects has {listed}"
        yield Broken(Finding("damage", project, what), lambda _: "listed again", project)


_ATTEMPTS = 5


def _states(project: Path) -> Iterator[Broken]:
    """Check each entry's manifest and mark against the project's list of entries."""
    record = read_record(project)
    names = {layout.entry_name(f) for f in layout.entry_folders_of(project)} | set(record.entries if record else ())
    for name in sorted(names, key=layout.natural):
        folder = project / layout.ENTRIES / name
        for _ in range(_ATTEMPTS):
            try:
                found = state_of(folder)
                record = read_record(project)  # after the state: a writer announces a change before it makes it
            except BadInput:
                break  # what cannot be read is told already
            if record is None or record.allows(name, found):
                break
            time.sleep(0.02)
        else:
            recorded = record.entries.get(name) if record else None
            yield _difference_from(recorded, found, folder, project)


def _difference_from(recorded: State | None, found: State | None, folder: Path, project: Path) -> Broken:
    if found is None:
        what = "the entry is in the project's list of entries, and it is gone"
        return Broken(Finding("damage", folder, what), lambda _: "taken off the list", project)
    if recorded is None:
        what = "the entry is not in the project's list of entries: it was copied here, or its job was written elsewhere"
        return Broken(Finding("damage", folder, what), repairs.quarantine(folder), project)
    if found.files != recorded.files:
        what = "the entry is not the one in the project's list of entries: it was exchanged or copied"
        return Broken(Finding("damage", folder, what), repairs.quarantine(folder), project)
    if recorded.mark is None:
        what = "a mark that cryoflow did not put on this entry"
        return Broken(Finding("damage", folder / layout.MARK, what), repairs.quarantine(folder / layout.MARK), project)
    what = "its mark is missing" if found.mark is None else "its mark is not the recorded one"
    return Broken(Finding("damage", folder / layout.MARK, what), lambda db: repairs.mark_again(db, folder), project)
