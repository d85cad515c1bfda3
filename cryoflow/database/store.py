"""The text database: add entries, list them, load them, mark them.

Order of a write, under the database's lock: a new project's record (`micrographs.txt`, which claims the folder), links
of micrographs, the record of them, then the entry's folder, filled beside its place and renamed into it. That rename is
the commit. A crash before it leaves links that nothing refers to yet, and a hidden folder that the next writer removes;
the old entry stays whole. Nothing else has to be kept in step: the folders are the index.
"""

from __future__ import annotations

import difflib
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import cryoflow
from cryoflow.database import layout
from cryoflow.database.data_text import data_text
from cryoflow.database.entry import DAMAGED, Entry, load_entry, read_entry
from cryoflow.database.info import Orientation, info_text
from cryoflow.database.links import ProjectLinks, project_of, read_links, with_micrographs, write_links
from cryoflow.database.lock import Owner, locked, unlock
from cryoflow.database.manifest import NAME as MANIFEST
from cryoflow.database.manifest import Manifest, manifest_text
from cryoflow.errors import BadInput, UnsafePath
from cryoflow.picks import PickSet, Provenance
from cryoflow.storage import files, inputs, stale_files
from cryoflow.storage.safe_names import inside, safe_name, short_hash
from cryoflow.storage.sealing import sealed, unsealed

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
        if not check:
            return
        if self.root.exists() and not self.root.is_dir():
            raise BadInput(self.root, "a database is a folder, and this is none.")
        marker = self.root / layout.MARKER
        if marker.exists():
            unsealed(marker, layout.content(marker), layout.VERSION)

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
            with files.clear_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
            with locked(self.root, timeout_s=self.lock_timeout_s) as taken_over:
                self._depth = 1
                try:
                    self._prepare(taken_over)
                    yield
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
        for name in (layout.JOBS, layout.QUARANTINE):
            _not_a_link(self.root / name)
        if not (self.root / layout.MARKER).exists():
            others = [n for n in os.listdir(self.root) if not n.startswith(".")]
            if others and not self.exists:
                raise BadInput(self.root, f"not a database, and not empty: {others[0]!r}.", "Name a new folder.")
            files.write_atomically(self.root / layout.MARKER, sealed({"format": layout.VERSION}))
        if taken_over:
            self._mend()

    def add(
        self,
        pickset: PickSet,
        *,
        job_status: str = "",
        orientation: Orientation | None = None,
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
            _not_a_link(project / layout.LINKS)
            write_links(project, record)
            folder = self._entry_folder(project, pickset.provenance)
            with files.replacing_folder(folder) as hidden:
                info = info_text(pickset, job_status=job_status, orientation=orientation).encode()
                sums = {}
                contents: dict[str, Iterable[bytes]] = {layout.DATA: data_text(pickset, links), layout.INFO: [info]}
                contents |= {safe_name(name): [picture] for name, picture in (pictures or {}).items()}
                for name, content in contents.items():
                    with (hidden / name).open("wb") as file:
                        sums[name] = files.write_pieces(file, content)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                manifest = Manifest(folder.name, now, cryoflow.__version__, sums, pickset.provenance.sources)
                with (hidden / MANIFEST).open("wb") as file:
                    files.write_pieces(file, manifest_text(manifest).encode())
            return read_entry(folder)

    def entries(self) -> list[Entry]:
        """All entries, in order of project, kind and number of the job; damaged ones are there, with that status."""
        return [self._settled(read_entry, f) for f in layout.entry_folders(self.root)]

    def entry(self, name: str) -> Entry:
        """The entry of a name, `<project>/<Kind>_<job>`.

        Raises
        ------
        BadInput
            Where there is none; says which names come near.
        """
        return self._settled(read_entry, self._folder_of(name))

    def load(self, name: str | Entry) -> PickSet:
        """The picks of an entry. Micrographs' paths are what the links in `Micrographs/` point to.

        Raises
        ------
        BadInput
            Where there is no such entry, or it is damaged.
        """
        folder = name.folder if isinstance(name, Entry) else self._folder_of(name)
        return self._settled(load_entry, folder)

    def mark(self, name: str, status: str, reason: str) -> None:
        """Say of an entry that it is no longer what its job holds; a mark is taken off by `add` and `unmark`."""
        with self.writing():
            text = sealed({"format": layout.VERSION, "status": status, "reason": reason})
            path = self._folder_of(name) / layout.MARK
            if not path.exists() or layout.content(path) != text.encode():
                files.write_atomically(path, text)

    def unmark(self, name: str) -> None:
        """Take the mark off an entry."""
        with self.writing():
            files.remove(self._folder_of(name) / layout.MARK)

    def remove(self, name: str) -> Path:
        """Take an entry out of the database; where it was moved to (nothing is deleted)."""
        with self.writing():
            return self.quarantine(self._folder_of(name))

    def quarantine(self, path: Path) -> Path:
        """Move something of the database out of sight, to a place of its own; the caller holds the lock."""
        to = self.quarantine_place(path)
        files.move(path, to)
        return to

    def quarantine_place(self, path: Path) -> Path:
        """A free place in the quarantine for something of the database."""
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
        projects = [folder for folder in self.root.glob("*/") if not folder.is_symlink()]
        for folder in (self.root, *projects, *(folder / layout.ENTRIES for folder in projects)):
            if not folder.is_symlink():
                stale_files.sweep(folder)
        for hidden in self.root.glob(f"*/{layout.ENTRIES}/.*{files.ASIDE}"):
            files.mend(hidden.with_name(layout.entry_name(hidden)))

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
                    return _not_a_link(folder)
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
        parent = _not_a_link(project / layout.ENTRIES)
        name = safe_name(who.entry_name)
        if who.program == "file" and layout.is_entry(parent / name):
            other = read_entry(parent / name)
            if other.status != DAMAGED and other.output_group != who.output_group:
                name = safe_name(f"{who.entry_name}-{Path(who.output_group).suffix.removeprefix('.')}")
        others = {layout.folded(n) for n in (os.listdir(parent) if parent.exists() else []) if n != name}
        return _not_a_link(parent / layout.free_name([name, f"{name}-{short_hash(name, 4)}"], others))

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

    def _settled(self, read: Callable[[Path], T], folder: Path) -> T:
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


def _not_a_link(folder: Path) -> Path:
    if folder.is_symlink():
        raise UnsafePath(folder, "a link stands where a folder of the database should be.", "Remove it.")
    return folder
