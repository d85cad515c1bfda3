"""The report of an ingest: one line for each job, one sentence for all, an exit code."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryoflow.database import Entry
from cryoflow.errors import BadInput, CryoflowError, ExitCode, defect
from cryoflow.picks import PickSet
from cryoflow.projects.found import Job
from cryoflow.system.memory import shortage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IngestLine:
    """Result of one job.

    `status` is `read`, `unchanged`, `skipped`, `failed`, or `deleted` for an entry whose job is gone. `warning` says
    what a user should look at although the job was read; `dropped` counts what was left out while it was read.
    `is_incomplete`: a part of it could not be read, or none of its micrographs was found where the user said.
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
    dropped: Mapping[str, int] = field(default_factory=dict)
    is_incomplete: bool = False

    @property
    def entry(self) -> str:
        """Return the first entry of the job, or ""."""
        return self.entries[0] if self.entries else ""


@dataclass(frozen=True)
class IngestReport:
    """Results of all jobs; folders and projects that could not be listed."""

    lines: tuple[IngestLine, ...]
    unreadable: tuple[BadInput, ...] = ()

    @property
    def summary(self) -> str:
        """Return one sentence, such as `128 jobs: 121 read, 5 skipped (unfinished), 2 failed`."""
        jobs = [line for line in self.lines if line.status != "deleted"]
        tally = Counter(line.status for line in jobs)
        parts = [f"{tally[s]} {s}" for s in ("read", "unchanged") if tally[s]]
        if tally["skipped"]:
            skipped = (line.reason.partition(" (dropped: ")[0] for line in jobs if line.status == "skipped")
            reasons = Counter(reason.partition(":")[0] for reason in skipped)
            several = len(reasons) > 1
            skipped_for = ", ".join(f"{n} {reason}" if several else reason for reason, n in sorted(reasons.items()))
            parts.append(f"{tally['skipped']} skipped ({skipped_for})")
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
        """Return 0 where nothing failed, 1 where something failed and nothing was read, else 3."""
        failed = any(line.status == "failed" or line.is_incomplete for line in self.lines) or bool(self.unreadable)
        if not failed:
            return ExitCode.OK
        good = any(line.status in ("read", "unchanged") for line in self.lines)
        return ExitCode.PARTLY_FAILED if good else ExitCode.FAILED


def line_of_entries(entries: Sequence[Entry], status: str, reason: str) -> IngestLine:
    """Return the line of a job that gave these entries."""
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


def line_of_job(
    job: Job, status: str, reason: str, entries: Sequence[str] = (), n_picks: int = 0, n_micrographs: int = 0
) -> IngestLine:
    """Return the line of a job whose entries were not written now."""
    return IngestLine(job.project_name, job.job, job.kind.value, status, reason, n_picks, n_micrographs, tuple(entries))


def with_dropped(line: IngestLine, picksets: Iterable[PickSet]) -> IngestLine:
    """Return the line of a job, with what was left out of these sets of its picks counted at the end of its reason."""
    dropped: Counter[str] = Counter()
    for pickset in picksets:
        dropped.update(pickset.counts)
    if not dropped:
        return line
    numbers = ", ".join(f"{number} {what}" for what, number in sorted(dropped.items()))
    return replace(line, dropped=dict(dropped), reason=f"{line.reason} (dropped: {numbers})".strip())


def explained(error: Exception, where: Path) -> str:
    """Return what went wrong with one job or table, whatever its files made a reader raise."""
    if isinstance(error, CryoflowError):
        return str(error)
    if lack := shortage(error):
        return f"{where}: {lack}"
    if isinstance(error, OSError):
        return f"{error.filename or where}: cannot be read: {error.strerror or error}."
    log.debug("reading %s", where, exc_info=error)
    return str(defect(where, error))
