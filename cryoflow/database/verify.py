"""Checking a database against its checksums, and putting aside what is damaged.

What is checked: the marker; each project's record of links and the links themselves; each entry's files against its
manifest, the manifest against its own checksum, the folder's name, marks; that data.txt names recorded links only; the
memory of ingest; what killed writers left. A database of the older scripts has no checksums: that is said, not hidden.

Repair moves damaged things into `.quarantine/` and deletes nothing. What can be made again is: links from their record,
the record from the entries. An entry that was put aside is read again by the next ingest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryoflow.database import layout
from cryoflow.database.data_reader import is_data_text, read_data_text
from cryoflow.database.info import parse_info
from cryoflow.database.links import Link, ProjectLinks, links_text, read_link, read_links
from cryoflow.database.lock import NAME as LOCK
from cryoflow.database.manifest import NAME as MANIFEST
from cryoflow.database.manifest import read_manifest
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.storage import files, stale_files
from cryoflow.storage.fingerprints import checksum
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
    with database.writing() if repair else nullcontext():
        for broken in (*marker, *_everything(root)):
            done = broken.repair(database) if repair and broken.repair else ""
            found.append(Finding(broken.finding.severity, broken.finding.path, broken.finding.what, done))
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
    except BadInput as error:
        if "newer" in error.reason:
            raise
        yield _Broken(Finding("damage", path, error.reason), lambda _: "put aside and written again")


def _everything(root: Path) -> Iterator[_Broken]:
    yield from _strangers(root, {layout.MARKER, layout.JOBS, layout.QUARANTINE, layout.REVIEWS, LOCK}, folders=True)
    for path in sorted((root / layout.JOBS).glob("*.json")):
        yield from _sealed_file(path)
    for project in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        yield from _project(project)


def _project(project: Path) -> Iterator[_Broken]:
    expected = {layout.MICROGRAPHS_TEXT, layout.LINKS, layout.ENTRIES}
    yield from _strangers(project, expected)
    entries = [f for f in layout.entry_folders(project.parent) if f.parent.parent == project]
    ours = any((f / MANIFEST).exists() for f in entries)
    record: ProjectLinks | None = None
    try:
        record = read_links(project)
        if record is None and ours:
            finding = Finding("damage", project / layout.MICROGRAPHS_TEXT, "the record of the links is missing")
            yield _Broken(finding, lambda _: _rebuild_record(project, entries))
    except BadInput as error:
        if "newer" in error.reason:
            raise

        def put_aside_and_rebuild(database: Database) -> str:
            database.quarantine(project / layout.MICROGRAPHS_TEXT)
            return "put aside; " + _rebuild_record(project, entries)

        yield _Broken(Finding("damage", error.path, error.reason), put_aside_and_rebuild)
    if record is not None:
        yield from _links(project, record)
    yield from _strangers(project / layout.ENTRIES, {f.name for f in entries})
    for folder in entries:
        yield from _entry(folder, record)


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
    put_aside = _put_aside(folder)
    if folder.name.startswith("."):
        yield _Broken(Finding("leftover", folder, "moved aside by a writer that was killed"), _mend(folder))
    if not (folder / MANIFEST).exists():
        if _is_older(folder):
            yield _Broken(Finding("notice", folder, "written by the older scripts: there are no checksums to compare"))
        else:
            yield _Broken(Finding("damage", folder / MANIFEST, "the manifest is missing"), put_aside)
        return
    try:
        manifest = read_manifest(folder / MANIFEST)
    except BadInput as error:
        if "newer" in error.reason:
            raise
        yield _Broken(Finding("damage", error.path, error.reason), put_aside)
        return
    if manifest.entry != layout.entry_name(folder):
        what = f"the folder holds the entry {manifest.entry}: it was renamed"
        yield _Broken(Finding("damage", folder, what), put_aside)
    sound = True
    for name, (size, mark) in sorted(manifest.sums.items()):
        if what := _difference(folder / name, size, mark):
            sound = False
            yield _Broken(Finding("damage", folder / name, what), put_aside)
    if sound and record is not None:
        unknown = [link for link in read_data_text(folder / layout.DATA).links if link not in record.links]
        if unknown:
            what = f"{len(unknown)} of its micrographs are not in the record of links, {unknown[0]!r} first"
            yield _Broken(
                Finding("damage", folder / layout.DATA, what), lambda _: _rebuild_record(folder.parent.parent, [folder])
            )
    if (folder / layout.MARK).exists():
        for broken in _sealed_file(folder / layout.MARK):
            yield _Broken(broken.finding, lambda db: _mark_again(db, folder))
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


def _difference(path: Path, size: int, mark: str) -> str:
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
        unsealed(path, layout.content(path), layout.VERSION)
    except BadInput as error:
        if "newer" in error.reason:
            raise
        yield _Broken(Finding("damage", path, error.reason), _put_aside(path))


def _strangers(folder: Path, expected: set[str], *, folders: bool = False) -> Iterator[_Broken]:
    """What lies in a folder and was not put there by a finished write; `folders` may have any (visible) name."""
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        path = folder / name
        if name in expected or (folders and path.is_dir() and not name.startswith(".")):
            continue
        if stale_files.is_unfinished(name):
            if stale_files.is_abandoned(path):
                yield _Broken(Finding("leftover", path, "left by a writer that was killed"), _put_aside(path))
        elif name.startswith(".") and name.endswith(files.ASIDE):
            yield _Broken(Finding("leftover", path, "moved aside by a writer that was killed"), _mend(path))
        elif not name.startswith(LOCK):
            yield _Broken(Finding("notice", path, "not made by cryoflow, or by a write that was killed"))


def _put_aside(path: Path) -> Callable[[Database], str]:
    def put_aside(database: Database) -> str:
        if not os.path.lexists(path):
            return "put aside already"
        return f"put aside to {database.quarantine(path).relative_to(database.root)}"

    return put_aside


def _mend(hidden: Path) -> Callable[[Database], str]:
    def mend(database: Database) -> str:
        if not hidden.exists():
            return "mended already"
        if hidden.with_name(layout.entry_name(hidden)).exists():
            return f"put aside to {database.quarantine(hidden).relative_to(database.root)}"
        files.move(hidden, hidden.with_name(layout.entry_name(hidden)))
        return "moved back"

    return mend


def _relink(database: Database, path: Path, target: str) -> str:
    if os.path.lexists(path):
        database.quarantine(path)
    files.link(path, target)
    return "linked again"


def _mark_again(database: Database, folder: Path) -> str:
    try:
        damaged = layout.content(folder / layout.MARK)  # copied, not moved: an entry must not lose its mark on the way
        files.write_atomically(database.quarantine_place(folder / layout.MARK), damaged)
    except BadInput:  # what cannot be read cannot be copied
        database.quarantine(folder / layout.MARK)
    mark = {"format": layout.VERSION, "status": "stale", "reason": "its mark was damaged; ingest will look at it again"}
    files.write_atomically(folder / layout.MARK, sealed(mark))
    return "put aside; marked as stale"


def _rebuild_record(project: Path, entries: list[Path]) -> str:
    """Make micrographs.txt again from what the entries say and the links point to."""
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
        known = {link: Link(name, None) for link, name in zip(text.links, text.micrographs["name"], strict=True)}
        links = {**known, **links}
    if record is None:
        return "no entry says what it should hold"
    for name, link in links.items():
        links[name] = Link(link.name, read_link(project / layout.LINKS / name) or link.target)
    whole = ProjectLinks(record.project, record.title, links)
    files.write_atomically(project / layout.MICROGRAPHS_TEXT, links_text(whole))
    return "made again from the entries"
