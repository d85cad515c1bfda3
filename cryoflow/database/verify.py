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
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryoflow.database import layout
from cryoflow.database.data_reader import is_data_text, read_data_text
from cryoflow.database.entry import check_formats
from cryoflow.database.info import parse_info
from cryoflow.database.links import (
    Link,
    ProjectLinks,
    is_link_name,
    link_path,
    links_text,
    project_of,
    read_link,
    read_links,
)
from cryoflow.database.lock import NAME as LOCK
from cryoflow.database.lock import is_abandoned as is_abandoned_lock
from cryoflow.database.manifest import NAME as MANIFEST
from cryoflow.database.manifest import read_manifest
from cryoflow.database.record import ProjectRecord, State, read_record, state_of
from cryoflow.database.store import Database
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.storage import files, stale_files
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.safe_names import safe_name
from cryoflow.storage.sealing import sealed, unsealed

Severity = Literal["damage", "leftover", "notice"]


@dataclass(frozen=True)
class Finding:
    """One thing that verify found.

    `damage` is a file that is not what was written; `leftover` is what a killed writer left, which the next writer
    removes; `notice` is worth knowing and no fault of the database (a micrograph that is gone).
    """

    severity: Severity
    path: Path
    what: str
    repaired: str = ""
    """What repair did, empty where nothing was done."""


@dataclass(frozen=True)
class _Broken:
    """A finding, and what repairs it (which says what it did)."""

    finding: Finding
    repair: Callable[[Database], str] | None = None
    reseal: Path | None = None
    """The project folder whose list of entries is written anew after the repair."""


def verify(root: str | Path | Database, *, repair: bool = False) -> list[Finding]:
    """Everything in a database that is not as it was written; an empty list, or notices alone, where all is well.

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
            database.reseal(project)
    return found


def _opened(root: Path, marker: list[_Broken], repair: bool) -> Database:
    """The database, also where its marker is damaged (which `Database` refuses)."""
    if not marker:
        return Database(root)
    database = Database(root, check=False)
    if repair and (root / layout.MARKER).exists():
        # The lock's owner writes a new marker where there is none.
        database.quarantine(root / layout.MARKER)
    return database


def _marker(root: Path) -> Iterator[_Broken]:
    path = root / layout.MARKER
    try:
        unsealed(path, layout.content(path), layout.VERSION)
    except FileNotFoundError:
        if any((f / MANIFEST).exists() for f in layout.entry_folders(root)):
            finding = Finding("damage", path, "the marker of the database is missing")
            yield _Broken(finding, lambda _: "written again")
    except NewerFormat:
        raise
    except BadInput as error:
        yield _Broken(Finding("damage", path, error.reason), lambda _: "quarantined and written again")


def _everything(database: Database) -> Iterator[_Broken]:
    root = database.root
    expected = {layout.MARKER, layout.JOBS, layout.QUARANTINE, layout.REVIEWS, LOCK}
    yield from _strangers(root, expected, folders=True)
    for path in sorted((root / layout.JOBS).glob("*.json")):
        yield from _sealed_file(path)
    try:
        projects = database.projects()
    except NewerFormat:
        raise
    except BadInput:
        projects = None  # told already
    if projects is None and any((f / MANIFEST).exists() for f in layout.entry_folders(root)):
        what = "of format 1, without lists of entries; the next write adds them"
        yield _Broken(Finding("notice", root / layout.MARKER, what))
    for folder in layout.project_folders(root):
        yield from _project(database, folder, projects)
    for name in sorted(set(projects or {}) - {f.name for f in layout.project_folders(root)}):
        if name in (database.projects() or {}) and (safe_name(name) != name or not (root / name).is_dir()):
            what = f"the project {name!r} is in the list of projects, and its folder is gone"
            yield _Broken(Finding("damage", root / layout.MARKER, what), _forget(name))


def _project(database: Database, project: Path, projects: dict[str, str] | None) -> Iterator[_Broken]:
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
    yield from _strangers(project, {layout.MICROGRAPHS_TEXT, layout.LINKS, layout.ENTRIES, layout.RECORD})
    entries = list(layout.entry_folders_of(project))
    ours = any((f / MANIFEST).exists() for f in entries)
    links: ProjectLinks | None = None
    try:
        links = read_links(project)
        if links is None and ours:
            finding = Finding("damage", project / layout.MICROGRAPHS_TEXT, "the record of the links is missing")
            yield _Broken(finding, lambda db: _rebuild_record(db, project, entries))
        elif links is not None and record is not None and str(links.project) != record.project:
            what = f"it is of the project {links.project}; this folder is of {record.project}"
            yield _Broken(
                Finding("damage", project / layout.MICROGRAPHS_TEXT, what), _quarantine_and_rebuild(project, entries)
            )
            links = None
    except NewerFormat:
        raise
    except BadInput as error:
        yield _Broken(Finding("damage", error.path, error.reason), _quarantine_and_rebuild(project, entries))
    if links is not None:
        yield from _links(project, links)
    yield from _strangers(project / layout.ENTRIES, {f.name for f in entries})
    for folder in entries:
        yield from _entry(folder, links)
    if record is not None:
        yield from _states(project)


def _record(database: Database, project: Path) -> Iterator[_Broken]:
    """Check that a project's folder is the one that the marker and its own list of entries name."""
    path = project / layout.RECORD
    for attempt in range(_ATTEMPTS):
        projects = database.projects() or {}
        try:
            record = read_record(project)
        except NewerFormat:
            raise
        except BadInput as error:
            yield _Broken(Finding("damage", error.path, error.reason), _quarantine(path), project)
            return
        listed = projects.get(project.name)
        if record is None and listed is None and next(layout.entry_folders_of(project), None) is None:
            return  # a folder of somebody else, or one that a writer has just made
        if record is not None and record.folder == project.name and (listed == record.project or record.pending):
            if record.pending and attempt == _ATTEMPTS - 1 and not os.path.lexists(database.root / LOCK):
                what = "a writer that was killed had announced a change of an entry"
                yield _Broken(Finding("leftover", path, what))
            if not record.pending:
                return
        time.sleep(0.02)  # a writer may be between two steps
    if record is None:
        yield _Broken(Finding("damage", path, "the list of entries is missing"), lambda _: "made again", project)
    elif record.folder != project.name and listed is not None and listed == str(project_of(project)):
        what = f"the list of entries is that of {record.folder}"
        yield _Broken(Finding("damage", path, what), _quarantine(path), project)
    elif record.folder != project.name:
        what = f"this folder was {record.folder}: it was renamed, copied or exchanged"
        yield _Broken(Finding("damage", project, what), _move_back(project, record.folder))
    elif listed != record.project and not record.pending:
        what = "the project is not in the list of projects" if listed is None else f"the list of projects has {listed}"
        yield _Broken(Finding("damage", project, what), lambda _: "listed again", project)


_ATTEMPTS = 5


def _states(project: Path) -> Iterator[_Broken]:
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


def _difference_from(recorded: State | None, found: State | None, folder: Path, project: Path) -> _Broken:
    if found is None:
        what = "the entry is in the project's list of entries, and it is gone"
        return _Broken(Finding("damage", folder, what), lambda _: "taken off the list", project)
    if recorded is None:
        what = "the entry is not in the project's list of entries: it was copied here, or its job was written elsewhere"
        return _Broken(Finding("damage", folder, what), _quarantine(folder), project)
    if found.files != recorded.files:
        what = "the entry is not the one in the project's list of entries: it was exchanged or copied"
        return _Broken(Finding("damage", folder, what), _quarantine(folder), project)
    if recorded.mark is None:
        what = "a mark that cryoflow did not put on this entry"
        return _Broken(Finding("damage", folder / layout.MARK, what), _quarantine(folder / layout.MARK), project)
    what = "its mark is missing" if found.mark is None else "its mark is not the recorded one"
    return _Broken(Finding("damage", folder / layout.MARK, what), lambda db: _mark_again(db, folder), project)


def _links(project: Path, record: ProjectLinks) -> Iterator[_Broken]:
    folder = project / layout.LINKS
    gone = 0
    for name, link in sorted(record.links.items()):
        if link.target is None:
            continue
        path = folder / name
        target = read_link(path)
        if target != link.target:
            what = f"points to {target!r}, recorded is {link.target!r}" if target else "the link is missing"
            yield _Broken(Finding("damage", path, what), lambda db, path=path, to=link.target: _relink(db, path, to))  # type: ignore[misc]
        elif not path.exists():
            gone += 1
    if gone:
        what = f"{gone} of {len(record.links)} links lead nowhere: their micrographs were moved or deleted"
        yield _Broken(Finding("notice", folder, what))
    yield from _strangers(folder, set(record.links))


def _entry(folder: Path, record: ProjectLinks | None) -> Iterator[_Broken]:
    quarantine = _quarantine(folder)
    project = folder.parent.parent
    if folder.name.startswith("."):
        yield _Broken(Finding("leftover", folder, "moved aside by a writer that was killed"), _mend(folder))
    if not (folder / MANIFEST).exists():
        if _is_older(folder):
            yield _Broken(Finding("notice", folder, "written by the older scripts: there are no checksums to compare"))
        else:
            yield _Broken(Finding("damage", folder / MANIFEST, "the manifest is missing"), quarantine, project)
        return
    try:
        manifest = read_manifest(folder / MANIFEST)
    except NewerFormat:
        raise
    except BadInput as error:
        yield _Broken(Finding("damage", error.path, error.reason), quarantine, project)
        return
    if manifest.entry != layout.entry_name(folder):
        what = f"the folder holds the entry {manifest.entry}: it was renamed"
        yield _Broken(Finding("damage", folder, what), quarantine, project)
    sound = True
    for name, (size, mark) in sorted(manifest.sums.items()):
        if what := _difference(folder, name, size, mark):
            sound = False
            yield _Broken(Finding("damage", folder / name, what), quarantine, project)
    if sound:
        check_formats(folder)
    if sound and record is not None:
        unknown = [link for link in read_data_text(folder / layout.DATA).links if link not in record.links]
        if unknown:
            what = f"{len(unknown)} of its micrographs are not in the record of links, {unknown[0]!r} first"
            yield _Broken(
                Finding("damage", folder / layout.DATA, what), lambda db: _rebuild_record(db, project, [folder])
            )
    if os.path.lexists(folder / layout.MARK):
        for broken in _sealed_file(folder / layout.MARK):
            yield _Broken(broken.finding, lambda db: _mark_again(db, folder), project)
    yield from _strangers(folder, {MANIFEST, layout.MARK, *manifest.sums})


def _is_older(folder: Path) -> bool:
    """Whether the older scripts wrote an entry: neither of its files starts as ours do."""
    info, data = folder / layout.INFO, folder / layout.DATA
    try:
        return not (info.exists() and layout.content(info)[:15] == b"cryoflow entry ") and not (
            data.exists() and is_data_text(data)
        )
    except (BadInput, OSError):
        return False  # what cannot be read is not said to be sound


def _difference(folder: Path, name: str, size: int, mark: str) -> str:
    """How a file differs from what its manifest records, "" if it does not."""
    if safe_name(name) != name:
        return "the manifest names a file outside the entry, or one that no disk can hold"
    path = folder / name
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes, recorded are {size}"
        return "" if checksum(path) == mark else "its checksum is not the recorded one"
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _sealed_file(path: Path) -> Iterator[_Broken]:
    try:
        unsealed(path, layout.content(path), layout.MARK_VERSION)
    except FileNotFoundError:
        return  # removed meanwhile
    except NewerFormat:
        raise
    except BadInput as error:
        yield _Broken(Finding("damage", path, error.reason), _quarantine(path))


def _strangers(folder: Path, expected: set[str], *, folders: bool = False) -> Iterator[_Broken]:
    """What lies in a folder and was not put there by a finished write; `folders` may have any (visible) name."""
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        path = folder / name
        if name in expected or (folders and path.is_dir() and not name.startswith(".")):
            continue
        if stale_files.is_unfinished(name):
            if stale_files.is_abandoned(path):
                yield _Broken(Finding("leftover", path, "left by a writer that was killed"), _quarantine(path))
        elif name.startswith(".") and name.endswith(stale_files.ASIDE):
            yield _Broken(Finding("leftover", path, "moved aside by a writer that was killed"), _mend(path))
        elif is_abandoned_lock(path):
            yield _Broken(Finding("leftover", path, "left by a writer that was killed"), _quarantine(path))
        elif not name.startswith(LOCK):
            yield _Broken(Finding("notice", path, "not made by cryoflow, or by a write that was killed"))


def _quarantine(path: Path) -> Callable[[Database], str]:
    def quarantine(database: Database) -> str:
        if not os.path.lexists(path):
            return "quarantined already"
        return f"quarantined in {database.quarantine(path).relative_to(database.root)}"

    return quarantine


def _quarantine_and_rebuild(project: Path, entries: list[Path]) -> Callable[[Database], str]:
    def quarantine_and_rebuild(database: Database) -> str:
        database.quarantine(project / layout.MICROGRAPHS_TEXT)
        return "quarantined; " + _rebuild_record(database, project, entries)

    return quarantine_and_rebuild


def _forget(name: str) -> Callable[[Database], str]:
    def forget(database: Database) -> str:
        database.forget_project(name)
        return "taken off the list"

    return forget


def _move_back(project: Path, name: str) -> Callable[[Database], str]:
    """Give a project folder the name that its record has, or put it aside where that is not free."""

    def move_back(database: Database) -> str:
        to = database.root / name
        if safe_name(name) == name and not os.path.lexists(to) and name in (database.projects() or {}):
            files.move(project, to, root=database.root)
            return f"renamed to {name}"
        return f"quarantined in {database.quarantine(project).relative_to(database.root)}"

    return move_back


def _mend(hidden: Path) -> Callable[[Database], str]:
    def mend(database: Database) -> str:
        if not hidden.exists():
            return "mended already"
        if hidden.with_name(layout.entry_name(hidden)).exists():
            return f"quarantined in {database.quarantine(hidden).relative_to(database.root)}"
        files.move(hidden, hidden.with_name(layout.entry_name(hidden)), root=database.root)
        return "moved back"

    return mend


def _relink(database: Database, path: Path, target: str) -> str:
    if os.path.lexists(path):
        database.quarantine(path)
    files.link(path, target, root=database.root)
    return "linked again"


def _mark_again(database: Database, folder: Path) -> str:
    path = folder / layout.MARK
    if os.path.lexists(path):
        try:
            damaged = layout.content(path)  # copied, not moved: an entry must not lose its mark on the way
            files.write_atomically(database.quarantine_place(path), damaged, root=database.root)
        except BadInput:  # what cannot be read cannot be copied
            database.quarantine(path)
    reason = "its mark was damaged; ingest will look at it again"
    mark = {"format": layout.MARK_VERSION, "status": "stale", "reason": reason}
    files.write_atomically(path, sealed(mark), root=database.root)
    return "quarantined; marked as stale"


def _rebuild_record(database: Database, project: Path, entries: list[Path]) -> str:
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
