"""Poll SLURM for many jobs: one squeue an interval, however many there are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import anyio.to_thread

from cryoflow.execution.slurm import EndedJob, QueuedJob, Scheduler, SchedulerSilent
from cryoflow.execution.stage_script import TAG
from cryoflow.execution.template_scheduler import TemplateScheduler

log = logging.getLogger(__name__)


@dataclass
class _Waiting:
    tag: str
    on_change: Callable[[QueuedJob], None]
    end: asyncio.Future[EndedJob]
    missing_since: float | None = None
    reported: set[tuple[str, str]] = field(default_factory=set)


class JobPoller:
    """The jobs that are waited for. `poll` is called at an interval, `wait` by each that waits.

    Parameters
    ----------
    lost_after_s
        Seconds that a job may be missing from the queue and from SLURM's records, which lag behind, before it counts as
        lost.
    """

    def __init__(self, scheduler: Scheduler | TemplateScheduler, *, lost_after_s: float = 60.0) -> None:
        self.scheduler, self.lost_after_s = scheduler, lost_after_s
        self._jobs: dict[int, _Waiting] = {}
        self._silent = False

    def __len__(self) -> int:
        return len(self._jobs)

    def __contains__(self, job_id: int) -> bool:
        return job_id in self._jobs

    async def wait(self, job_id: int, flow_run_id: object, on_change: Callable[[QueuedJob], None]) -> EndedJob:
        """Wait until a job has ended; call `on_change` with each new state and reason on the way."""
        waiting = _Waiting(f"{TAG}{flow_run_id}", on_change, asyncio.get_running_loop().create_future())
        self._jobs[job_id] = waiting
        try:
            return await waiting.end
        finally:
            del self._jobs[job_id]

    async def poll(self) -> None:
        """Read SLURM's queue once, and wake those whose job has ended. A silent controller changes nothing."""
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
        gone: dict[int, _Waiting] = {}
        for job_id, waiting in expected.items():
            job = queue.get(job_id)
            if job is None or _of_another_run(job, waiting.tag):
                gone[job_id] = waiting
                continue
            waiting.missing_since = None
            if (job.state, job.reason) not in waiting.reported:
                waiting.reported.add((job.state, job.reason))
                waiting.on_change(job)
        if not gone:
            return
        ended = await anyio.to_thread.run_sync(self.scheduler.ended, list(gone))
        now = time.monotonic()
        for job_id, waiting in gone.items():
            waiting.missing_since = waiting.missing_since or now
            is_lost = now - waiting.missing_since > self.lost_after_s
            result = ended.get(job_id) or (EndedJob(job_id, "UNKNOWN") if is_lost else None)
            if result and not waiting.end.done():
                waiting.end.set_result(result)


def _of_another_run(job: QueuedJob, tag: str) -> bool:
    """Return whether a job number was given out again, as after SLURM was set up anew."""
    return job.comment.startswith(TAG) and job.comment != tag
