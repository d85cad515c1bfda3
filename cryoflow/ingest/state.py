"""What ingest remembers of each job, so that a nightly run reads only what is new or changed.

One file a project in `DB/.jobs/`. It may be removed at any time: then every job is read again, to the same entries.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryoflow.database import Database, layout
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.ingest.options import IngestOptions
from cryoflow.projects.found import Job
from cryoflow.storage import files
from cryoflow.storage.parsing import validated
from cryoflow.storage.safe_names import safe_name, short_hash
from cryoflow.storage.sealing import sealed, unsealed

VERSION = 1
READERS_VERSION = 5
"""Raised when a reader reads something differently: then all jobs are read again."""


@dataclass(frozen=True)
class JobState:
    """Result of a job: `key` is a fingerprint of its files and options, `missing` names some micrographs not found."""

    key: str
    status: str
    reason: str
    entries: tuple[str, ...]
    n_picks: int
    n_micrographs: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _StoredJob:
    """A `JobState` as its file has it."""

    key: str
    status: str
    reason: str
    entries: tuple[str, ...]
    picks: int
    micrographs: int
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class _StoredStates:
    """The file of a project's ingest state."""

    project: str
    jobs: dict[str, _StoredJob]


def job_key(job: Job, options: IngestOptions) -> str:
    """Return a hash of all that decides a job's entries: its files' sizes and times, what the crawl says, and the
    options."""
    parts = [
        f"{READERS_VERSION} {job.program} {job.kind} {job.job_type} {job.status} {job.project_name}",
        f"{options.include_unfinished} {sorted(options.remaps.items())} {options.check_orientation}",
        str(options.flip_of(job.project_name, job.project)),
    ]
    for output in job.outputs:
        parts.append(f"{output.group!r} {output.suffix!r} {output.small_files}")
        for path in output.files:
            try:
                status = os.stat(path)
                parts.append(f"{str(path)!r} {status.st_size} {status.st_mtime_ns}")
            except OSError:
                parts.append(f"{str(path)!r} absent")
    return short_hash("\n".join(parts), 32)


def read_states(database: Database, project: Path) -> dict[str, JobState]:
    """Read the states of a project's jobs; none if the file is absent, damaged, or of another project."""
    path = state_file(database, project)
    try:
        found = validated(path, unsealed(path, layout.content(path), VERSION), _StoredStates)
    except NewerFormat:
        raise
    except (OSError, BadInput):
        return {}
    if found.project != str(project):  # copied here from another project
        return {}
    return {
        name: JobState(j.key, j.status, j.reason, j.entries, j.picks, j.micrographs, j.missing)
        for name, j in found.jobs.items()
    }


def write_states(database: Database, project: Path, changes: Mapping[str, JobState | None]) -> None:
    """Take in what became of some jobs; None forgets one. Jobs that others wrote meanwhile stay."""
    with database.writing():
        jobs = read_states(database, project)
        for name, what in changes.items():
            if what is None:
                jobs.pop(name, None)
            else:
                jobs[name] = what
        record: dict[str, object] = {
            "format": VERSION,
            "project": str(project),
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "jobs": {
                name: {
                    "key": j.key,
                    "status": j.status,
                    "reason": j.reason,
                    "entries": list(j.entries),
                    "picks": j.n_picks,
                    "micrographs": j.n_micrographs,
                    "missing": list(j.missing),
                }
                for name, j in sorted(jobs.items(), key=lambda item: layout.natural(item[0]))
            },
        }
        files.write_atomically(state_file(database, project), sealed(record), root=database.root)


def state_file(database: Database, project: Path) -> Path:
    """Return the file of a project's ingest state."""
    return database.root / layout.JOBS / f"{safe_name(project.name or 'root')}-{short_hash(str(project))}.json"
