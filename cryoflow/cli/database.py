"""`cryoflow database`: list, show, select, verify and remove entries, and unlock the database."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

from cyclopts import App, Parameter

from cryoflow.cli import output as out

if TYPE_CHECKING:
    from cryoflow.database import Database

app = App(name="database", help="List, show, select and verify the entries of a database.", help_format="plaintext")
DatabaseOption: TypeAlias = Annotated[Path, Parameter(name=["--database", "--db"], help="Folder of the text database.")]
ProjectOption: TypeAlias = Annotated[str | None, Parameter(help="Only the entries of this project.")]
Repair: TypeAlias = Annotated[
    bool,
    Parameter(
        negative="",
        help="Move damaged files to .quarantine (nothing is deleted), and make again what can be made; then "
        "`cryoflow ingest` reads the jobs of the entries that were moved.",
    ),
]
Force: TypeAlias = Annotated[
    bool,
    Parameter(negative="", help="Remove the lock of a process of another machine: you have checked that it ended."),
]
EntryName: TypeAlias = Annotated[str, Parameter(help="PROJECT/KIND_JOB, as `cryoflow database list` shows it.")]


@app.command(name="list")
def list_(*, database: DatabaseOption, project: ProjectOption = None, json: out.Json = False) -> int:
    """List the entries."""
    from cryoflow.database.entry import NEWER
    from cryoflow.errors import ExitCode

    entries = [e for e in _opened(database).entries() if project in (None, e.project)]
    columns = ["name", "n_picks", "n_micrographs", "pixel_size_A", "box_px", "diameter_A", "status", "orientation"]
    rows = [_row(e) for e in entries]
    out.emit_table(rows, columns=columns, title=str(database), as_json=json, empty="no entries yet")
    newer = [e for e in entries if e.status == NEWER]
    for e in newer:
        out.fail(e.reason)
    return ExitCode.PARTLY_FAILED if newer else ExitCode.OK


@app.command
def show(entry: EntryName, *, database: DatabaseOption, json: out.Json = False) -> int:
    """Show an entry: its numbers, its columns and its sources."""
    import numpy as np

    store = _opened(database)
    found = store.entry(entry)
    picks = store.load(found)
    per_micrograph = np.diff(picks.offsets)
    record = _row(found) | {
        "orientation_detail": found.orientation.detail,
        "picks_per_micrograph": round(float(per_micrograph.mean()), 1) if len(per_micrograph) else None,
        "columns": [str(c) for c in picks.picks.columns if c != "micrograph"],
        "dropped": dict(picks.counts),
        "sources": [str(s.path) for s in picks.provenance.sources],
        "folder": found.folder,
    }
    out.emit_record(record, as_json=json)
    return 0


@app.command
def select(*, database: DatabaseOption, project: ProjectOption = None, json: out.Json = False) -> int:
    """Name, per project, the job to train from.

    RELION: Refine3D, then Select3D, then Select2D. CryoSPARC: Homo or NonUniform, then Hetero, then Select2D. Manual
    picks come last, and the newest job is the one of the highest number. Jobs that are marked, unfinished, excluded or
    contradicted by the pixels are passed over.
    """
    from cryoflow.database import select_best
    from cryoflow.errors import ExitCode

    selections = [s for s in select_best(_opened(database)) if project in (None, s.project)]
    rows = [
        {
            "project": s.project,
            "entry": s.entry.name if s.entry else None,
            "n_picks": s.entry.n_picks if s.entry else None,
            "n_micrographs": s.entry.n_micrographs if s.entry else None,
            "reason": s.reason,
            "passed_over": list(s.passed_over),
        }
        for s in selections
    ]
    columns = ["project", "entry", "n_picks", "n_micrographs", "reason"]
    out.emit_table(rows, columns=columns, as_json=json, empty="no projects yet")
    if not json:
        for s in selections:
            for text in s.passed_over:
                out.say(f"passed over {text}")
    return ExitCode.OK if any(s.entry for s in selections) else ExitCode.FAILED


@app.command
def verify(*, database: DatabaseOption, repair: Repair = False, json: out.Json = False) -> int:
    """Check every file against its checksum, and every link against its record.

    Exit code 0: everything is as it was written; 1: something is damaged; 3: all damage was repaired.
    """
    from cryoflow.database import verify as verify_database
    from cryoflow.errors import ExitCode

    findings = verify_database(database, repair=repair)
    columns = ["severity", "path", "what", "repaired"]
    out.emit_table(findings, columns=columns, as_json=json, empty="nothing found")
    damage = [f for f in findings if f.severity == "damage"]
    left = [f for f in damage if not f.repaired]
    out.say(
        f"{len(damage)} damaged" + (f", {len(damage) - len(left)} repaired" if repair else "") if damage else "sound"
    )
    if left:
        return ExitCode.FAILED
    return ExitCode.PARTLY_FAILED if damage else ExitCode.OK


@app.command
def remove(*entries: EntryName, database: DatabaseOption) -> int:
    """Take entries out of the database; they are moved to its .quarantine, not deleted.

    An entry that was removed before is passed over, so that a command that was killed can be run again. Exit code 3 if
    some of the names are of no entry, 1 if all are.
    """
    from cryoflow.errors import BadInput, ExitCode

    if not entries:
        raise out.UsageError("name one entry or more; `cryoflow database list` shows them.")
    store = _opened(database)
    errors = []
    for name in dict.fromkeys(entries):
        try:
            place = store.remove(name)
        except BadInput as error:
            errors.append(error)
            out.fail(error)
        else:
            out.say(f"{name} is now {place}" if place else f"{name} was removed before")
    if not errors:
        return ExitCode.OK
    return ExitCode.FAILED if len(errors) == len(dict.fromkeys(entries)) else ExitCode.PARTLY_FAILED


@app.command
def unlock(*, database: DatabaseOption, force: Force = False) -> int:
    """Remove the lock of a process that was killed on another machine, as a job of the cluster may be.

    A lock of a process that died on this machine goes by itself; one that runs here keeps its lock.
    """
    owner = _opened(database).unlock(force=force)
    out.say(f"the lock of {owner} is removed" if owner else "the database is not locked")
    return 0


def _opened(root: Path) -> Database:
    """Return the database of a folder; a folder without one is an error, not an empty list."""
    from cryoflow.database import Database
    from cryoflow.errors import BadInput

    store = Database(root)
    if not store.exists:
        raise BadInput(root, "there is no database here.", "Make one with 'cryoflow ingest ROOT --database DB'.")
    return store


def _row(entry: object) -> dict[str, object]:
    import dataclasses

    from cryoflow.database import Entry

    assert isinstance(entry, Entry)
    row = {f.name: getattr(entry, f.name) for f in dataclasses.fields(entry) if f.name not in ("folder", "orientation")}
    return row | {"orientation": entry.orientation.verdict}
