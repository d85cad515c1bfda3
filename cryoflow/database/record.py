"""`entries.json`: the sealed list of a project's entries, which ties each entry to its project and its neighbors.

It holds the fingerprint of each entry's files and of its `mark.json`. An entry that was deleted, copied from another
project or exchanged with one is therefore seen by `verify`. The marker of the database lists the projects likewise.
It holds no times, so that it is the same bytes for the same input.

A change is announced before it is made: `pending` holds the state that an entry is about to get. Until the turn of the
writer ends, either state is a sound one, so that a killed writer leaves nothing that looks like damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.database import layout
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.entry_manifest import Manifest, read_manifest
from cryoflow.storage.fingerprints import fingerprint_of, fingerprint_of_values
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import REPAIR_HINT, sealed, unsealed

VERSION = 1


@dataclass(frozen=True)
class State:
    """State of an entry's files: which content is the valid one."""

    files: str
    """Fingerprint of names and checksums of its files, "" for an entry of the older scripts or a damaged one."""
    mark: str | None = None
    """Fingerprint of its mark.json, None without one."""


@dataclass(frozen=True)
class ProjectRecord:
    """The entries of one project folder."""

    folder: str
    """Name of the project's folder in the database."""
    project: str
    """Absolute path of the project, "" if that is unknown (older databases)."""
    entries: Mapping[str, State] = field(default_factory=dict)
    pending: Mapping[str, State | None] = field(default_factory=dict)
    """The state that an entry is about to get, None if it is about to be removed."""

    def allows(self, name: str, found: State | None) -> bool:
        """Return whether an entry may be in a state: the recorded one, or the one that a writer has announced."""
        return found == self.entries.get(name) or (name in self.pending and found == self.pending[name])


def record_text(record: ProjectRecord) -> str:
    """Return the text of an entries.json."""

    def plain(state: State | None) -> dict[str, str | None] | None:
        return None if state is None else {"files": state.files, "mark": state.mark}

    names = sorted(record.entries, key=layout.natural)
    fields: dict[str, object] = {"format": VERSION, "folder": record.folder, "project": record.project}
    fields["entries"] = {name: plain(record.entries[name]) for name in names}
    if record.pending:
        fields["pending"] = {name: plain(state) for name, state in sorted(record.pending.items())}
    return sealed(fields)


def read_record(folder: Path) -> ProjectRecord | None:
    """Read the entries.json of a project folder, None where there is none (databases of format 1).

    Raises
    ------
    BadInput
        If it is damaged.
    NewerFormat
        If a newer cryoflow wrote it.
    """
    path = folder / layout.RECORD
    try:
        raw = layout.content(path)
    except FileNotFoundError:
        return None
    return validated(path, unsealed(path, raw, VERSION), ProjectRecord, REPAIR_HINT)


def state_of(folder: Path) -> State | None:
    """Return the state of an entry on the disk, also while it is moved aside; None where there is none.

    Raises
    ------
    BadInput
        If its manifest is damaged, or a file cannot be read.
    """
    place = layout.place_of(folder)
    if place is None:
        return None
    try:
        files = files_of(read_manifest(place / MANIFEST))
    except FileNotFoundError:
        files = ""
    try:
        mark = fingerprint_of(layout.content(place / layout.MARK))
    except FileNotFoundError:
        mark = None
    return State(files, mark)


def files_of(manifest: Manifest) -> str:
    """Return the fingerprint of the names and checksums of an entry's files, as its manifest lists them."""
    return fingerprint_of_values([manifest.entry, manifest.sums])
