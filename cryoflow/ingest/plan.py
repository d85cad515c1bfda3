"""Which jobs are to be read: a crawl against what the database holds and what ingest remembers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryoflow.database import Database, Entry
from cryoflow.database.entry import CURRENT, DAMAGED
from cryoflow.errors import BadInput
from cryoflow.ingest.memory import Remembered, job_key, recall
from cryoflow.ingest.options import IngestOptions
from cryoflow.micrographs.find import Finder
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.projects.found import Job, JobStatus

Action = Literal["read", "unchanged", "skip"]


@dataclass(frozen=True)
class PlannedJob:
    """A job and what is to be done with it.

    `key` is what `memory.job_key` said before the job is read, so that a change while it is read is noticed by the next
    run. `entries` are those that the job has in the database now; `mark` is what to mark them with, empty for nothing.
    """

    job: Job
    action: Action
    reason: str
    key: str
    entries: tuple[Entry, ...] = ()
    mark: str = ""
    remembered: Remembered | None = None


@dataclass(frozen=True)
class GoneEntry:
    """An entry whose job or project is not there any more."""

    entry: Entry
    reason: str


@dataclass(frozen=True)
class Plan:
    """What an ingest will do, in order of project and job; folders and projects that could not be listed."""

    jobs: tuple[PlannedJob, ...]
    gone: tuple[GoneEntry, ...]
    unreadable: tuple[BadInput, ...]


def plan_jobs(
    roots: Sequence[str | Path] | str | Path, database: Database, options: IngestOptions | None = None
) -> Plan:
    """Crawl, and decide job by job. No dataset is opened.

    Raises
    ------
    BadInput
        Where a root does not exist, or a flip names a project that was not found.
    """
    options = options or IngestOptions()
    roots = [roots] if isinstance(roots, str | Path) else list(roots)
    crawled = crawl(roots)
    listed = jobs_of(crawled.projects)
    if unknown := options.unused_flips({p.name: p.path for p in crawled.projects}):
        names = ", ".join(sorted(p.name for p in crawled.projects)[:10])
        raise BadInput(unknown[0], "a flip names this project, and it was not found.", f"Found were: {names}.")
    entries_of: dict[tuple[Path, str], list[Entry]] = {}
    for entry in database.entries():
        if entry.program in ("relion", "cryosparc") and entry.project_path is not None:
            entries_of.setdefault((entry.project_path, entry.job), []).append(entry)
    memories = {p.path: recall(database, p.path) for p in crawled.projects}
    planned = [
        _planned(job, entries_of.get((job.project, job.job), []), memories[job.project].get(job.job), options)
        for job in listed.jobs
    ]
    gone = _gone(
        entries_of,
        jobs={(job.project, job.job) for job in listed.jobs},
        projects={p.path for p in crawled.projects},
        unreadable=[error.path for error in (*crawled.unreadable, *listed.unreadable)],
        roots=[Path(os.path.abspath(root)) for root in roots],  # noqa: PTH100 as the crawl names them
    )
    return Plan(tuple(planned), tuple(gone), (*crawled.unreadable, *listed.unreadable))


def _planned(job: Job, entries: list[Entry], remembered: Remembered | None, options: IngestOptions) -> PlannedJob:
    has = tuple(entries)
    if not job.status.is_readable(options.include_unfinished):
        reason = f"{job.status.value}: {job.reason}" if job.reason else job.status.value
        return PlannedJob(job, "skip", reason, "", has, _MARKS.get(job.status, "stale"), remembered)
    key = job_key(job, options)
    sound = {e.name for e in entries if e.status != DAMAGED}
    if remembered is None or remembered.status == "failed":
        reason = "new" if not has else "not remembered: read again"
    elif remembered.key != key:
        reason = "changed"
    elif not set(remembered.entries) <= sound:
        reason = "its entry is missing or damaged"
    elif options.reread:
        reason = "asked for"
    elif remembered.missing and _turned_up(job, remembered, options):
        reason = "micrographs that were missing are there now"
    else:
        return PlannedJob(job, "unchanged", "", key, has, "", remembered)
    return PlannedJob(job, "read", reason, key, has, "", remembered)


def _turned_up(job: Job, remembered: Remembered, options: IngestOptions) -> bool:
    finder = Finder(job.project, options.remaps)
    return any(map(finder.is_where_named, remembered.missing))


_MARKS = {JobStatus.CLEARED: "cleared", JobStatus.EMPTY: "superseded", JobStatus.NOT_OF_INTEREST: "superseded"}


def _gone(
    entries_of: dict[tuple[Path, str], list[Entry]],
    *,
    jobs: set[tuple[Path, str]],
    projects: set[Path],
    unreadable: list[Path],
    roots: list[Path],
) -> list[GoneEntry]:
    """Entries below the roots whose job the crawl did not meet, unless something there could not be read."""
    gone: list[GoneEntry] = []
    for (project, job), entries in sorted(entries_of.items()):
        if (project, job) in jobs or any(u == project or u in project.parents for u in unreadable):
            continue
        if project in projects:
            reason = f"{job} is no longer in {project}"
        elif any(root == project or root in project.parents for root in roots) and not project.exists():
            reason = f"there is no project at {project} any more"
        else:
            continue
        gone += [GoneEntry(e, reason) for e in entries if e.status in (CURRENT, DAMAGED, "stale")]
    return gone
