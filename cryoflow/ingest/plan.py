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
from cryoflow.ingest.options import IngestOptions
from cryoflow.ingest.state import JobState, job_key, read_states
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.projects.found import Job, JobStatus

Action = Literal["read", "unchanged", "skip"]


@dataclass(frozen=True)
class PlannedJob:
    """A job and what is to be done with it.

    `key` is `state.job_key` before the job is read, so that a change while it is read is noticed by the next
    run. `entries` are those that the job has in the database now; `mark` is what to mark them with, empty for nothing.
    """

    job: Job
    action: Action
    reason: str
    key: str
    entries: tuple[Entry, ...] = ()
    mark: str = ""
    state: JobState | None = None


@dataclass(frozen=True)
class GoneEntry:
    """An entry whose job or project is not there any more."""

    entry: Entry
    reason: str


@dataclass(frozen=True)
class Plan:
    """Jobs that an ingest will read, in order of project and job; folders and projects that could not be listed."""

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
    states = {p.path: read_states(database, p.path) for p in crawled.projects}
    named = [Path(os.path.abspath(root)) for root in roots]  # noqa: PTH100 as the crawl names them
    planned = [
        _planned(job, entries_of.get((job.project, job.job), []), states[job.project].get(job.job), options)
        for job in _of_named_jobs(listed.jobs, named)
    ]
    gone = _gone(
        entries_of,
        jobs={(job.project, job.job) for job in listed.jobs},
        projects={p.path for p in crawled.projects},
        unreadable=[error.path for error in (*crawled.unreadable, *listed.unreadable)],
        roots=named,
    )
    return Plan(tuple(planned), tuple(gone), (*crawled.unreadable, *listed.unreadable))


def _of_named_jobs(jobs: Sequence[Job], roots: Sequence[Path]) -> list[Job]:
    """Return the job of a project found above a root whose folder the root is, or lies in.

    A root that lies in a project and in none of its jobs' folders means the project.
    """
    kept = []
    for job in jobs:
        inside = [root for root in roots if job.project in root.parents]
        is_named = any(root == job.project or root in job.project.parents for root in roots)
        if not is_named and inside and not any(_is_in_job(root, job) for root in inside):
            of_project = [other for other in jobs if other.project == job.project]
            if all(any(_is_in_job(root, other) for other in of_project) for root in inside):
                continue
        kept.append(job)
    return kept


def _is_in_job(root: Path, job: Job) -> bool:
    folder = os.path.realpath(job.folder)
    return (os.path.realpath(root) + os.sep).startswith(folder + os.sep)


def _planned(job: Job, entries: list[Entry], state: JobState | None, options: IngestOptions) -> PlannedJob:
    has = tuple(entries)
    if not job.status.is_readable(options.include_unfinished):
        reason = f"{job.status.value}: {job.reason}" if job.reason else job.status.value
        return PlannedJob(job, "skip", reason, "", has, _MARKS.get(job.status, "stale"), state)
    key = job_key(job, options)
    sound = {e.name for e in entries if e.status != DAMAGED}
    if state is None or state.status == "failed":
        reason = "new" if not has else "no record of its last reading"
    elif state.key != key:
        reason = "changed"
    elif not set(state.entries) <= sound:
        reason = "its entry is missing or damaged"
    elif options.reread:
        reason = "asked for"
    elif state.missing and _turned_up(job, state, options):
        reason = "micrographs that were missing are there now"
    else:
        return PlannedJob(job, "unchanged", "", key, has, "", state)
    return PlannedJob(job, "read", reason, key, has, "", state)


def _turned_up(job: Job, state: JobState, options: IngestOptions) -> bool:
    finder = Finder(job.project, options.remaps)
    return any(map(finder.is_where_named, state.missing))


_MARKS = {JobStatus.CLEARED: "cleared", JobStatus.EMPTY: "superseded", JobStatus.NOT_OF_INTEREST: "superseded"}


def _gone(
    entries_of: dict[tuple[Path, str], list[Entry]],
    *,
    jobs: set[tuple[Path, str]],
    projects: set[Path],
    unreadable: list[Path],
    roots: list[Path],
) -> list[GoneEntry]:
    """Return entries below the roots whose job the crawl did not meet, unless something there could not be read."""
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
