"""Run SLURM's own commands (sbatch, squeue, sacct or scontrol, scancel) and parse what they print."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.errors import CryoflowError, ToolFailed
from cryoflow.system.programs import run

if TYPE_CHECKING:
    from cryoflow.execution.stage_script import StageJob

TERMINAL = frozenset((
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
))  # fmt: skip
"""States that a job does not leave (its record may say more after a blank: `CANCELLED by 1000`)."""

_GONE = ("invalid job id", "already completing or completed")

_KILLED = (9, 15)
"""Signals that end what a shell runs. `sacct` prints 15 where the shell ended with 143; `scontrol` prints 143."""

_TIMEOUT_S = 60


class SchedulerSilent(CryoflowError):
    """SLURM's controller did not answer; nothing is known about any job."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that is waiting or running."""

    job_id: int
    state: str
    reason: str
    comment: str


@dataclass(frozen=True)
class EndedJob:
    """The end of a job, as far as SLURM records it. Unknown is None.

    Attributes
    ----------
    state
        One of `TERMINAL`, or `UNKNOWN` where SLURM has forgotten the job.
    """

    job_id: int
    state: str
    exit_code: int | None = None
    signal: int | None = None
    nodes: str = ""
    elapsed_s: int | None = None

    @property
    def never_started(self) -> bool:
        """Return whether the job was cancelled while it waited, as far as SLURM records it."""
        return self.state == "CANCELLED" and self.elapsed_s == 0 and not self.nodes

    @property
    def out_of_memory(self) -> bool:
        """Return whether the job was killed for memory. Without cgroups SLURM reports only that signal 9 ended it."""
        killed = self.signal == 9 or self.exit_code == 137
        return self.state == "OUT_OF_MEMORY" or (self.state == "FAILED" and killed)


class Scheduler:
    """The commands of the SLURM that this machine belongs to. All methods block.

    Parameters
    ----------
    min_interval_s
        Seconds between two calls of squeue; some sites forbid more than one a minute.
    """

    lists_comments = True

    def __init__(self, *, min_interval_s: float = 0.0) -> None:
        self.min_interval_s = min_interval_s
        self._squeue = threading.Lock()
        self._asked_at = float("-inf")
        self._queue: dict[int, QueuedJob] = {}

    def script(self, job: StageJob) -> str:
        """Return the whole job script of a stage."""
        from cryoflow.execution.stage_script import script

        return script(job)

    def submit(self, script: Path, environment: Mapping[str, str]) -> int:
        """Submit a job script and return the job's number.

        Raises
        ------
        ToolFailed
            With sbatch's own words.
        """
        printed = run(["sbatch", "--parsable", script], env=environment, timeout_s=_TIMEOUT_S)
        # site plug-ins print greetings around it
        numbers = [m[1] for line in printed.splitlines() if (m := re.fullmatch(r"(\d+)(;\S+)?", line.strip()))]
        if not numbers:
            raise ToolFailed(["sbatch", "--parsable", str(script)], 0, f"no job number in: {printed.strip()}")
        return int(numbers[-1])

    def queue(self) -> dict[int, QueuedJob]:
        """Return all jobs of this user that wait or run, as they are now or later, in one call.

        Callers that wait for the interval to pass share one answer. None gets an answer from before its call: a job
        that was submitted just before must be in it.

        Raises
        ------
        SchedulerSilent
            Where squeue fails: a job that is not listed then has not ended.
        """
        called_at = time.monotonic()
        with self._squeue:
            if self._asked_at < called_at:
                time.sleep(max(0.0, self._asked_at + self.min_interval_s - called_at))
                self._asked_at, asked_before = time.monotonic(), self._asked_at
                try:
                    self._queue = self._ask()
                except SchedulerSilent:
                    self._asked_at = asked_before  # no answer to share
                    raise
            return self._queue

    def _ask(self) -> dict[int, QueuedJob]:
        try:
            printed = run(
                ["squeue", "--noheader", f"--user={os.getuid()}", "--format=%A|%T|%r|%k"], timeout_s=_TIMEOUT_S
            )
        except ToolFailed as error:
            raise SchedulerSilent(str(error)) from error
        return parse_queue(printed)

    def ended(self, job_ids: Collection[int]) -> dict[int, EndedJob]:
        """Return the jobs of `job_ids` that have ended, by one sacct for all, and scontrol for those it lacks."""
        found: dict[int, EndedJob] = {}
        if not job_ids:
            return found
        try:
            printed = run(
                ["sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={','.join(map(str, sorted(job_ids)))}",
                 "--format=JobIDRaw,State,ExitCode,NodeList,ElapsedRaw"],
                timeout_s=_TIMEOUT_S,
            )  # fmt: skip
            found = parse_accounts(printed)
        except ToolFailed:
            pass  # no accounting here, or it is down
        for job_id in set(job_ids) - set(found):
            try:
                printed = run(["scontrol", "show", "job", "--oneliner", str(job_id)], timeout_s=_TIMEOUT_S)
            except ToolFailed:
                continue  # forgotten already, or the controller is silent
            if job := parse_job(printed):
                found[job.job_id] = job
        return found

    def cancel(self, job_ids: Collection[int]) -> None:
        """End jobs, waiting or running. Jobs that ended already are no error, nor those that SLURM has forgotten."""
        if not job_ids:
            return
        try:
            run(["scancel", "--quiet", *map(str, sorted(job_ids))], timeout_s=_TIMEOUT_S)
        except ToolFailed as error:
            lines = [line.lower() for line in error.tail.splitlines() if line.strip()]
            if not lines or not all(any(sign in line for sign in _GONE) for line in lines):
                raise


def assigned_nodes(printed: str) -> str:
    """Return the nodes of a job as SLURM prints them, empty for one that never got any."""
    return "" if printed in ("None assigned", "None", "(null)") else printed


def parse_queue(printed: str) -> dict[int, QueuedJob]:
    """Read `squeue --format=%A|%T|%r|%k`."""
    jobs = {}
    for line in printed.splitlines():
        parts = line.split("|", 3)
        if len(parts) == 4 and parts[0].isdigit():
            comment = "" if parts[3] == "(null)" else parts[3]
            jobs[int(parts[0])] = QueuedJob(int(parts[0]), parts[1], parts[2], comment)
    return jobs


def parse_accounts(printed: str) -> dict[int, EndedJob]:
    """Read `sacct --parsable2 --allocations`; jobs that still run, or whose record lags behind, are left out."""
    jobs = {}
    for line in printed.splitlines():
        parts = line.split("|")
        if len(parts) == 5 and parts[0].isdigit() and (state := parts[1].split(" ")[0]) in TERMINAL:
            code, signal = _exit(parts[2])
            code = code + 128 if code in _KILLED else code
            elapsed = int(parts[4]) if parts[4].isdigit() else None
            jobs[int(parts[0])] = EndedJob(int(parts[0]), state, code, signal, assigned_nodes(parts[3]), elapsed)
    return jobs


def parse_job(printed: str) -> EndedJob | None:
    """Read `scontrol show job --oneliner`; None for a job that has not ended."""
    # a job's name comes first and may hold anything: the real fields are the last of their name before Comment
    fields = dict(re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", printed.partition(" Comment=")[0]))
    state = fields.get("JobState", "")
    if state not in TERMINAL or not fields.get("JobId", "").isdigit():
        return None
    code, signal = _exit(fields.get("ExitCode", ""))
    elapsed = _seconds(fields.get("RunTime", ""))
    return EndedJob(int(fields["JobId"]), state, code, signal, assigned_nodes(fields.get("NodeList", "")), elapsed)


def _exit(text: str) -> tuple[int | None, int | None]:
    """Return exit code and signal: `0:9` is code 0 and signal 9; signal 0 is none."""
    code, _, signal = text.partition(":")
    return (int(code) if code.isdigit() else None, (int(signal) or None) if signal.isdigit() else None)


def _seconds(text: str) -> int | None:
    """Return `1-02:03:04` in seconds."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", text)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
