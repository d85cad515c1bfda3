"""Keep the lists of a database: its projects in the marker, and each project's entries in its `entries.json`.

A change of an entry is announced in the list before it is made, and confirmed there when the writer's turn ends: after
a kill the list allows the state before and the state after.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from cryoflow.database import layout
from cryoflow.database.micrograph_links import project_of
from cryoflow.database.record import ProjectRecord, State, read_record, record_text, state_of
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.storage import files
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import REPAIR_HINT, sealed, unsealed


class RecordKeeper:
    """The lists of one database, and what a writer has announced in its turn. Callers hold the lock.

    Attributes
    ----------
    root
        The database's folder.
    is_settled
        Whether this process has confirmed what killed writers announced, and nothing is open since.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.is_settled = False
        self._changed: dict[Path, ProjectRecord] = {}

    def projects(self) -> dict[str, str] | None:
        """Return the path of each project folder's project as the marker lists it; None in a database of format 1."""
        marker = self.root / layout.MARKER
        try:
            raw = layout.content(marker)
        except FileNotFoundError:
            return None
        fields = unsealed(marker, raw, layout.VERSION)
        return None if fields["format"] == 1 else validated(marker, fields.get("projects"), dict[str, str], REPAIR_HINT)

    def write_marker(self, projects: Mapping[str, str]) -> None:
        """Write the marker with its list of projects."""
        fields = {"format": layout.VERSION, "projects": dict(sorted(projects.items()))}
        files.write_atomically(self.root / layout.MARKER, sealed(fields), root=self.root)

    def has_announced(self) -> bool:
        """Return whether a writer that was killed, or is at work, has announced changes that are not confirmed."""
        for folder in layout.project_folders(self.root):
            with suppress(BadInput):  # left to `verify`, as by `finalize`
                record = read_record(folder)
                if record is not None and record.pending:
                    return True
        return False

    def finalize(self, is_new: bool) -> None:
        """Confirm what killed writers announced, and bring a database of format 1 to the current one.

        Records that are damaged or missing are left to `verify`, except in a database that never had any.
        """
        listed = None if is_new else self.projects()
        projects = dict(listed or {})
        for folder in layout.project_folders(self.root):
            try:
                record = read_record(folder)
            except NewerFormat:
                raise
            except BadInput:
                continue
            if record is None and listed is None and next(layout.entry_folders_of(folder), None) is not None:
                self.write_record(folder, self.record_of_what_is_there(folder))
                projects[folder.name] = str(project_of(folder) or "")
            elif record is not None and record.folder == folder.name and (record.pending or listed is None):
                projects[folder.name] = record.project
                self._changed[folder] = record
        if projects != listed:
            self.write_marker(projects)
        self.confirm()
        self.is_settled = True

    def record_of_what_is_there(self, folder: Path) -> ProjectRecord:
        """Return the record that a project's folder should have if all of its entries are sound."""
        states = {layout.entry_name(f): entry_state(f) for f in layout.entry_folders_of(folder)}
        entries = {name: state for name, state in states.items() if state is not None}
        return ProjectRecord(folder.name, str(project_of(folder) or ""), entries)

    def write_record(self, folder: Path, record: ProjectRecord) -> None:
        """Write the list of a project's entries; the caller holds the lock."""
        files.write_atomically(folder / layout.RECORD, record_text(record), root=self.root)

    def announce(self, entry: Path, state: State | None) -> None:
        """Record the state that an entry is about to get."""
        folder = entry.parent.parent
        name = layout.entry_name(entry)
        record = self._changed.get(folder) or read_record(folder)
        if record is None or record.folder != folder.name:
            record = self.record_of_what_is_there(folder)
        self._changed[folder] = replace(record, pending={**record.pending, name: state})
        self.write_record(folder, self._changed[folder])

    def confirm(self) -> None:
        """Record the announced changes as made, as far as they were; a writer's turn ends with it."""
        while self._changed:
            folder, record = next(iter(self._changed.items()))
            self.is_settled = False  # until all of this is written
            projects = self.projects() or {}
            if projects.get(folder.name) != record.project:
                self.write_marker({**projects, folder.name: record.project})
            entries = dict(record.entries)
            for name in record.pending:
                found = entry_state(folder / layout.ENTRIES / name)
                if not record.allows(name, found):
                    continue  # damage: verify finds it
                entries.pop(name, None)
                if found is not None:
                    entries[name] = found
            if record.pending:
                self.write_record(folder, replace(record, entries=entries, pending={}))
            del self._changed[folder]
            self.is_settled = True

    def reseal(self, folder: Path) -> None:
        """Take the entries of a project folder for what they should be, after `verify` quarantined all others."""
        if layout.is_project(folder):
            self.write_record(folder, self.record_of_what_is_there(folder))
            projects = dict(self.projects() or {})
            self.write_marker(projects | {folder.name: str(project_of(folder) or "")})
        else:
            self.forget_project(folder.name)

    def forget_project(self, name: str) -> None:
        """Take a project folder that is gone off the marker's list."""
        projects = dict(self.projects() or {})
        if projects.pop(name, None) is not None:
            self.write_marker(projects)


def entry_state(folder: Path) -> State | None:
    """Return the state of an entry; one whose manifest is damaged has no fingerprint of its files."""
    try:
        return state_of(folder)
    except NewerFormat:
        raise
    except BadInput:
        return State("")
