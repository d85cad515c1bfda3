"""The text database: add entries, list them, load them, mark them.

Order of a write, under the database's lock: a new project's record (`micrographs.txt`, which claims the folder), links
of micrographs, the record of them, then the entry's folder, filled beside its place and renamed into it. That rename is
the commit. A crash before it leaves links that nothing refers to yet, and a hidden folder that the next writer removes;
the old entry stays whole.

Each change of an entry is announced in the project's `entries.json` first, and confirmed there when the writer's turn
ends (`record_keeper.py`). The folders are the index: readers list them, and only `verify` compares them with the
record.

Every write goes through `cryoflow.storage.files` with the database's folder as `root`, since names in a database that
somebody sent may try to lead out of it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import cryoflow
from cryoflow.database import layout, quarantine
from cryoflow.database.data_text import data_text
from cryoflow.database.entry import Entry, load_entry, read_entry
from cryoflow.database.entry_lookup import entry_names, find_entry, matching, read_consistent, refuse_newer_entry
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.entry_manifest import Manifest, manifest_text
from cryoflow.database.info import OrientationRecord, info_text
from cryoflow.database.lock import Owner, locked, unlock
from cryoflow.database.micrograph_links import ProjectLinks, read_links, with_micrographs, write_links
from cryoflow.database.new_folders import folder_of_entry, folder_of_project
from cryoflow.database.record import State, files_of
from cryoflow.database.record_keeper import RecordKeeper, entry_state
from cryoflow.errors import BadInput
from cryoflow.picks import PickSet
from cryoflow.storage import files, folders, stale_files
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.safe_names import safe_name
from cryoflow.storage.sealing import sealed


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
        self.records = RecordKeeper(self.root)
        if not check:
            return
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(self.root, "a database is a folder, and this is none.")
        if os.path.lexists(self.root / layout.MARKER):
            self.projects()

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
        """Return whether there is a database, of this package or of the older scripts."""
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
                        self.records.confirm()
                finally:
                    self._depth = 0

    def finalize(self) -> None:
        """Confirm what a killed writer announced; writes nothing where there is nothing.

        Each write does the same first. A stage that finds all of its work done writes nothing else.

        Raises
        ------
        DatabaseBusy, NotWritten
            See `writing`.
        """
        if self.records.has_announced():
            with self.writing():
                pass

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
        if taken_over or is_new or not self.records.is_settled:
            self.records.finalize(is_new)

    def projects(self) -> dict[str, str] | None:
        """Return the path of each project folder's project as the marker lists it; None in a database of format 1."""
        return self.records.projects()

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
            How its job ended, from the crawl.
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
            project = folder_of_project(self.root, pickset.provenance)
            record = read_links(project) or ProjectLinks(pickset.provenance.project, pickset.provenance.project_name)
            paths = [None if p is None else str(p) for p in pickset.micrographs["path"]]
            record, links = with_micrographs(record, list(pickset.micrographs["name"]), paths)
            folder = folder_of_entry(project, pickset.provenance)
            refuse_newer_entry(folder)
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
                self.records.announce(folder, State(files_of(manifest)))
            return read_entry(folder)

    def entries(self) -> list[Entry]:
        """Return all entries, in order of project, kind and number of the job; damaged ones are there, with that
        status."""
        return [read_consistent(read_entry, f) for f in layout.entry_folders(self.root)]

    def matching(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return names of entries, with patterns such as `P190/*` replaced by the entries that they match.

        A pattern's entries come in the order of the database, and no entry comes twice. Other names are not checked.

        Raises
        ------
        BadInput
            If a pattern matches no entry.
        """
        return matching(self.root, names, lambda: entry_names(self.root))

    def entry(self, name: str) -> Entry:
        """Return the entry of a name, `<project>/<Kind>_<job>`.

        Raises
        ------
        BadInput
            Where there is none; lists similar names.
        """
        return read_consistent(read_entry, find_entry(self.root, name))

    def load(self, name: str | Entry) -> PickSet:
        """Return the picks of an entry. Micrographs' paths are what the links in `Micrographs/` point to.

        Raises
        ------
        BadInput
            Where there is no such entry, or it is damaged.
        """
        folder = name.folder if isinstance(name, Entry) else find_entry(self.root, name)
        return read_consistent(load_entry, folder)

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
            folder = find_entry(self.root, name)
            refuse_newer_entry(folder)
            path = folder / layout.MARK
            if not os.path.lexists(path) or layout.content(path) != text:
                self.write_mark(folder, text)

    def write_mark(self, folder: Path, text: bytes) -> None:
        """Write the mark of an entry's folder; the caller holds the lock."""
        before = entry_state(folder)
        self.records.announce(folder, State(before.files if before else "", fingerprint_of(text)))
        files.write_atomically(folder / layout.MARK, text, root=self.root)

    def unmark(self, name: str) -> None:
        """Take the mark off an entry; raises as `mark`."""
        with self.writing():
            folder = find_entry(self.root, name)
            refuse_newer_entry(folder)
            if os.path.lexists(folder / layout.MARK) and (before := entry_state(folder)) is not None:
                self.records.announce(folder, State(before.files))
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
                folder = find_entry(self.root, name)
            except BadInput:
                if quarantine.was_removed(self.root, name):
                    return None
                raise
            refuse_newer_entry(folder)
            self.records.announce(folder, None)
            return self.quarantine(folder)

    def quarantine(self, path: Path) -> Path:
        """Move something of the database to a place of its own in the quarantine; the caller holds the lock."""
        to = quarantine.free_place(self.root, path)
        files.move(path, to, root=self.root)
        return to

    def _mend(self) -> None:
        """Finish what a killed writer left between two renames, and remove what it had not finished."""
        projects = layout.project_folders(self.root)
        for folder in (self.root, *projects, *(folder / layout.ENTRIES for folder in projects)):
            folders.clean(folder, root=self.root)
        for hidden in self.root.glob(f"*/{layout.ENTRIES}/.*{stale_files.ASIDE}"):
            folders.mend(hidden.with_name(layout.entry_name(hidden)), root=self.root)
