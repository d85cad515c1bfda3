"""Waiting for many SLURM jobs with one squeue an interval, however many there are."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.to_thread

from cryoflow.execution.slurm import EndedJob, QueuedJob, Scheduler, SchedulerSilent
from cryoflow.execution.stage_script import TAG

log = logging.getLogger(__name__)

LOOK_EVERY_S = float(os.environ.get("CRYOFLOW_SLURM_POLL_SECONDS", "4"))
"""Between two looks at SLURM's queue and at what users cancelled. Both are one call, however many jobs there are."""

PATIENCE = 8
"""So many rounds a job may be neither in the queue nor in the records (which lag behind) before it counts as lost."""


@dataclass
class _Watched:
    tag: str
    on_change: Callable[[QueuedJob], None]
    end: asyncio.Future[EndedJob]
    missed: int = 0
    told: set[tuple[str, str]] = field(default_factory=set)


class JobWatch:
    """The jobs that are being waited for. `look` is called at an interval, `wait` by each that waits."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._jobs: dict[int, _Watched] = {}
        self._silent = False

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._jobs

    async def wait(self, job_id: int, flow_run_id: object, on_change: Callable[[QueuedJob], None]) -> EndedJob:
        """Wait until a job has ended; `on_change` is told each new state and reason on the way."""
        watched = _Watched(f"{TAG}{flow_run_id}", on_change, asyncio.get_running_loop().create_future())
        self._jobs[job_id] = watched
        try:
            return await watched.end
        finally:
            del self._jobs[job_id]

    async def look(self) -> None:
        """Ask SLURM once for all jobs, and wake those whose job has ended. A silent controller changes nothing."""
        expected = dict(self._jobs)  # taken before squeue: a job submitted meanwhile is not missing
        if not expected:
            return
        try:
            queue = await anyio.to_thread.run_sync(self.scheduler.queue)
        except SchedulerSilent as error:
            if not self._silent:
                log.warning("SLURM does not answer, jobs are left as they are: %s", error)
            self._silent = True
            return
        if self._silent:
            log.warning("SLURM answers again.")
        self._silent = False
        gone: dict[int, _Watched] = {}
        for job_id, watched in expected.items():
            job = queue.get(job_id)
            if job is None or _of_another_run(job, watched.tag):
                gone[job_id] = watched
            elif (job.state, job.reason) not in watched.told:
                watched.missed = 0
                watched.told.add((job.state, job.reason))
                watched.on_change(job)
        if not gone:
            return
        ended = await anyio.to_thread.run_sync(self.scheduler.ended, list(gone))
        for job_id, watched in gone.items():
            watched.missed += 1
            result = ended.get(job_id) or (EndedJob(job_id, "UNKNOWN") if watched.missed > PATIENCE else None)
            if result and not watched.end.done():
                watched.end.set_result(result)


def _of_another_run(job: QueuedJob, tag: str) -> bool:
    """Whether a job number was given out again, as after SLURM was set up anew."""
    return job.comment.startswith(TAG) and job.comment != tag
