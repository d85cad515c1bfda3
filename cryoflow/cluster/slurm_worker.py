"""Prefect's worker of type `cryoflow-slurm`: one flow run is one SLURM job.

It uses hooks of Prefect's base worker that carry an underscore; Prefect's minor version is pinned for that, and the
tests cover each of them. SLURM knows the jobs and the server the runs: the worker keeps nothing that a new one could
not find again, so it may be stopped, killed and started at any time.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import anyio.abc
import anyio.to_thread
import httpx
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import InfrastructureNotFound, ObjectNotFound
from prefect.states import Pending
from prefect.workers.base import BaseVariables, BaseWorker, BaseWorkerResult

from cryoflow.cluster import exit_reason, submission
from cryoflow.cluster.exit_reason import LABEL_END, LABEL_JOB, LABEL_LOG, LABEL_NODE, Action, ExitReason
from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.cluster.job_poller import JobPoller
from cryoflow.cluster.packs import CancelledRun, jobs_to_cancel
from cryoflow.cluster.polling_worker import PollingWorker
from cryoflow.cluster.pool_runs import is_away, propose, report_crash, runs_in, set_labels, set_labels_of_many
from cryoflow.cluster.recovery import Recovery
from cryoflow.cluster.retries import retry
from cryoflow.cluster.submission import CancelledBeforeSubmission, Submission
from cryoflow.cluster.variables import refuse_unknown_variables
from cryoflow.execution import stage_script
from cryoflow.execution.pack_script import pack_of
from cryoflow.execution.schedulers import scheduler_of
from cryoflow.execution.slurm import EndedJob, QueuedJob
from cryoflow.settings.load import load_settings

CANCEL_EVERY_S = 2.0
"""Between two requests for runs that users cancelled."""
QUICK_POLL_S, QUICK_POLLS = 1.0, 10
"""After a cancelling: whoever pressed the button waits for the job's end."""
QUIET_S = 10.0
"""A site that sets a longer interval wants few calls of squeue: none comes earlier, not even after a cancelling."""

RECOVER_EVERY_S = 60.0
API_PATIENCE_S = 10.0


class SlurmWorkerResult(BaseWorkerResult):
    """The job's number, and 0: the state of the run says how it ended."""


class SlurmWorker(PollingWorker, BaseWorker[SlurmJobConfiguration, BaseVariables, SlurmWorkerResult]):
    """Runs each flow run as one SLURM job, in an Apptainer image or without."""

    type = exit_reason.SLURM_TYPE
    job_configuration = SlurmJobConfiguration
    _description = "Run each flow run as one SLURM job, in an Apptainer image or without one."
    _display_name = "SLURM (cryoflow)"
    _documentation_url = ""
    _logo_url = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        site = load_settings().settings.site
        self.poll_s = float(os.environ.get("CRYOFLOW_SLURM_POLL_SECONDS", site.poll_seconds))
        self.attempts = site.attempts
        self.scheduler = scheduler_of(site, self.poll_s if self.poll_s > QUIET_S else 0.0)
        self.poller = JobPoller(self.scheduler, lost_after_s=site.lost_after_seconds)
        self.attended: set[UUID] = set()
        """Flow runs whose job this worker waits for."""
        self._logs: dict[UUID, Path] = {}
        self.recovery = Recovery(self, self.scheduler, self.attended, self.attend_again)
        self.submission = Submission(self.scheduler, poll_s=self.poll_s)
        self._quick_polls = 0
        self._polled_at = float("-inf")
        self._asked_at = float("-inf")
        self._being_cancelled: dict[UUID, FlowRun] = {}
        """Attended runs as they were when their job was ended because a user cancelled them."""
        self._recovered_at = float("-inf")

    # -- polling -----------------------------------------------------------------------------------------------------

    def _steps(self, turn: int) -> Sequence[Callable[[], Awaitable[None]]]:
        """Return what a round does: find cancelled runs each time, read SLURM's queue at the site's interval."""
        now = time.monotonic()
        steps: list[Callable[[], Awaitable[None]]] = []
        if now - self._asked_at >= min(CANCEL_EVERY_S, self.poll_s) - self._pause_s() / 2:
            self._asked_at = now
            steps.append(self._cancel_what_users_cancelled)
        if now - self._recovered_at >= RECOVER_EVERY_S:
            self._recovered_at = now
            steps.insert(0, partial(self.recovery.find_lost_runs, first=turn == 0))
        may_hurry = self._quick_polls > 0 and self.poll_s <= QUIET_S
        if may_hurry or now - self._polled_at >= self.poll_s - self._pause_s() / 2:
            self._polled_at = now
            steps.append(self.poller.poll)
        self._quick_polls = max(0, self._quick_polls - 1)
        return steps

    def _pause_s(self) -> float:
        return min(QUICK_POLL_S if self._quick_polls else CANCEL_EVERY_S, self.poll_s)

    def _waits(self) -> bool:
        return len(self.poller) > 0

    # -- one flow run ------------------------------------------------------------------------------------------------

    async def run(
        self,
        flow_run: FlowRun,
        configuration: SlurmJobConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> SlurmWorkerResult:
        """Submit a flow run's job and wait for its end."""
        self.attended.add(flow_run.id)
        logger = self.get_flow_run_logger(flow_run)
        try:
            log_file = submission.log_file(flow_run, configuration)
            refuse_unknown_variables(flow_run.job_variables or {}, self._known_variables())
            if hidden := stage_script.hidden_paths(configuration.image, configuration.mounts, flow_run.parameters):
                logger.warning(
                    "The image may not see %s: it is in none of the folders to read (read_only) or to write "
                    "(read_write) of [site] in cryoflow.toml",
                    ", ".join(hidden),
                )
            await self._propose_queued(flow_run)
            is_cancelled = partial(self._is_cancelled, flow_run.id)
            try:
                job_id = await self.submission.submit(flow_run, configuration, log_file, is_cancelled, logger)
            except CancelledBeforeSubmission as error:
                await self._mark_flow_run_as_cancelled(flow_run, state_updates={"message": str(error)})
                raise
            if task_status:
                task_status.started(job_id)
            # The job is watched from here on, however long a busy server takes to hear of it.
            reporting = asyncio.ensure_future(self._report_submitted(flow_run, job_id, log_file))
            try:
                await self._attend(flow_run, job_id, log_file, after=reporting)
            finally:
                reporting.cancel()
        finally:
            self._forget(flow_run.id)
        # The run has its state, with SLURM's reason: any other status would make the base worker propose one without.
        return SlurmWorkerResult(identifier=str(job_id), status_code=0)

    async def attend_again(self, flow_run: FlowRun, job_id: int) -> None:
        """Wait for a job that an earlier worker submitted."""
        self.attended.add(flow_run.id)
        try:
            self.get_flow_run_logger(flow_run).info("Worker %r waits for SLURM job %s now", self.name, job_id)
            log_file = flow_run.labels.get(LABEL_LOG)
            await self._attend(flow_run, job_id, Path(str(log_file)) if log_file else None)
        except Exception:
            self._logger.exception("Waiting for SLURM job %s failed; it is tried again", job_id)
        finally:
            self._forget(flow_run.id)

    def _forget(self, flow_run_id: UUID) -> None:
        self.attended.discard(flow_run_id)
        self.recovery.concluded.add(flow_run_id)
        self._logs.pop(flow_run_id, None)
        self._being_cancelled.pop(flow_run_id, None)

    def _known_variables(self) -> set[str]:
        template = self._work_pool.base_job_template if self._work_pool else {}
        return {*template.get("variables", {}).get("properties", {}), *SlurmJobConfiguration.model_fields}

    async def _propose_queued(self, flow_run: FlowRun) -> None:
        """Set the state Queued. Before sbatch: later it could overwrite what a quick job reported."""
        queued: State[Any] = Pending(name="Queued", message="It waits in SLURM's queue.")
        if flow_run.labels.get(LABEL_END):  # of an earlier job, where a user ran it again
            await set_labels(self.client, flow_run.id, {LABEL_END: ""})
        await propose(self.client, flow_run.id, queued)

    async def _report_submitted(self, flow_run: FlowRun, job_id: int, log_file: Path) -> None:
        """Report the job on the run's page; end the job of a run that was cancelled while sbatch was at work."""
        logger = self.get_flow_run_logger(flow_run)
        logger.info("Submitted as SLURM job %s; log on the cluster: %s", job_id, log_file)
        while True:  # a run without the number of its job cannot be cancelled or taken over; Prefect sets it once
            try:
                await set_labels(self.client, flow_run.id, {LABEL_JOB: str(job_id), LABEL_LOG: str(log_file)})
                await self.client.update_flow_run(flow_run.id, infrastructure_pid=str(job_id))
                state = (await self.client.read_flow_run(flow_run.id)).state
                break
            except ObjectNotFound:
                return
            except httpx.HTTPError as error:
                logger.warning("SLURM job %s could not be noted on the run's page: %r", job_id, error)
                if not is_away(error):
                    return
            await anyio.sleep(API_PATIENCE_S)
        if state is not None and state.is_cancelled():
            jobs = await anyio.to_thread.run_sync(jobs_to_cancel, [CancelledRun(str(flow_run.id), job_id, log_file)])
            await anyio.to_thread.run_sync(self.scheduler.cancel, jobs)

    async def _attend(
        self, flow_run: FlowRun, job_id: int, log_file: Path | None, *, after: Awaitable[None] | None = None
    ) -> None:
        if log_file:
            self._logs[flow_run.id] = log_file
        pack = await anyio.to_thread.run_sync(pack_of, log_file) if log_file else None
        tag, member_log = (pack[0], log_file) if pack else (flow_run.id, None)
        job = await self.poller.wait(job_id, tag, self._state_logger(flow_run), member_log=member_log)
        if after is not None:
            await after  # the server merges labels without a lock: two writers at once would lose one
        while True:  # a server that is away now must still hear of it
            try:
                await self._conclude(flow_run, job, log_file)
                return
            except httpx.HTTPError as error:
                if not is_away(error):
                    raise
                self._logger.warning("Run %s: its end cannot be reported yet: %r", flow_run.name, error)
            await anyio.sleep(API_PATIENCE_S)

    def _state_logger(self, flow_run: FlowRun) -> Callable[[QueuedJob], None]:
        logger = self.get_flow_run_logger(flow_run)

        def tell(job: QueuedJob) -> None:
            why = "" if job.reason in ("None", "") else f" ({job.reason})"
            logger.info("SLURM job %s is %s%s", job.job_id, job.state, why)

        return tell

    async def _conclude(self, flow_run: FlowRun, job: EndedJob, log_file: Path | None) -> None:
        """End a run whose job has ended, with SLURM's reason and its log where it crashed."""
        logger = self.get_flow_run_logger(flow_run)
        cancelled = self._being_cancelled.get(flow_run.id) if job.never_started else None
        try:
            # Nothing but a user's cancelling has changed a run whose job never started: a hundred are not read again.
            flow_run = cancelled or await self.client.read_flow_run(flow_run.id)
        except ObjectNotFound:
            return  # deleted meanwhile
        state_type = flow_run.state.type if flow_run.state else None
        end = exit_reason.exit_reason_of(job)
        to_do = exit_reason.action(state_type, end, cancelled=flow_run.labels.get(LABEL_END) == ExitReason.CANCELLED)
        if to_do == Action.CRASH:
            message = exit_reason.explain(job)
            if log_file:
                text = await anyio.to_thread.run_sync(exit_reason.tail, log_file)
                logger.error("%s\nThe end of its log %s:\n%s", message, log_file, text)
            else:
                logger.error("%s", message)
            if await retry(self.client, flow_run, end, message, most=self.attempts, node=job.nodes):
                return
            await report_crash(self.client, flow_run, message)
        elif to_do == Action.CANCEL:
            end = ExitReason.CANCELLED
            message = f"SLURM job {job.job_id} was cancelled."
            await self._mark_flow_run_as_cancelled(flow_run, state_updates={"message": message})
        labels = {LABEL_END: end.value} | ({LABEL_NODE: job.nodes} if job.nodes else {})
        if labels.items() - flow_run.labels.items():
            await set_labels(self.client, flow_run.id, labels)

    # -- cancelling --------------------------------------------------------------------------------------------------

    async def _cancel_what_users_cancelled(self) -> None:
        """End the jobs of all runs of this pool that are being cancelled; their own waiting then concludes them."""
        cancelling = await runs_in(self.client, self._work_pool_name, StateType.CANCELLING)
        # The engine will report a crash when SLURM stops it; the label remembers what was meant.
        unlabeled = [run for run in cancelling if run.labels.get(LABEL_END) != ExitReason.CANCELLED]
        if unlabeled:
            await set_labels_of_many(self.client, unlabeled, {LABEL_END: ExitReason.CANCELLED.value})
            self._quick_polls = QUICK_POLLS
        cancelled = []
        for flow_run in cancelling:
            if flow_run.infrastructure_pid and flow_run.infrastructure_pid.isdigit():
                file = self._logs.get(flow_run.id) or flow_run.labels.get(LABEL_LOG)
                log_file = Path(str(file)) if file else None
                cancelled.append(CancelledRun(str(flow_run.id), int(flow_run.infrastructure_pid), log_file))
            if flow_run.id in self.attended:
                labels = {**flow_run.labels, LABEL_END: ExitReason.CANCELLED.value}
                self._being_cancelled[flow_run.id] = flow_run.model_copy(update={"labels": labels})
            elif flow_run.id not in self._submitting_flow_run_ids:
                await self.recovery.try_to_take_over(flow_run)
        job_ids = await anyio.to_thread.run_sync(jobs_to_cancel, cancelled)
        await anyio.to_thread.run_sync(self.scheduler.cancel, job_ids)

    async def _is_cancelled(self, flow_run_id: UUID) -> bool:
        try:
            state = (await self.client.read_flow_run(flow_run_id)).state
        except ObjectNotFound:
            return True
        except httpx.HTTPError:
            return False
        return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)

    async def _cancel_run(self, flow_run_id: UUID) -> None:
        """Do nothing: `_cancel_what_users_cancelled` finds every run, this hook only runs that are being submitted."""

    async def kill_infrastructure(
        self,
        infrastructure_pid: str,
        configuration: SlurmJobConfiguration,  # noqa: ARG002
        grace_seconds: int = 30,  # noqa: ARG002
    ) -> None:
        """End one job; the server asks for it where cancelling took too long.

        Members of a pack are ended one by one, by `_cancel_what_users_cancelled`.
        """
        if not infrastructure_pid.isdigit():
            raise InfrastructureNotFound(f"{infrastructure_pid!r} is no SLURM job")
        if self.poller.waiting_for(int(infrastructure_pid)) > 1:
            return
        await anyio.to_thread.run_sync(self.scheduler.cancel, [int(infrastructure_pid)])
