"""Finding the runs of a worker that was killed: those with a job are looked after again, those without one start anew.

A worker may die between any two steps. What it leaves, in order:
1. the run is Pending, there is no job: after `GRACE_S` it is scheduled again;
2. a job was submitted, its number was not written down: the job's comment names the run, and so does its log;
3. the number is with the run: the job waits, runs, or has ended, and SLURM says which.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio.to_thread
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Scheduled
from prefect.workers.base import BaseWorker

from cryoflow.cluster.exit_reason import LABEL_END, LABEL_JOB, LABEL_LOG
from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.cluster.pool_runs import is_away, report_crash, runs_in, set_labels
from cryoflow.cluster.submission import AnswerLost, can_be_found, may_have_job
from cryoflow.execution import stage_script
from cryoflow.execution.pack_script import pack_of
from cryoflow.execution.schedulers import AnyScheduler
from cryoflow.execution.slurm import QueuedJob, SchedulerSilent

GRACE_S = 120.0
"""How long a run may be Pending without a job: another worker may be submitting it."""

_FIRST_LINE = re.compile(r"cryoflow: (?:SLURM )?job (\d+) on ")


@dataclass(frozen=True)
class FoundRun:
    """State of a run without a worker: its job, or that it never got one."""

    job_id: int | None
    start_anew: bool = False


def find(
    flow_run: FlowRun,
    queue: Mapping[int, QueuedJob],
    log_job: int | None,
    now: datetime.datetime,
    pack_id: str | None = None,
) -> FoundRun:
    """Return what to do with a run that no worker waits for.

    Parameters
    ----------
    queue
        All jobs of this user that wait or run.
    log_job
        The number in the run's log, None where there is no log.
    pack_id
        The pack that the run was put into, whose job's comment names it.
    """
    if flow_run.infrastructure_pid and flow_run.infrastructure_pid.isdigit():
        return FoundRun(int(flow_run.infrastructure_pid))
    for tag in filter(None, (flow_run.id, pack_id)):
        if (job_id := stage_script.find(queue.values(), tag)) is not None:
            return FoundRun(job_id)
    if log_job is not None:
        return FoundRun(log_job)
    state = flow_run.state
    pending = state is not None and state.type == StateType.PENDING
    old = state is not None and (now - state.timestamp).total_seconds() > GRACE_S
    return FoundRun(None, start_anew=pending and old and flow_run.deployment_id is not None)


def job_in_log(log: Path) -> int | None:
    """Return the number of the last job that wrote to this log, None where there is none."""
    try:
        with log.open(errors="replace") as file:
            numbers = [int(match[1]) for line in file if (match := _FIRST_LINE.match(line))]
    except OSError:
        return None
    return numbers[-1] if numbers else None


class Recovery:
    """Looks for lost runs of a worker's pool, at its start and once a minute.

    Parameters
    ----------
    attended
        Flow runs whose job the worker waits for; those that are taken over are put to them.
    attend
        The worker's waiting for a job that an earlier worker submitted.
    """

    def __init__(
        self,
        worker: BaseWorker[SlurmJobConfiguration, Any, Any],
        scheduler: AnyScheduler,
        attended: set[UUID],
        attend: Callable[[FlowRun, int], Coroutine[Any, Any, None]],
    ) -> None:
        self.worker, self.scheduler, self.attended, self.attend = worker, scheduler, attended, attend
        self.concluded: set[UUID] = set()
        """Runs whose waiting ended since the last search for lost runs began: its list of runs may be older."""

    async def find_lost_runs(self, *, first: bool) -> None:
        """Take over every run that should have a job and has no worker here.

        At the first search also those that crashed while no worker was there to say why.
        """
        self.concluded.clear()
        client, pool = self.worker.client, self.worker._work_pool_name
        lost = await runs_in(client, pool, StateType.PENDING, StateType.RUNNING)
        if first:
            since = _now() - datetime.timedelta(days=1)
            crashed = await runs_in(client, pool, StateType.CRASHED)
            lost += [
                run for run in crashed
                if run.infrastructure_pid and not run.labels.get(LABEL_END)
                and run.state is not None and run.state.timestamp > since
            ]  # fmt: skip
        lost = [run for run in lost if self._is_lost(run)]
        queue: Mapping[int, QueuedJob] | None = None
        if any(not run.infrastructure_pid for run in lost):
            try:
                queue = await anyio.to_thread.run_sync(self.scheduler.queue)
            except SchedulerSilent:
                return  # nothing is known: the next round asks again
        for flow_run in lost:
            if self._is_lost(flow_run):
                await self.try_to_take_over(flow_run, queue)

    def _is_lost(self, flow_run: FlowRun) -> bool:
        return flow_run.id not in self.attended | self.worker._submitting_flow_run_ids | self.concluded

    async def try_to_take_over(self, flow_run: FlowRun, queue: Mapping[int, QueuedJob] | None = None) -> None:
        """Take over a run; one that fails is told on its page and tried again, and holds no other run up."""
        try:
            await self.take_over(flow_run, queue)
        except Exception as problem:
            if is_away(problem):
                raise
            self.worker.get_flow_run_logger(flow_run).warning(
                "It was not taken over, which is tried again: %r", problem
            )

    async def take_over(self, flow_run: FlowRun, queue: Mapping[int, QueuedJob] | None = None) -> None:
        """Wait for the job of one run from here on.

        Parameters
        ----------
        queue
            All jobs of this user; None reads it.
        """
        worker = self.worker
        log_file, log_job, pack, answer_lost, problem = None, None, None, False, None
        if not flow_run.infrastructure_pid or not flow_run.labels.get(LABEL_LOG):
            configuration, problem = await self._configuration_of(flow_run)
            log_file = _expected_log(flow_run, configuration)
        if not flow_run.infrastructure_pid:
            if queue is None:
                try:
                    queue = await anyio.to_thread.run_sync(self.scheduler.queue)
                except SchedulerSilent:
                    return  # nothing is known: the next round asks again
            if log_file:
                log_job, pack = job_in_log(log_file), pack_of(log_file)
                findable = configuration is None or can_be_found(self.scheduler, configuration.leave_out)
                answer_lost = not findable and may_have_job(log_file)
        found = find(flow_run, queue or {}, log_job, _now(), pack and pack[0])
        if found.job_id is not None:
            if not flow_run.infrastructure_pid:
                await worker.client.update_flow_run(flow_run.id, infrastructure_pid=str(found.job_id))
            labels = {LABEL_JOB: str(found.job_id)} | ({LABEL_LOG: str(log_file)} if log_file else {})
            if labels.items() - flow_run.labels.items():  # the worker that submitted it stopped before it set them
                await set_labels(worker.client, flow_run.id, labels)
                flow_run = flow_run.model_copy(update={"labels": {**flow_run.labels, **labels}})
            self.attended.add(flow_run.id)
            assert worker._runs_task_group is not None
            worker._runs_task_group.start_soon(self.attend, flow_run, found.job_id)
        elif found.start_anew and answer_lost:
            await report_crash(worker.client, flow_run, str(AnswerLost("its worker stopped while it submitted")))
        elif found.start_anew and problem is not None:
            await report_crash(worker.client, flow_run, f"It has no SLURM job, and none can be submitted: {problem}")
        elif found.start_anew:
            worker.get_flow_run_logger(flow_run).warning("Its worker stopped before it had a SLURM job; it starts anew")
            await worker.client.set_flow_run_state(flow_run.id, Scheduled(message="It had no SLURM job."), force=True)
        elif flow_run.state is not None and flow_run.state.type == StateType.CANCELLING:
            message = "It was cancelled before it had a SLURM job."
            if answer_lost:
                message = "It was cancelled. A job may have been submitted for it, and the queue does not show which."
            await worker._mark_flow_run_as_cancelled(flow_run, state_updates={"message": message})

    async def _configuration_of(self, flow_run: FlowRun) -> tuple[SlurmJobConfiguration | None, Exception | None]:
        """Return what a run asks of its job, or why no job can be made of it: its variables fit no form, say."""
        worker = self.worker
        try:
            return await worker.job_configuration.resolve_for_flow_run(
                flow_run, client=worker.client, work_pool=worker.work_pool, worker_name=worker.name
            ), None
        except Exception as problem:
            if is_away(problem):
                raise
            return None, problem


def _expected_log(flow_run: FlowRun, configuration: SlurmJobConfiguration | None) -> Path | None:
    """Return where the run's log is, or would be; None where no job was made."""
    if label := flow_run.labels.get(LABEL_LOG):
        return Path(str(label))
    if configuration is None:
        return None
    folder, suffixes = Path(configuration.log_folder), ("log", "pack", "sbatch")
    found = sorted(file for suffix in suffixes for file in folder.glob(f"*.{flow_run.id}.{suffix}"))
    return found[0].with_suffix(".log") if found else None


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
