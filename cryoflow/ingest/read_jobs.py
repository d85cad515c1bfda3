"""Reading the planned jobs and writing their entries; an error of one job is its own, and the rest goes on."""

from __future__ import annotations

import os
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

from cryoflow.database import Database, Entry, OrientationRecord
from cryoflow.database.entry import CURRENT
from cryoflow.errors import DatabaseBusy, NotWritten
from cryoflow.ingest.ingest_report import (
    IngestLine,
    IngestReport,
    explained,
    line_of_entries,
    line_of_job,
    with_dropped,
)
from cryoflow.ingest.options import IngestOptions
from cryoflow.ingest.orientation_check import check_entry
from cryoflow.ingest.plan import Plan, PlannedJob, plan_jobs
from cryoflow.ingest.state import JobState, write_states
from cryoflow.picks import PickSet
from cryoflow.projects import read_job
from cryoflow.projects.axis_convention import AxisConvention
from cryoflow.projects.found import JobStatus
from cryoflow.storage.safe_names import safe_name
from cryoflow.system import memory
from cryoflow.system.processes import giving_variables
from cryoflow.system.working_folder import pass_over_matplotlibrc, safe_path

_MISSING_KEPT = 12


@dataclass(frozen=True)
class _Reading:
    """The picks of a job with their orientation check, or the error."""

    outputs: tuple[tuple[PickSet, OrientationRecord, Mapping[str, bytes]], ...] = ()
    error: str = ""


def ingest(
    roots: Sequence[str | Path] | str | Path,
    database: Database | str | Path,
    *,
    workers: int = 1,
    include_unfinished: bool = False,
    remaps: Mapping[str, str] | None = None,
    flips: Mapping[str, AxisConvention] | None = None,
    check_orientation: bool = True,
    reread: bool = False,
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
    on_line
        Called with what became of each job, for a progress display.

    Raises
    ------
    BadInput
        Where a root does not exist. What is wrong with a job is in its line of the report.
    MemoryError
        Where this process may take less than `memory.LEAST_TO_READ`, or the pool of readers cannot be served.
    DatabaseBusy, NotWritten
        Where the database cannot be written. All that was written is complete, and the next run goes on from there.
    """
    database = database if isinstance(database, Database) else Database(database)
    options = IngestOptions(include_unfinished, remaps or {}, flips or {}, check_orientation, reread)
    memory.require(memory.LEAST_TO_READ)
    database.finalize()  # an ingest that was killed as it ended leaves nothing else to do
    plan = plan_jobs(roots, database, options)
    lines: list[IngestLine] = []

    def tell(line: IngestLine) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    to_read = [p for p in plan.jobs if p.action == "read"]
    readings = _read_all(to_read, options, workers)
    for planned in plan.jobs:
        tell(_finish(planned, next(readings) if planned.action == "read" else None, database))
    for line in mark_gone(plan, database):
        tell(line)
    return IngestReport(tuple(lines), plan.unreadable)


def mark_gone(plan: Plan, database: Database) -> list[IngestLine]:
    """Mark the entries whose jobs are gone, and log it."""
    lines = []
    for gone in plan.gone:
        entry = gone.entry
        database.mark(entry.name, "deleted", gone.reason)
        counts = (entry.n_picks, entry.n_micrographs, (entry.name,))
        lines.append(IngestLine(entry.project, entry.job, entry.kind.value, "deleted", gone.reason, *counts))
    return lines


def ingest_job(
    planned: PlannedJob, database: Database | str | Path, options: IngestOptions | None = None
) -> IngestLine:
    """Do with one job what `plan_jobs` decided, and return the result.

    Raises
    ------
    DatabaseBusy, NotWritten
        Where the database cannot be written.
    """
    database = database if isinstance(database, Database) else Database(database)
    reading = _read(planned, options or IngestOptions()) if planned.action == "read" else None
    return _finish(planned, reading, database)


def _read_all(to_read: Sequence[PlannedJob], options: IngestOptions, workers: int) -> Iterator[_Reading]:
    """Yield what was read of each job, in order; a few jobs ahead of the one that is asked for."""
    workers = min(workers, len(to_read))
    if workers <= 1:
        yield from (_read(planned, options) for planned in to_read)
        return
    waiting: deque[tuple[PlannedJob, Future[_Reading]]] = deque()
    left = deque(to_read)
    readers = _Readers(workers)
    try:
        while left or waiting:
            try:
                while left and len(waiting) < workers + 1:
                    waiting.append((left[0], readers.submit(left[0], options)))
                    left.popleft()
                reading = readers.result(waiting[0][1])
            except BrokenProcessPool:
                # Which of the running jobs ended its process is not known: each gets a process of its own.
                readers.close()
                for again, _ in waiting:
                    yield _read_apart(again, options)
                waiting.clear()
                readers = _Readers(workers)
            else:
                waiting.popleft()
                yield reading
    finally:
        readers.close()


class _Readers:
    """Processes that read jobs.

    The thread by which an executor serves its processes ends without a word when memory is too short to start another
    thread, and its futures are never done. Here that is a `MemoryError`.
    """

    POLL_S = 2.0

    def __init__(self, workers: int) -> None:
        self._threads_before, self._processes_before = set(threading.enumerate()), set(active_children())
        context = get_context("spawn")  # a forked child of a program with threads may hang
        with safe_path():  # the locks of a pool start a process, too
            self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
        self._serving: list[threading.Thread] = []

    def submit(self, planned: PlannedJob, options: IngestOptions) -> Future[_Reading]:
        with _one_blas_thread(), safe_path():  # each job starts a process until there are enough
            future = self._pool.submit(_read, planned, options)
        if not self._serving:
            new = set(threading.enumerate()) - self._threads_before
            self._serving = [t for t in new if not t.daemon]  # the daemon is the one that fills the queue
        return future

    def result(self, future: Future[_Reading]) -> _Reading:
        while not wait((future,), self.POLL_S).done:
            if not any(thread.is_alive() for thread in self._serving) and not future.done():
                raise MemoryError
        return future.result()

    def close(self) -> None:
        """Stop taking jobs; processes that nobody serves any more are ended, or they would be waited for at exit."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        if not any(thread.is_alive() for thread in self._serving):
            for process in set(active_children()) - self._processes_before:
                process.terminate()


def _one_blas_thread() -> AbstractContextManager[None]:
    """Give processes that are started one thread for linear algebra.

    They are as many as there are processors. OpenBLAS also waits for ever when memory is too short for its threads.
    """
    return giving_variables({"OPENBLAS_NUM_THREADS": "1"})


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed; it would wait for work for ever."""
    pass_over_matplotlibrc()

    def watch() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _read_apart(planned: PlannedJob, options: IngestOptions) -> _Reading:
    readers = _Readers(1)
    try:
        return readers.result(readers.submit(planned, options))
    except BrokenProcessPool:
        return _Reading(error="the process that read it was killed: most likely it needs more memory than there is")
    finally:
        readers.close()


def _read(planned: PlannedJob, options: IngestOptions) -> _Reading:
    """Read one job; whatever its files make a reader raise is an error of this job alone."""
    job = planned.job
    flip = options.flip_of(job.project_name, job.project)
    try:
        picksets = read_job(job, remaps=options.remaps, include_unfinished=options.include_unfinished, flip=flip)
        done = []
        for pickset in _disambiguated(picksets):
            seen = (
                check_entry(pickset, flip) if options.check_orientation and len(pickset) else (OrientationRecord(), {})
            )
            done.append((pickset, *seen))
        return _Reading(tuple(done))
    except Exception as error:
        return _Reading(error=explained(error, job.folder))


def _disambiguated(picksets: Sequence[PickSet]) -> list[PickSet]:
    """Return outputs of one job whose entries would have one name get their group as suffix."""
    names = Counter(p.provenance.entry_name for p in picksets)
    apart = []
    for pickset in picksets:
        who = pickset.provenance
        if names[who.entry_name] > 1 and who.output_group:
            suffix = "_".join(filter(None, (who.suffix, safe_name(who.output_group))))
            pickset = replace(pickset, provenance=replace(who, suffix=suffix))
        apart.append(pickset)
    return apart


def _finish(planned: PlannedJob, reading: _Reading | None, database: Database) -> IngestLine:
    """Store the picks of a job, or record why there are none; an error concerns this job alone."""
    try:
        return _finalize(planned, database) if reading is None else _store(planned, reading, database)
    except (DatabaseBusy, NotWritten):
        raise  # the other jobs could not be written either
    except Exception as error:
        if reading is None or reading.error:
            return line_of_job(planned.job, "failed", explained(error, planned.job.folder))
        return _finish(planned, _Reading(error=explained(error, planned.job.folder)), database)


def _store(planned: PlannedJob, reading: _Reading, database: Database) -> IngestLine:
    """Write a job's entries, mark those that it no longer gives, and remember what was done: one turn at the lock."""
    job = planned.job
    if reading.error:
        line = line_of_job(job, "failed", reading.error, [e.name for e in planned.entries])
        with database.writing():
            for old in planned.entries:
                database.mark(old.name, "stale", f"its job changed and could not be read again: {reading.error}")
            _write_state(planned, line, database)
        return line
    with database.writing():
        entries: list[Entry] = []
        warnings: list[str] = []
        for pickset, verdict, pictures in reading.outputs:
            if len(pickset) == 0:
                continue
            entry = database.add(pickset, job_status=job.status.value, orientation=verdict, pictures=pictures)
            entries.append(entry)
            if verdict.verdict == "contradicted":
                warnings.append(f"{entry.name}: look at its overlay pictures: {verdict.detail}")
        for old in planned.entries:
            if old.name not in {e.name for e in entries}:
                database.mark(old.name, "superseded", f"{job.job} no longer gives this output")
        reason = planned.reason if entries else "no picks"
        line = line_of_entries(entries, "read", reason) if entries else line_of_job(job, "skipped", reason)
        line = with_dropped(replace(line, warning="; ".join(warnings)), (pickset for pickset, _, _ in reading.outputs))
        _write_state(planned, line, database, _some_missing([pickset for pickset, _, _ in reading.outputs]))
    return line


def _finalize(planned: PlannedJob, database: Database) -> IngestLine:
    """Report a job that is not read, and put its entries' marks right."""
    job, before = planned.job, planned.state
    if planned.action == "unchanged":
        assert before is not None
        for entry in planned.entries:
            if entry.name in before.entries and entry.status != CURRENT:
                database.unmark(entry.name)
        status, reason = ("unchanged", "") if before.entries else ("skipped", before.reason)
        return line_of_job(job, status, reason, before.entries, before.n_picks, before.n_micrographs)
    for entry in planned.entries:
        if planned.mark and (entry.status, entry.reason) != (planned.mark, planned.reason):
            database.mark(entry.name, planned.mark, planned.reason)
    status = "failed" if job.status is JobStatus.UNREADABLE else "skipped"
    n_picks = sum(o.n_picks or 0 for o in job.outputs)
    n_micrographs = max((o.n_micrographs or 0 for o in job.outputs), default=0)
    return line_of_job(job, status, planned.reason, [e.name for e in planned.entries], n_picks, n_micrographs)


def _some_missing(picksets: Sequence[PickSet]) -> tuple[str, ...]:
    """Return names of a few micrographs that were not found, from all over the sets: looked for again by every run."""
    missing: dict[str, None] = {}
    for pickset in picksets:
        names = pickset.micrographs["name"][(pickset.micrographs["status"] == "missing").to_numpy()].tolist()
        missing.update(dict.fromkeys(names[:: max(1, len(names) // _MISSING_KEPT)][:_MISSING_KEPT]))
    return tuple(missing)[:_MISSING_KEPT]


def _write_state(planned: PlannedJob, line: IngestLine, database: Database, missing: tuple[str, ...] = ()) -> None:
    what = JobState(planned.key, line.status, line.reason, line.entries, line.n_picks, line.n_micrographs, missing)
    write_states(database, planned.job.project, {planned.job.job: what})
