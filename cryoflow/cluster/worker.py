"""Prefect's worker of type `slurm`: one flow run is one SLURM job.

It leans on hooks of Prefect's base worker that carry an underscore; Prefect's minor version is pinned for that, and the
tests cover each of them. The truth about jobs is SLURM's, the truth about runs is the server's: the worker keeps
nothing that a new one could not find again, so it may be stopped, killed and started at any time.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
import anyio.to_thread
import httpx
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort, InfrastructureNotFound, ObjectNotFound
from prefect.states import Crashed, Pending
from prefect.utilities.engine import propose_state
from prefect.workers.base import BaseVariables, BaseWorker, BaseWorkerResult

from cryoflow.cluster import outcome, sbatch
from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.cluster.outcome import LABEL_END, LABEL_JOB, LABEL_LOG, Action, End
from cryoflow.cluster.recovery import Recovery
from cryoflow.cluster.scheduler import EndedJob, QueuedJob, Scheduler, SchedulerSilent
from cryoflow.cluster.watch import JobWatch
from cryoflow.errors import ToolFailed
from cryoflow.files import safe_name, write_atomically

LOOK_EVERY_S = float(os.environ.get("CRYOFLOW_SLURM_POLL_SECONDS", "4"))
"""Between two looks at SLURM's queue and at what users cancelled. Both are one call, however many jobs there are."""

QUICK_LOOK_S, QUICK_LOOKS = 1.0, 10
"""After a cancelling: whoever pressed the button waits for the job's end."""

RECOVER_EVERY_S = 60.0
API_PATIENCE_S = 10.0
SUBMIT_AT_ONCE = 4
SUBMIT_ATTEMPTS = 3


class SlurmWorkerResult(BaseWorkerResult):
    """The job's number, and 0: the state of the run says how it ended."""


class SlurmWorker(BaseWorker[SlurmJobConfiguration, BaseVariables, SlurmWorkerResult]):
    """Runs each flow run as one SLURM job, in an Apptainer image or without."""

    type = "slurm"
    job_configuration = SlurmJobConfiguration
    _description = "Run each flow run as one SLURM job, in an Apptainer image or without one."
    _display_name = "SLURM"
    _documentation_url = ""
    _logo_url = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.scheduler = Scheduler()
        self.watch = JobWatch(self.scheduler)
        self.recovery = Recovery(self)
        self.attended: set[UUID] = set()
        """Flow runs whose job this worker waits for."""
        self._submissions = asyncio.Semaphore(SUBMIT_AT_ONCE)
        self._looking = False
        self._closing = False
        self._quick_looks = 0

    # -- starting and stopping ---------------------------------------------------------------------------------------

    async def start(self, *args: Any, **options: Any) -> None:
        """Run until stopped. The first SIGTERM or SIGINT stops the worker and leaves its jobs alone.

        Prefect turns SIGTERM into SIGINT, which a process started in the background of a script ignores; so the worker
        takes both itself.
        """
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, task.cancel)
        except (ValueError, RuntimeError, NotImplementedError):
            pass  # not in the main thread: whoever started it there stops it
        await super().start(*args, **options)

    async def _initialize_after_sync(self) -> None:
        await super()._initialize_after_sync()
        if self._work_pool is not None and not self._looking and self._runs_task_group is not None:
            self._looking = True
            self._runs_task_group.start_soon(self._look_again_and_again)

    async def teardown(self, *exc_info: Any) -> None:
        """Stop looking once no job is waited for (`--run-once`), or at once where the worker was told to stop."""
        self._closing = True
        await super().teardown(*exc_info)

    async def _look_again_and_again(self) -> None:
        rounds_between = max(1, round(RECOVER_EVERY_S / LOOK_EVERY_S))
        turn, away = 0, False
        while not (self._closing and not len(self.watch)):
            error: Exception | None = None
            steps = [self._cancel_what_users_cancelled, self.watch.look]
            if turn % rounds_between == 0:
                steps.insert(0, partial(self.recovery.find_lost_runs, first=turn == 0))
            for step in steps:  # one that fails, such as scancel for a job that is no more, holds up no other
                try:
                    await step()
                except Exception as problem:
                    error = problem
                    if not _is_away(problem):
                        self._logger.exception("Looking after jobs failed; it is tried again")
            if error is not None and _is_away(error) and not away:
                self._logger.warning("The Prefect server does not answer, jobs are left as they are: %r", error)
            away = error is not None and _is_away(error)
            turn += 1
            self._quick_looks = max(0, self._quick_looks - 1)
            await anyio.sleep(min(QUICK_LOOK_S, LOOK_EVERY_S) if self._quick_looks else LOOK_EVERY_S)

    # -- one flow run ------------------------------------------------------------------------------------------------

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SlurmJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> SlurmWorkerResult:
        """Submit a flow run's job and wait for its end."""
        self.attended.add(flow_run.id)
        try:
            log_file = self._log_file(flow_run, configuration)
            if hidden := sbatch.not_shown(configuration, flow_run.parameters):
                self.get_flow_run_logger(flow_run).warning(
                    "The image may not see %s: it is in none of the folders to read (read_only) or to write "
                    "(read_write) of [site] in cryoflow.toml",
                    ", ".join(hidden),
                )
            await self._say_queued(flow_run)
            job_id = await self._submit(flow_run, configuration, log_file)
            if task_status:
                task_status.started(job_id)
            # The job is watched from here on, however long a busy server takes to hear of it.
            telling = asyncio.ensure_future(self._tell_submitted(flow_run, job_id, log_file))
            try:
                await self._attend(flow_run, job_id, log_file, after=telling)
            finally:
                telling.cancel()
        finally:
            self.attended.discard(flow_run.id)
        # The run has its state, with SLURM's reason: any other status would make the base worker propose one without.
        return SlurmWorkerResult(identifier=str(job_id), status_code=0)

    async def attend_again(self, flow_run: FlowRun, job_id: int) -> None:
        """Wait for a job that an earlier worker submitted."""
        self.attended.add(flow_run.id)
        try:
            self.get_flow_run_logger(flow_run).info("Worker %r looks after SLURM job %s now", self.name, job_id)
            log_file = flow_run.labels.get(LABEL_LOG)
            await self._attend(flow_run, job_id, Path(str(log_file)) if log_file else None)
        except Exception:
            self._logger.exception("Looking after SLURM job %s failed; it is tried again", job_id)
        finally:
            self.attended.discard(flow_run.id)

    def _log_file(self, flow_run: FlowRun, configuration: SlurmJobConfiguration) -> Path:
        name = safe_name(_told_apart(flow_run, configuration).replace(" ", "_"), longest=60)
        return Path(configuration.log_folder) / f"{name}.{flow_run.id}.log"

    async def _submit(self, flow_run: FlowRun, configuration: SlurmJobConfiguration, log_file: Path) -> int:
        """Write the job script and submit it, once and only once even where sbatch gets no answer."""
        name = _told_apart(flow_run, configuration)
        text = sbatch.script(configuration, name=name, flow_run_id=str(flow_run.id), log_file=log_file)
        script = log_file.with_suffix(".sbatch")
        environment = sbatch.environment(configuration, os.environ)
        async with self._submissions:
            await anyio.to_thread.run_sync(write_atomically, script, text)
            for attempt in range(1, SUBMIT_ATTEMPTS + 1):
                try:
                    return await anyio.to_thread.run_sync(self.scheduler.submit, script, environment)
                except ToolFailed as error:
                    if attempt == SUBMIT_ATTEMPTS or not _may_pass(error.tail):
                        raise
                if (job_id := await self._job_submitted_without_an_answer(flow_run.id)) is not None:
                    return job_id
        raise AssertionError("the last attempt returns or raises")

    async def _job_submitted_without_an_answer(self, flow_run_id: UUID) -> int | None:
        """The job of a run after a failed sbatch. Waits until SLURM can tell: a second job must not be made."""
        while True:
            await anyio.sleep(LOOK_EVERY_S)
            try:
                queue = await anyio.to_thread.run_sync(self.scheduler.queue)
            except SchedulerSilent:
                continue
            return sbatch.find(queue.values(), flow_run_id)

    async def _say_queued(self, flow_run: FlowRun) -> None:
        """Name the state that the run waits in. Before sbatch: later it could overwrite what a quick job reported."""
        queued: State[Any] = Pending(name="Queued", message="It waits in SLURM's queue.")
        try:
            if flow_run.labels.get(LABEL_END):  # of an earlier job, where a user ran it again
                await self.set_labels(flow_run.id, {LABEL_END: ""})
            await propose_state(self.client, queued, flow_run_id=flow_run.id)
        except Abort:
            pass  # cancelled meanwhile

    async def _tell_submitted(self, flow_run: FlowRun, job_id: int, log_file: Path) -> None:
        """Say in the UI where the run is; end the job of a run that was cancelled while sbatch was at work."""
        logger = self.get_flow_run_logger(flow_run)
        logger.info("Submitted as SLURM job %s; log on the cluster: %s", job_id, log_file)
        try:
            await self.set_labels(flow_run.id, {LABEL_JOB: str(job_id), LABEL_LOG: str(log_file)})
        except httpx.HTTPError as error:
            logger.warning("The run's labels could not be set: %s", error)
        try:
            state = (await self.client.read_flow_run(flow_run.id)).state
        except (httpx.HTTPError, ObjectNotFound):
            return
        if state is not None and state.is_cancelled():
            await anyio.to_thread.run_sync(self.scheduler.cancel, [job_id])

    async def _attend(
        self, flow_run: FlowRun, job_id: int, log_file: Path | None, *, after: Awaitable[None] | None = None
    ) -> None:
        job = await self.watch.wait(job_id, flow_run.id, self._teller(flow_run))
        if after is not None:
            await after  # the server merges labels without a lock: two writers at once would lose one
        while True:  # a server that is away now must still hear of it
            try:
                await self._conclude(flow_run, job, log_file)
                return
            except httpx.HTTPError as error:
                if not _is_away(error):
                    raise
                self._logger.warning("Run %s: its end cannot be reported yet: %r", flow_run.name, error)
            await anyio.sleep(API_PATIENCE_S)

    def _teller(self, flow_run: FlowRun) -> Callable[[QueuedJob], None]:
        logger = self.get_flow_run_logger(flow_run)

        def tell(job: QueuedJob) -> None:
            why = "" if job.reason in ("None", "") else f" ({job.reason})"
            logger.info("SLURM job %s is %s%s", job.job_id, job.state, why)

        return tell

    async def _conclude(self, flow_run: FlowRun, job: EndedJob, log_file: Path | None) -> None:
        """Bring a run whose job has ended to its end, with SLURM's reason and its log where it crashed."""
        logger = self.get_flow_run_logger(flow_run)
        try:
            flow_run = await self.client.read_flow_run(flow_run.id)
        except ObjectNotFound:
            return  # deleted meanwhile
        state_type = flow_run.state.type if flow_run.state else None
        end = outcome.end_of(job)
        to_do = outcome.action(state_type, end, cancelled=flow_run.labels.get(LABEL_END) == End.CANCELLED)
        if to_do == Action.CRASH:
            message = outcome.explain(job)
            if log_file:
                text = await anyio.to_thread.run_sync(outcome.tail, log_file)
                logger.error("%s\nThe end of its log %s:\n%s", message, log_file, text)
            else:
                logger.error("%s", message)
            # An engine that was asked to stop says Crashed itself, without the reason: that state is replaced.
            await self._set_state(flow_run, Crashed(message=message), force=state_type == StateType.CRASHED)
        elif to_do == Action.CANCEL:
            end = End.CANCELLED
            message = f"SLURM job {job.job_id} was cancelled."
            await self._mark_flow_run_as_cancelled(flow_run, state_updates={"message": message})
        await self.set_labels(flow_run.id, {LABEL_END: end.value})

    async def _set_state(self, flow_run: FlowRun, state: State, *, force: bool) -> None:
        if force:
            await self.client.set_flow_run_state(flow_run.id, state, force=True)
            return
        try:
            await propose_state(self.client, state, flow_run_id=flow_run.id)
        except Abort:
            pass  # the engine was quicker

    async def set_labels(self, flow_run_id: UUID, labels: dict[str, str]) -> None:
        """Set labels of a flow run; those of a deleted run are nobody's."""
        try:
            await self.client.update_flow_run_labels(flow_run_id, dict(labels))
        except ObjectNotFound:
            pass

    # -- cancelling --------------------------------------------------------------------------------------------------

    async def _cancel_what_users_cancelled(self) -> None:
        """End the jobs of all runs of this pool that are being cancelled; their own waiting then concludes them."""
        cancelling = await self.runs_in(StateType.CANCELLING)
        job_ids = []
        for flow_run in cancelling:
            # The engine will report a crash when SLURM stops it; the label remembers what was meant.
            if flow_run.labels.get(LABEL_END) != End.CANCELLED:
                await self.set_labels(flow_run.id, {LABEL_END: End.CANCELLED.value})
                self._quick_looks = QUICK_LOOKS
            if flow_run.infrastructure_pid and flow_run.infrastructure_pid.isdigit():
                job_ids.append(int(flow_run.infrastructure_pid))
            if flow_run.id not in self.attended and flow_run.id not in self._submitting_flow_run_ids:
                await self.recovery.take_over(flow_run)
        await anyio.to_thread.run_sync(self.scheduler.cancel, job_ids)

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        """Not used: `_cancel_what_users_cancelled` sees every run, this hook only runs that are being submitted."""

    async def kill_infrastructure(
        self,
        infrastructure_pid: str,
        configuration: SlurmJobConfiguration,  # noqa: ARG002
        grace_seconds: int = 30,  # noqa: ARG002
    ) -> None:
        """End one job; the server asks for it where cancelling took too long."""
        if not infrastructure_pid.isdigit():
            raise InfrastructureNotFound(f"{infrastructure_pid!r} is no SLURM job")
        await anyio.to_thread.run_sync(self.scheduler.cancel, [int(infrastructure_pid)])

    # -- the server --------------------------------------------------------------------------------------------------

    async def runs_in(self, *states: StateType) -> list[FlowRun]:
        """All flow runs of this pool in these states."""
        flow_runs: list[FlowRun] = []
        while True:
            page = await self.client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
                sort=FlowRunSort.EXPECTED_START_TIME_ASC,
                limit=200,
                offset=len(flow_runs),
            )
            flow_runs += page
            if len(page) < 200:
                return flow_runs


def _told_apart(flow_run: FlowRun, configuration: SlurmJobConfiguration) -> str:
    """A name for squeue and the log: what the stage is, before the words that Prefect invents for a run."""
    stage = configuration.labels.get("prefect.io/flow-name") or ""
    return flow_run.name if flow_run.name.startswith(stage) else f"{stage} {flow_run.name}"


def _is_away(error: Exception) -> bool:
    """Whether the server cannot be reached or has too much to do, rather than refuses."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _may_pass(tail: str) -> bool:
    """Whether sbatch failed for a reason that may be gone in a moment."""
    signs = ("socket timed out", "unable to contact", "temporarily", "connection refused", "try again", "ran longer")
    return any(sign in tail.lower() for sign in signs)
