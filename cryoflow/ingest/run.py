"""Reading the planned jobs and writing their entries; an error of one job is its own, and the rest goes on."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path

from cryoflow import files
from cryoflow.database import Database, Entry, Orientation
from cryoflow.database.entry import CURRENT
from cryoflow.errors import BadInput, CryoflowError, DatabaseBusy, ExitCode, NotWritten
from cryoflow.ingest.memory import Remembered, remember
from cryoflow.ingest.options import Flip, IngestOptions, flipped
from cryoflow.ingest.orientation import orientation_of
from cryoflow.ingest.plan import Plan, PlannedJob, plan_jobs
from cryoflow.picks import PickSet
from cryoflow.projects import read_job

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestLine:
    """What became of one job.

    `status` is `read`, `unchanged`, `skipped`, `failed`, or `deleted` for an entry whose job is gone. `warning` says
    what a user should look at although the job was read.
    """

    project: str
    job: str
    kind: str
    status: str
    reason: str
    n_picks: int
    n_micrographs: int
    entries: tuple[str, ...]
    warning: str = ""

    @property
    def entry(self) -> str:
        """The first entry that the job has, empty where it has none."""
        return self.entries[0] if self.entries else ""


@dataclass(frozen=True)
class IngestReport:
    """What became of every job; folders and projects that could not be listed."""

    lines: tuple[IngestLine, ...]
    unreadable: tuple[BadInput, ...] = ()

    @property
    def summary(self) -> str:
        """One sentence, such as `128 jobs: 121 read, 5 skipped (unfinished), 2 failed`."""
        jobs = [line for line in self.lines if line.status != "deleted"]
        tally = Counter(line.status for line in jobs)
        parts = [f"{tally[s]} {s}" for s in ("read", "unchanged") if tally[s]]
        if tally["skipped"]:
            reasons = Counter(line.reason.partition(":")[0] for line in jobs if line.status == "skipped")
            several = len(reasons) > 1
            said = ", ".join(f"{n} {reason}" if several else reason for reason, n in sorted(reasons.items()))
            parts.append(f"{tally['skipped']} skipped ({said})")
        if tally["failed"]:
            parts.append(f"{tally['failed']} failed")
        text = f"{len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}: {', '.join(parts) or 'nothing to do'}"
        if gone := len(self.lines) - len(jobs):
            text += f"; {gone} {'entry' if gone == 1 else 'entries'} marked as deleted"
        if self.unreadable:
            n = len(self.unreadable)
            text += f"; {n} {'folder' if n == 1 else 'folders'} could not be looked into"
        return text

    @property
    def exit_code(self) -> ExitCode:
        """0 where nothing failed, 1 where something failed and nothing was read, else 3."""
        failed = any(line.status == "failed" for line in self.lines) or bool(self.unreadable)
        if not failed:
            return ExitCode.OK
        good = any(line.status in ("read", "unchanged") for line in self.lines)
        return ExitCode.PARTLY_FAILED if good else ExitCode.FAILED


@dataclass(frozen=True)
class _Reading:
    """The picks of a job with their verdicts, or what went wrong."""

    picksets: tuple[tuple[PickSet, Orientation], ...] = ()
    error: str = ""


def ingest(
    roots: Sequence[str | Path] | str | Path,
    database: Database | str | Path,
    *,
    workers: int = 1,
    include_unfinished: bool = False,
    remaps: Mapping[str, str] | None = None,
    flips: Mapping[str, Flip] | None = None,
    check_orientation: bool = True,
    reread: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    on_line: Callable[[IngestLine], None] | None = None,
) -> IngestReport:
    """Read every finished job below some folders into a database, as far as it is new or changed.

    Parameters
    ----------
    roots
        Folders above projects, or projects.
    workers
        Processes that read at the same time; entries are written in order of project and job whatever their number.
    include_unfinished, remaps, flips, check_orientation, reread
        See `IngestOptions`.
    on_plan, on_line
        Called with the plan, then with what became of each job, for a progress display.

    Raises
    ------
    BadInput
        Where a root does not exist. What is wrong with a job is in its line of the report.
    DatabaseBusy, NotWritten
        Where the database cannot be written. All that was written is complete, and the next run goes on from there.
    """
    database = database if isinstance(database, Database) else Database(database)
    options = IngestOptions(include_unfinished, remaps or {}, flips or {}, check_orientation, reread)
    plan = plan_jobs(roots, database, options)
    if on_plan:
        on_plan(plan)
    lines: list[IngestLine] = []

    def tell(line: IngestLine) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    to_read = [p for p in plan.jobs if p.action == "read"]
    readings = _read_all(to_read, options, workers)
    for planned in plan.jobs:
        tell(_store(planned, next(readings), database) if planned.action == "read" else _settle(planned, database))
    for gone in plan.gone:
        database.mark(gone.entry.name, "deleted", gone.reason)
        tell(
            IngestLine(
                gone.entry.project,
                gone.entry.job,
                gone.entry.kind.value,
                "deleted",
                gone.reason,
                gone.entry.n_picks,
                gone.entry.n_micrographs,
                (gone.entry.name,),
            )
        )
    return IngestReport(tuple(lines), plan.unreadable)


def ingest_job(
    planned: PlannedJob, database: Database | str | Path, options: IngestOptions | None = None
) -> IngestLine:
    """Do with one job what `plan_jobs` decided, and say what became of it.

    Raises
    ------
    DatabaseBusy, NotWritten
        Where the database cannot be written.
    """
    database = database if isinstance(database, Database) else Database(database)
    if planned.action != "read":
        return _settle(planned, database)
    return _store(planned, _read(planned, options or IngestOptions()), database)


def ingest_table(
    file: str | Path,
    database: Database | str | Path,
    *,
    micrographs: str | Path | None = None,
    flip: Flip | None = None,
    check_orientation: bool = True,
    name: str | None = None,
) -> IngestLine:
    """Read a lone table of picks (STAR, .cs, .csg, .box, .cbox, Topaz text, CSV) with the folder of its micrographs.

    Raises
    ------
    BadInput
        Where it is no table of picks, or its micrographs are needed and not there.
    """
    from cryoflow.projects.tables import read_table_of_picks

    database = database if isinstance(database, Database) else Database(database)
    pickset = read_table_of_picks(Path(file), Path(micrographs) if micrographs else None)
    if name:
        pickset = replace(pickset, provenance=replace(pickset.provenance, project_name=name))
    pickset = flipped(pickset, flip or Flip())
    verdict = orientation_of(pickset) if check_orientation else Orientation()
    return _line_of([database.add(pickset, orientation=verdict)], "read", "")


def _read_all(to_read: Sequence[PlannedJob], options: IngestOptions, workers: int) -> Iterator[_Reading]:
    """What was read of each job, in order; a few jobs ahead of the one that is asked for."""
    workers = min(workers, len(to_read))
    if workers <= 1:
        yield from (_read(planned, options) for planned in to_read)
        return
    waiting: deque[tuple[PlannedJob, Future[_Reading]]] = deque()
    left = deque(to_read)
    context = get_context("spawn")  # a forked child of a program with threads may hang
    pool = ProcessPoolExecutor(workers, mp_context=context)
    try:
        while left or waiting:
            while left and len(waiting) < workers + 1:
                planned = left.popleft()
                waiting.append((planned, pool.submit(_read, planned, options)))
            planned, future = waiting.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                # Which of the running jobs ended its process is not known: each gets a process of its own.
                pool.shutdown(wait=False, cancel_futures=True)
                for again in (planned, *(p for p, _ in waiting)):
                    yield _read_apart(again, options)
                waiting.clear()
                pool = ProcessPoolExecutor(workers, mp_context=context)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read_apart(planned: PlannedJob, options: IngestOptions) -> _Reading:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_read, planned, options).result()
        except BrokenProcessPool:
            return _Reading(error="the process that read it was killed: most likely it needs more memory than there is")


def _read(planned: PlannedJob, options: IngestOptions) -> _Reading:
    """Read one job; whatever its files make a reader raise is an error of this job alone."""
    job = planned.job
    try:
        picksets = read_job(job, remaps=options.remaps, include_unfinished=options.include_unfinished)
        flip = options.flip_of(job.project_name, job.project)
        done = []
        for pickset in _told_apart(picksets):
            in_frame = flipped(pickset, flip)
            done.append((in_frame, orientation_of(in_frame) if options.check_orientation else Orientation()))
        return _Reading(tuple(done))
    except CryoflowError as error:
        return _Reading(error=str(error))
    except OSError as error:
        return _Reading(error=f"{error.filename or job.folder}: cannot be read: {error.strerror or error}.")
    except MemoryError:
        return _Reading(error=f"{job.folder}: it needs more memory than there is.")
    except Exception as error:
        log.debug("reading %s", job.folder, exc_info=True)
        what = f"{type(error).__name__}: {error}".partition("\n")[0]
        return _Reading(
            error=f"{job.folder}: a defect of cryoflow ({what}). Please report it with what --debug prints."
        )


def _told_apart(picksets: Sequence[PickSet]) -> list[PickSet]:
    """Outputs of one job whose entries would have one name get their group as suffix."""
    names = Counter(p.provenance.entry_name for p in picksets)
    apart = []
    for pickset in picksets:
        who = pickset.provenance
        if names[who.entry_name] > 1 and who.output_group:
            suffix = "_".join(filter(None, (who.suffix, files.safe_name(who.output_group))))
            pickset = replace(pickset, provenance=replace(who, suffix=suffix))
        apart.append(pickset)
    return apart


def _store(planned: PlannedJob, reading: _Reading, database: Database) -> IngestLine:
    """Write a job's entries, mark those that it no longer gives, and remember what was done: one turn at the lock."""
    job = planned.job
    if reading.error:
        line = IngestLine(job.project_name, job.job, job.kind.value, "failed", reading.error, 0, 0, planned.entries)
        with database.writing():
            for name in planned.entries:
                database.mark(name, "stale", f"its job changed and could not be read again: {reading.error}")
            _remember(planned, line, database)
        return line
    with database.writing():
        entries: list[Entry] = []
        warnings: list[str] = []
        for pickset, verdict in reading.picksets:
            if len(pickset) == 0:
                continue
            try:
                entry = database.add(pickset, job_status=job.status.value, orientation=verdict)
            except (DatabaseBusy, NotWritten):
                raise
            except CryoflowError as error:
                return IngestLine(job.project_name, job.job, job.kind.value, "failed", str(error), 0, 0, ())
            entries.append(entry)
            if verdict.verdict == "contradicted":
                warnings.append(f"{entry.name}: the pixels fit better after {verdict.best} ({verdict.detail})")
        for name in planned.entries:
            if name not in {e.name for e in entries}:
                database.mark(name, "superseded", f"{job.job} no longer gives this output")
        reason = planned.reason if entries else "no picks"
        line = replace(_line_of(entries, "read", reason), warning="; ".join(warnings))
        if not entries:
            line = replace(line, status="skipped", project=job.project_name, job=job.job, kind=job.kind.value)
        _remember(planned, line, database)
    return line


def _settle(planned: PlannedJob, database: Database) -> IngestLine:
    """Report a job that is not read, and put its entries' marks right."""
    job, before = planned.job, planned.remembered
    current = {name: database.entry(name) for name in planned.entries}
    if planned.action == "unchanged":
        assert before is not None
        for name in before.entries:
            if name in current and current[name].status != CURRENT:
                database.unmark(name)
        status, reason = ("unchanged", "") if before.entries else ("skipped", before.reason)
        return IngestLine(
            job.project_name,
            job.job,
            job.kind.value,
            status,
            reason,
            before.n_picks,
            before.n_micrographs,
            before.entries,
        )
    for name, entry in current.items():
        if planned.mark and (entry.status, entry.reason) != (planned.mark, planned.reason):
            database.mark(name, planned.mark, planned.reason)
    n_picks = sum(o.n_picks or 0 for o in job.outputs)
    n_micrographs = max((o.n_micrographs or 0 for o in job.outputs), default=0)
    failed = job.status.value == "unreadable"
    return IngestLine(
        job.project_name,
        job.job,
        job.kind.value,
        "failed" if failed else "skipped",
        planned.reason,
        n_picks,
        n_micrographs,
        planned.entries,
    )


def _remember(planned: PlannedJob, line: IngestLine, database: Database) -> None:
    what = Remembered(planned.key, line.status, line.reason, line.entries, line.n_picks, line.n_micrographs)
    remember(database, planned.job.project, {planned.job.job: what})


def _line_of(entries: Sequence[Entry], status: str, reason: str) -> IngestLine:
    if not entries:
        return IngestLine("", "", "", status, reason, 0, 0, ())
    first = entries[0]
    return IngestLine(
        project=first.project,
        job=first.job,
        kind=first.kind.value,
        status=status,
        reason=reason,
        n_picks=sum(e.n_picks for e in entries),
        n_micrographs=max(e.n_micrographs for e in entries),
        entries=tuple(e.name for e in entries),
    )
