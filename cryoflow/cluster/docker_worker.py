"""Prefect's worker of type `cryoflow-docker`: one flow run is one container, and how it ended is understood.

prefect-docker's worker makes the containers. What it does not do: tell a container that was killed for memory from any
other, stop a running one, and find containers again that it started before it was killed itself, or before the engine
stopped. The truth about containers is the engine's, the truth about runs the server's; the worker keeps nothing.
"""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import anyio.abc
import anyio.to_thread
import docker.errors
from docker.utils import parse_bytes
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration, DockerWorkerResult
from pydantic import Field

from cryoflow.cluster import exit_reason
from cryoflow.cluster.exit_reason import END_LABELS, Action, ExitReason
from cryoflow.cluster.flow_run_containers import Engine, EngineSilent, RunContainer
from cryoflow.cluster.polling_worker import PollingWorker
from cryoflow.cluster.pool_runs import report_crash, runs_in, set_labels
from cryoflow.cluster.recovery import GRACE_S

LOOK_EVERY_S = 2.0
STOPPING_LOOK_EVERY_S = 0.5
"""While a container is being stopped: whoever cancelled its run waits for the end."""
RECOVER_EVERY_S = 60.0
YOUNG_S = 10.0
"""So long after its start a run is not taken for lost: another worker may have made its container just now."""
TYPE = "cryoflow-docker"
LABEL_END = END_LABELS[TYPE]
LABEL_ENGINE = "docker.engine"
"""Label of a run: which engine has its container."""


class ContainerConfiguration(DockerWorkerJobConfiguration):  # type: ignore[misc]
    """Configuration of one flow run as one container."""

    memory_factor: float = Field(
        default=1,
        ge=1,
        description="The memory limit is multiplied by this. The pipeline raises it when one was killed for it.",
    )

    def prepare_for_flow_run(self, *args: Any, **options: Any) -> None:
        """Prepare it as prefect-docker does, and keep the container until its exit reason was read."""
        super().prepare_for_flow_run(*args, **options)
        self.auto_remove = False
        if (limit := self.mem_limit) is not None:  # type: ignore[has-type]
            self.mem_limit = f"{round(parse_bytes(limit) * self.memory_factor)}b"


class ContainerWorker(PollingWorker, DockerWorker):  # type: ignore[misc]
    """Runs each flow run in a container of Docker Engine."""

    type = TYPE
    job_configuration = ContainerConfiguration
    _description = "Run each flow run in a container of Docker Engine, and say how it ended."
    _display_name = "Docker (cryoflow)"
    _documentation_url = ""
    _logo_url = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.engine = Engine()
        self._over: dict[UUID, asyncio.Event] = {}
        """Flow runs that `run` waits for."""
        self._stopping: set[str] = set()
        self._silent = False

    def _steps(self, turn: int) -> Sequence[Callable[[], Awaitable[None]]]:
        is_due = turn % max(1, round(RECOVER_EVERY_S / LOOK_EVERY_S)) == 0
        return [partial(self.poll_engine, for_lost=is_due)]

    def _pause_s(self) -> float:
        return STOPPING_LOOK_EVERY_S if self._stopping else LOOK_EVERY_S

    def _waits(self) -> bool:
        return bool(self._over)

    async def run(
        self,
        flow_run: FlowRun,
        configuration: ContainerConfiguration,
        task_status: anyio.abc.TaskStatus[Any] | None = None,
    ) -> DockerWorkerResult:
        """Start a flow run's container and wait until its end is reported."""
        over = self._over[flow_run.id] = asyncio.Event()
        try:
            engine = await anyio.to_thread.run_sync(self.engine.id)
            await set_labels(self.client, flow_run.id, {LABEL_END: "", LABEL_ENGINE: engine})
            container, _ = await anyio.to_thread.run_sync(self._create_and_start_container, configuration)
            pid = self._get_infrastructure_pid(container.id)
            if task_status:
                task_status.started(pid)
            await over.wait()
        finally:
            del self._over[flow_run.id]
        # The run has its state, with the reason: any other status would make the base worker propose one without.
        return DockerWorkerResult(identifier=pid, status_code=0)

    async def poll_engine(self, *, for_lost: bool) -> None:
        """End cancelled runs, and report the end of each container that has ended."""
        was_silent = self._silent
        try:
            containers = await anyio.to_thread.run_sync(self.engine.containers, self._work_pool_name)
            await self._stop_what_users_cancelled(containers)
            for container in containers:
                if container.has_ended:
                    await self._conclude(container, was_silent=was_silent)
            if for_lost:
                await self._find_lost_runs(containers)
        except EngineSilent as error:
            if not self._silent:
                self._logger.warning("Docker Engine does not answer, runs are left as they are: %s", error)
            self._silent = True
        else:
            self._silent = False

    async def _conclude(self, container: RunContainer, *, was_silent: bool) -> None:
        """End the run of a container that has ended, and remove the container."""
        ended = await anyio.to_thread.run_sync(self.engine.ended, container.container_id)
        if was_silent:  # an engine that comes back stops what it finds running, as if somebody had asked for it
            ended = replace(ended, asked=False, seen=False)
        flow_run = await self._read(container.flow_run)
        if flow_run is not None:
            logger = self.get_flow_run_logger(flow_run)
            was_cancelled = flow_run.labels.get(LABEL_END) == ExitReason.CANCELLED
            end = ended.end
            to_do = exit_reason.action(flow_run.state.type if flow_run.state else None, end, cancelled=was_cancelled)
            if to_do == Action.CRASH:
                await set_labels(
                    self.client, flow_run.id, {LABEL_END: end.value}
                )  # whoever sees the state may know why
                logger.error("%s\nThe end of its log:\n%s", ended.explain(), ended.log.strip() or "(it is empty)")
                await report_crash(self.client, flow_run, ended.explain())
            elif to_do == Action.CANCEL:
                end = ExitReason.CANCELLED
                message = {"message": f"The container {ended.name} was stopped."}
                await self._mark_flow_run_as_cancelled(flow_run, state_updates=message)
            await set_labels(self.client, flow_run.id, {LABEL_END: end.value})
        await anyio.to_thread.run_sync(self._remove, container.container_id)
        if (over := self._over.get(UUID(container.flow_run))) is not None:
            over.set()

    def _remove(self, container_id: str) -> None:
        try:
            self.engine.remove(container_id)
        except docker.errors.APIError as error:  # somebody else did, or is at it
            self._logger.info("The container %s is not removed: %s", container_id[:12], error)

    async def _stop_what_users_cancelled(self, containers: Sequence[RunContainer]) -> None:
        running = {c.flow_run: c for c in containers if not c.has_ended}
        for flow_run in await runs_in(self.client, self._work_pool_name, StateType.CANCELLING):
            container = running.get(str(flow_run.id))
            if container is None or container.container_id in self._stopping:
                continue
            # The engine in it will report a crash when it is stopped; the label remembers what was meant.
            await set_labels(self.client, flow_run.id, {LABEL_END: ExitReason.CANCELLED.value})
            self._stopping.add(container.container_id)
            assert self._runs_task_group is not None
            self._runs_task_group.start_soon(self._stop, container.container_id)

    async def _stop(self, container_id: str) -> None:
        try:
            await anyio.to_thread.run_sync(self.engine.stop, container_id)
        except (EngineSilent, docker.errors.APIError) as error:
            self._logger.warning("The container %s could not be stopped: %s", container_id[:12], error)
        finally:
            self._stopping.discard(container_id)

    async def _find_lost_runs(self, containers: Sequence[RunContainer]) -> None:
        """Report the end of this engine's runs whose container is gone, and start those that never had one."""
        engine = await anyio.to_thread.run_sync(self.engine.id)
        there = {container.flow_run for container in containers}
        now = datetime.datetime.now(datetime.UTC)
        unfinished = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
        for flow_run in await runs_in(self.client, self._work_pool_name, *unfinished):
            busy = flow_run.id in self._over or flow_run.id in self._submitting_flow_run_ids
            if busy or str(flow_run.id) in there or flow_run.state is None:
                continue
            age_s = (now - flow_run.state.timestamp).total_seconds()
            is_ours = flow_run.labels.get(LABEL_ENGINE) in (engine, None)
            never_had_one = flow_run.state.type == StateType.PENDING and not flow_run.infrastructure_pid
            if flow_run.state.type == StateType.CANCELLING and is_ours:
                message = {"message": "It was cancelled, and has no container."}
                await self._mark_flow_run_as_cancelled(flow_run, state_updates=message)
            elif flow_run.infrastructure_pid and flow_run.labels.get(LABEL_ENGINE) == engine and age_s > YOUNG_S:
                await set_labels(self.client, flow_run.id, {LABEL_END: ExitReason.LOST.value})
                await report_crash(self.client, flow_run, "Its container is gone, and nobody saw how it ended.")
            elif never_had_one and is_ours and age_s > GRACE_S:
                self.get_flow_run_logger(flow_run).warning("Its worker stopped before it had a container")
                state: State = Scheduled(message="It had no container.")
                await self.client.set_flow_run_state(flow_run.id, state, force=True)

    async def _read(self, flow_run_id: str) -> FlowRun | None:
        try:
            return await self.client.read_flow_run(UUID(flow_run_id))
        except ObjectNotFound:
            return None  # deleted meanwhile
