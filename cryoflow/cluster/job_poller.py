"""Poll SLURM for many jobs: one squeue an interval, however many there are."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread

from cryoflow.execution.pack_script import end_of_member
from cryoflow.execution.schedulers import AnyScheduler
from cryoflow.execution.slurm import EndedJob, QueuedJob, SchedulerSilent
from cryoflow.execution.stage_script import TAG

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Waiting:
    job_id: int
    tag: str
    on_change: Callable[[QueuedJob], None]
    end: asyncio.Future[EndedJob]
    member_log: Path | None
    missing_since: float | None = None
    reported: set[tuple[str, str]] = field(default_factory=set)


class JobPoller:
    """The jobs that are waited for. `poll` is called at an interval, `wait` by each run that waits.

    Parameters
    ----------
    lost_after_s
        Seconds that a job may be missing from the queue and from SLURM's records, which lag behind, before it counts as
        lost.
    """

    def __init__(self, scheduler: AnyScheduler, *, lost_after_s: float = 60.0) -> None:
        self.scheduler, self.lost_after_s = scheduler, lost_after_s
        self._waiting: list[_Waiting] = []
        self._silent = False

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting_for(self, job_id: int) -> int:
        """Return how many runs wait for a job: several for that of a pack."""
        return sum(waiting.job_id == job_id for waiting in self._waiting)

    async def wait(
        self, job_id: int, tag: object, on_change: Callable[[QueuedJob], None], *, member_log: Path | None = None
    ) -> EndedJob:
        """Wait until a job has ended; call `on_change` with each new state and reason on the way.

        Parameters
        ----------
        tag
            Id of the job's run or pack, which its comment ends with.
        member_log
            Log of a member of a pack, which may end before its job does; None waits for the job.
        """
        end = asyncio.get_running_loop().create_future()
        waiting = _Waiting(job_id, f"{TAG}{tag}", on_change, end, member_log)
        self._waiting.append(waiting)
        try:
            return await waiting.end
        finally:
            self._waiting.remove(waiting)

    async def poll(self) -> None:
        """Read SLURM's queue once, and wake those whose job has ended. A silent controller changes nothing."""
        expected = list(self._waiting)  # taken before squeue: a job submitted meanwhile is not missing
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
        gone = [waiting for waiting in expected if not self._is_queued(waiting, queue)]
        # The ends of members are read after the queue: one that is missing then is missing because its job was killed.
        members = await anyio.to_thread.run_sync(_ends_of_members, expected)
        for waiting, end in members.items():
            _wake(waiting, end)
        if left := [waiting for waiting in gone if waiting not in members]:
            await self._conclude(left)

    def _is_queued(self, waiting: _Waiting, queue: Mapping[int, QueuedJob]) -> bool:
        job = queue.get(waiting.job_id)
        if job is None or _of_another_run(job, waiting.tag):
            return False
        waiting.missing_since = None
        if (job.state, job.reason) not in waiting.reported:
            waiting.reported.add((job.state, job.reason))
            waiting.on_change(job)
        return True

    async def _conclude(self, gone: list[_Waiting]) -> None:
        """Wake the runs whose jobs SLURM's records have ended, and those whose jobs have been unknown for too long."""
        ended = await anyio.to_thread.run_sync(self.scheduler.ended, sorted({w.job_id for w in gone}))
        now = time.monotonic()
        for waiting in gone:
            waiting.missing_since = waiting.missing_since or now
            is_lost = now - waiting.missing_since > self.lost_after_s
            result = ended.get(waiting.job_id) or (EndedJob(waiting.job_id, "UNKNOWN") if is_lost else None)
            if result and waiting.member_log and result.state == "COMPLETED" and not is_lost:
                continue  # the member has ended, and a network file system does not show how yet
            if result:
                _wake(waiting, result)


def _ends_of_members(waiting: list[_Waiting]) -> dict[_Waiting, EndedJob]:
    """Return how members of packs have ended, by the files that their jobs wrote."""
    ends = ((w, end_of_member(w.job_id, w.member_log)) for w in waiting if w.member_log)
    return {w: end for w, end in ends if end is not None}


def _wake(waiting: _Waiting, end: EndedJob) -> None:
    if not waiting.end.done():
        waiting.end.set_result(end)


def _of_another_run(job: QueuedJob, tag: str) -> bool:
    """Return whether a job number was given out again, as after SLURM was set up anew."""
    return job.comment.startswith(TAG) and job.comment != tag
