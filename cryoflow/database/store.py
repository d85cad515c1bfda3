"""The text database: add entries, list them, load them, mark them.

Order of a write, under the database's lock: a new project's record (`micrographs.txt`, which claims the folder), links
of micrographs, the record of them, then the entry's folder, filled beside its place and renamed into it. That rename is
the commit. A crash before it leaves links that nothing refers to yet, and a hidden folder that the next writer removes;
the old entry stays whole.

Each change of an entry is announced in the project's `entries.json` first, and confirmed there when the writer's turn
ends (`record.py`). The folders are the index: readers list them, and only `verify` compares them with the record.

Every write goes through `cryoflow.storage.files` with the database's folder as `root`, since names in a database that
somebody sent may try to lead out of it.
"""

from __future__ import annotations

import difflib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import cryoflow
from cryoflow.database import layout
from cryoflow.database.data_text import data_text
from cryoflow.database.entry import DAMAGED, Entry, check_formats, load_entry, read_entry
from cryoflow.database.info import OrientationRecord, info_text
from cryoflow.database.links import ProjectLinks, project_of, read_links, with_micrographs, write_links
from cryoflow.database.lock import Owner, locked, unlock
from cryoflow.database.manifest import NAME as MANIFEST
from cryoflow.database.manifest import Manifest, manifest_text
from cryoflow.database.record import ProjectRecord, State, files_of, read_record, record_text, state_of
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.picks import PickSet, Provenance
from cryoflow.storage import files, folders, inputs, stale_files
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.parsing import validated
from cryoflow.storage.safe_names import inside, safe_name, short_hash
from cryoflow.storage.sealing import REPAIR_HINT, sealed, unsealed

T = TypeVar("T")


class Database:
    """A folder of entries. Nothing is written until the first `add`.

    Parameters
    ----------
    root
        The database's folder; may not be there yet.
    lock_timeout_s
        How long a write waits for another process's.
    check
        Whether to look at the marker of the database; `verify` looks itself.

    Raises
    ------
    BadInput
        Where `root` is no folder, or a newer cryoflow made the database.
    """

    def __init__(self, root: str | Path, *, lock_timeout_s: float = 600.0, check: bool = True) -> None:
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 does not follow links, as Path.resolve would
        self.lock_timeout_s = lock_timeout_s
        self._threads = threading.RLock()
        self._depth = 0
        self._changed: dict[Path, ProjectRecord] = {}
        self._is_settled = False
        if not check:
            return
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(self.root, "a database is a folder, and this is none.")
        if os.path.lexists(self.root / layout.MARKER):
            self._read_marker()

    def __reduce__(self) -> tuple[Callable[[Path], Database], tuple[Path]]:  # crosses process pools without its lock
        return Database, (self.root,)

    def __getitem__(self, name: str) -> PickSet:
        """Return the picks of an entry, `PROJECT/KIND_JOB`."""
        return self.load(name)

    def __iter__(self) -> Iterator[Entry]:
        """Iterate over the entries, in order of name."""
        return iter(self.entries())

    def __repr__(self) -> str:
        entries = self.entries() if self.exists else []
        projects = {entry.project for entry in entries}
        return f"<Database {self.root}: {len(entries)} entries of {len(projects)} projects>"

    @property
    def exists(self) -> bool:
        """Whether there is a database, ours or the older scripts'."""
        return (self.root / layout.MARKER).exists() or next(layout.entry_folders(self.root), None) is not None

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the database's lock, make the database where there is none, and mend what a killed writer left.

        Writes within the block are one turn: they wait for other processes once.

        Raises
        ------
        BadInput
            Where the folder holds other things.
        DatabaseBusy, NotWritten
            Where another writes, or the folder cannot be written.
        """
        with self._threads:
            if self._depth:
                yield
                return
            folders.make_folder(self.root)
            with locked(self.root, timeout_s=self.lock_timeout_s) as taken_over:
                self._depth = 1
                try:
                    self._prepare(taken_over)
                    try:
                        yield
                    finally:
                        self._confirm()
                finally:
                    self._depth = 0

    def unlock(self, *, force: bool = False) -> Owner | None:
        """Remove a dead owner's lock and mend what it left; who held it, None where nobody did. See `lock.unlock`."""
        owner = unlock(self.root, force=force)
        if owner is not None:
            with self.writing():
                self._mend()
        return owner

    def _prepare(self, taken_over: bool) -> None:
        """Make the marker where there is none, and finish what a killed writer left."""
        marker = self.root / layout.MARKER
        is_new = not os.path.lexists(marker)
        if is_new:
            others = [n for n in os.listdir(self.root) if not n.startswith(".")]
            if others and not self.exists:
                raise BadInput(self.root, f"not a database, and not empty: {others[0]!r}.", "Name a new folder.")
        if taken_over:
            self._mend()
        if taken_over or is_new or not self._is_settled:
            self._settle_records(is_new)
            self._is_settled = True

    def projects(self) -> dict[str, str] | None:
        """Return the path of each project folder's project as the marker lists it; None in a database of format 1."""
        return self._read_marker()

    def _read_marker(self) -> dict[str, str] | None:
        marker = self.root / layout.MARKER
        try:
            raw = layout.content(marker)
        except FileNotFoundError:
            return None
        fields = unsealed(marker, raw, layout.VERSION)
        return None if fields["format"] == 1 else validated(marker, fields.get("projects"), dict[str, str], REPAIR_HINT)

    def _write_marker(self, projects: Mapping[str, str]) -> None:
        fields = {"format": layout.VERSION, "projects": dict(sorted(projects.items()))}
        files.write_atomically(self.root / layout.MARKER, sealed(fields), root=self.root)

    def _settle_records(self, is_new: bool) -> None:
        """Confirm what killed writers announced, and bring a database of format 1 to the current one.

        Records that are damaged or missing are left to `verify`, except in a database that never had any.
        """
        listed = None if is_new else self._read_marker()
        projects = dict(listed or {})
        for folder in layout.project_folders(self.root):
            try:
                record = read_record(folder)
            except NewerFormat:
                raise
            except BadInput:
                continue
            if record is None and listed is None and next(layout.entry_folders_of(folder), None) is not None:
                self.write_record(folder, self._record_of_what_is_there(folder))
                projects[folder.name] = str(project_of(folder) or "")
            elif record is not None and record.folder == folder.name and (record.pending or listed is None):
                projects[folder.name] = record.project
                self._changed[folder] = record
        if projects != listed:
            self._write_marker(projects)
        self._confirm()

    def _record_of_what_is_there(self, folder: Path) -> ProjectRecord:
        states = {layout.entry_name(f): _state(f) for f in layout.entry_folders_of(folder)}
        entries = {name: state for name, state in states.items() if state is not None}
        return ProjectRecord(folder.name, str(project_of(folder) or ""), entries)

    def write_record(self, folder: Path, record: ProjectRecord) -> None:
        """Write the list of a project's entries; the caller holds the lock."""
        files.write_atomically(folder / layout.RECORD, record_text(record), root=self.root)

    def reseal(self, folder: Path) -> None:
        """Take the entries of a project folder for what they should be, after `verify` quarantined all others."""
        with self.writing():
            if layout.is_project(folder):
                self.write_record(folder, self._record_of_what_is_there(folder))
                projects = dict(self._read_marker() or {})
                self._write_marker(projects | {folder.name: str(project_of(folder) or "")})
            else:
                self.forget_project(folder.name)

    def forget_project(self, name: str) -> None:
        """Take a project folder that is gone off the marker's list."""
        with self.writing():
            projects = dict(self._read_marker() or {})
            if projects.pop(name, None) is not None:
                self._write_marker(projects)

    def _announce(self, entry: Path, state: State | None) -> None:
        """Record the state that an entry is about to get."""
        folder = entry.parent.parent
        name = layout.entry_name(entry)
        record = self._changed.get(folder) or read_record(folder)
        if record is None or record.folder != folder.name:
            record = self._record_of_what_is_there(folder)
        self._changed[folder] = replace(record, pending={**record.pending, name: state})
        self.write_record(folder, self._changed[folder])

    def _confirm(self) -> None:
        """Record the announced changes as made, as far as they were; a writer's turn ends with it."""
        while self._changed:
            folder, record = next(iter(self._changed.items()))
            self._is_settled = False  # until all of this is written
            projects = self._read_marker() or {}
            if projects.get(folder.name) != record.project:
                self._write_marker({**projects, folder.name: record.project})
            entries = dict(record.entries)
            for name in record.pending:
                found = _state(folder / layout.ENTRIES / name)
                if not record.allows(name, found):
                    continue  # damage: verify finds it
                entries.pop(name, None)
                if found is not None:
                    entries[name] = found
            if record.pending:
                self.write_record(folder, replace(record, entries=entries, pending={}))
            del self._changed[folder]
            self._is_settled = True

    def add(
        self,
        pickset: PickSet,
        *,
        job_status: str = "",
        orientation: OrientationRecord | None = None,
        pictures: Mapping[str, bytes] | None = None,
    ) -> Entry:
        """Write an entry, in place of an older one of its name.

        Parameters
        ----------
        job_status
            How its job ended, as the crawl says.
        orientation
            Verdict of the orientation check.
        pictures
            Files that are kept beside the picks: name -> content.

        Raises
        ------
        DatabaseBusy, NotWritten
            Where another writes, or the disk is full or read-only. The database is then what it was.
        """
        with self.writing():
            project = self._project_folder(pickset.provenance)
            record = read_links(project) or ProjectLinks(pickset.provenance.project, pickset.provenance.project_name)
            paths = [None if p is None else str(p) for p in pickset.micrographs["path"]]
            record, links = with_micrographs(record, list(pickset.micrographs["name"]), paths)
            folder = self._entry_folder(project, pickset.provenance)
            _refuse_newer(folder)
            write_links(project, record, root=self.root)
            with folders.replacing_folder(folder, root=self.root) as hidden:
                info = info_text(pickset, job_status=job_status, orientation=orientation).encode()
                contents: dict[str, Iterable[bytes]] = {layout.DATA: data_text(pickset, links), layout.INFO: [info]}
                contents |= {safe_name(name): [picture] for name, picture in (pictures or {}).items()}
                sums = {
                    name: files.write_new(hidden / name, content, root=self.root) for name, content in contents.items()
                }
                now = datetime.now(UTC).isoformat(timespec="seconds")
                manifest = Manifest(folder.name, now, cryoflow.__version__, sums, pickset.provenance.sources)
                files.write_new(hidden / MANIFEST, manifest_text(manifest).encode(), root=self.root)
                self._announce(folder, State(files_of(manifest)))
            return read_entry(folder)

    def entries(self) -> list[Entry]:
        """All entries, in order of project, kind and number of the job; damaged ones are there, with that status."""
        return [self.read_settled(read_entry, f) for f in layout.entry_folders(self.root)]

    def entry(self, name: str) -> Entry:
        """The entry of a name, `<project>/<Kind>_<job>`.

        Raises
        ------
        BadInput
            Where there is none; says which names come near.
        """
        return self.read_settled(read_entry, self._folder_of(name))

    def load(self, name: str | Entry) -> PickSet:
        """The picks of an entry. Micrographs' paths are what the links in `Micrographs/` point to.

        Raises
        ------
        BadInput
            Where there is no such entry, or it is damaged.
        """
        folder = name.folder if isinstance(name, Entry) else self._folder_of(name)
        return self.read_settled(load_entry, folder)

    def mark(self, name: str, status: str, reason: str) -> None:
        """Record that an entry is no longer what its job holds; `add` and `unmark` take the mark off.

        Raises
        ------
        BadInput
            If there is no such entry.
        NewerFormat
            If a newer cryoflow wrote it.
        """
        with self.writing():
            text = sealed({"format": layout.MARK_VERSION, "status": status, "reason": reason}).encode()
            folder = self._folder_of(name)
            _refuse_newer(folder)
            path = folder / layout.MARK
            if not os.path.lexists(path) or layout.content(path) != text:
                self.write_mark(folder, text)

    def write_mark(self, folder: Path, text: bytes) -> None:
        """Write the mark of an entry's folder; the caller holds the lock."""
        before = _state(folder)
        self._announce(folder, State(before.files if before else "", fingerprint_of(text)))
        files.write_atomically(folder / layout.MARK, text, root=self.root)

    def unmark(self, name: str) -> None:
        """Take the mark off an entry; raises as `mark`."""
        with self.writing():
            folder = self._folder_of(name)
            _refuse_newer(folder)
            if os.path.lexists(folder / layout.MARK) and (before := _state(folder)) is not None:
                self._announce(folder, State(before.files))
                files.remove(folder / layout.MARK, root=self.root)

    def remove(self, name: str) -> Path | None:
        """Move an entry out of the database; nothing is deleted.

        Returns
        -------
        Path or None
            Where it is now; None if it was removed before and is in the quarantine.

        Raises
        ------
        BadInput
            If there is no such entry.
        NewerFormat
            If a newer cryoflow wrote it.
        """
        with self.writing():
            try:
                folder = self._folder_of(name)
            except BadInput:
                if self.was_removed(name):
                    return None
                raise
            _refuse_newer(folder)
            self._announce(folder, None)
            return self.quarantine(folder)

    def was_removed(self, name: str) -> bool:
        """Return whether an entry of this name is in the quarantine."""
        project, _, entry = name.strip("/").partition("/")
        if not project or not entry or {safe_name(project), safe_name(entry)} != {project, entry}:
            return False
        place = self.root / layout.QUARANTINE / project / layout.ENTRIES
        return any(path.name.rpartition(".")[0] == entry for path in place.glob(f"{entry}.*"))

    def quarantine(self, path: Path) -> Path:
        """Move something of the database to a place of its own in the quarantine; the caller holds the lock."""
        to = self.quarantine_place(path)
        files.move(path, to, root=self.root)
        return to

    def quarantine_place(self, path: Path) -> Path:
        """Return a free place in the quarantine for something of the database."""
        place = self.root / layout.QUARANTINE / path.relative_to(self.root)
        number = 1
        while os.path.lexists(to := place.with_name(f"{place.name}.{number}")):
            number += 1
        return to

    def project_folders(self) -> dict[Path, Path]:
        """Folder in the database of each project's path, as far as their records can be read."""
        found: dict[Path, Path] = {}
        for folder in sorted({f.parent.parent for f in layout.entry_folders(self.root)}):
            if (project := project_of(folder)) is not None:
                found[project] = folder
        return found

    def _mend(self) -> None:
        """Finish what a killed writer left between two renames, and remove what it had not finished."""
        projects = layout.project_folders(self.root)
        for folder in (self.root, *projects, *(folder / layout.ENTRIES for folder in projects)):
            folders.clean(folder, root=self.root)
        for hidden in self.root.glob(f"*/{layout.ENTRIES}/.*{stale_files.ASIDE}"):
            folders.mend(hidden.with_name(layout.entry_name(hidden)), root=self.root)

    def _project_folder(self, who: Provenance) -> Path:
        """The project's folder: its own if it has one, else one of a name that is free."""
        taken: set[str] = set()
        names = layout.project_names(who.project_name, who.project)
        for name in os.listdir(self.root):
            folder = self.root / name
            if not name.startswith(".") and folder.is_dir():
                if project_of(folder) == who.project and (
                    who.program != "file" or _is_called(folder, who.project_name)
                ):
                    return folder
                if name in names and project_of(folder) is None:
                    read_links(folder)  # a damaged record may be this project's: say so
                    if all(n.startswith(".") for n in os.listdir(folder)):
                        continue  # a killed writer had just made it
            taken.add(layout.folded(name))
        return self.root / layout.free_name(names, taken)

    def _entry_folder(self, project: Path, who: Provenance) -> Path:
        """The entry's folder; a name that differs by case alone gets a hash, for file systems that ignore case.

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

    def _folder_of(self, name: str) -> Path:
        project, _, entry = name.strip("/").partition("/")
        if project and entry and "/" not in entry and not {project[0], entry[0]} & {"."}:
            folder = inside(self.root, f"{project}/{layout.ENTRIES}/{entry}")
            if place := layout.place_of(folder):  # a killed writer may have left it aside
                return place
        if not self.exists:
            raise BadInput(
                self.root, "there is no database here.", "Make one with 'cryoflow ingest ROOT --database DB'."
            )
        names = [f"{f.parent.parent.name}/{layout.entry_name(f)}" for f in layout.entry_folders(self.root)]
        near = difflib.get_close_matches(name, names, 3, 0.5) or names[:3]
        raise BadInput(self.root, f"there is no entry {name!r}.", f"There are: {', '.join(near)}, ..." if near else "")

    def read_settled(self, read: Callable[[Path], T], folder: Path) -> T:
        """Read an entry's folder, again where another process replaced the entry meanwhile."""
        whole = folder.with_name(layout.entry_name(folder))
        for attempt in range(10):
            try:
                return read(layout.place_of(whole) or whole)
            except OSError as error:
                where = error.filename or self.root
                if not inputs.is_gone(error):
                    raise BadInput(where, f"cannot be read: {error.strerror or error}.") from error
                if attempt == 9:
                    raise BadInput(where, "this file of the database is not there.") from None
                time.sleep(0.02 * (attempt + 1))
        raise AssertionError("unreachable")


def _is_called(project: Path, name: str) -> bool:
    """Whether a project's folder is that of this name; lone tables of one folder may go under several."""
    record = read_links(project)
    return record is None or record.title == name


def _state(folder: Path) -> State | None:
    """The state of an entry; one whose manifest is damaged has no fingerprint of its files."""
    try:
        return state_of(folder)
    except NewerFormat:
        raise
    except BadInput:
        return State("")


def _refuse_newer(folder: Path) -> None:
    """Raise `NewerFormat` if a newer cryoflow wrote an entry: it must not be replaced or marked by this one."""
    if (place := layout.place_of(folder)) is not None:
        check_formats(place)
