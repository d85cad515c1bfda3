"""Running stages as deployments: one, or many shards at the same time, each tried again with more where that can help.

The parent starts runs with an idempotency key made of its own run, the stage, its parameters and the attempt. So a
request that is sent twice makes one run, and a parent that was killed and is run again takes over what still runs. So
does a new parent with the same parameters: it looks for runs of the same work before it starts its own.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run as this_run
from prefect.states import Cancelling
from pydantic import BaseModel

from cryoflow.cluster.attempts import Attempt, Done, Work, digest, message, reason_is_missing
from cryoflow.cluster.exit_reason import TOOK_OVER
from cryoflow.cluster.variables import variables_for_stages
from cryoflow.errors import CryoflowError
from cryoflow.parameters import Parameters
from cryoflow.settings.load import Settings, load_settings
from cryoflow.settings.profiles import ProfileName, deployment_name

__all__ = ["Done", "StageFailed", "Work", "dispatches", "run_shards", "run_stage", "run_stages"]

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # what is waited for belongs into the parent's log; the root's level is WARNING
R = TypeVar("R")

POLL_S = 5.0
SERVER_PATIENCE_S = 1800.0
"""How long the Prefect server may be away before the parent gives up."""


SHARD_TAG = "shard"
"""Tag of runs that do a part of a stage's work: their tables stay on their own pages."""


class StageFailed(CryoflowError):
    """A stage that ran as a deployment did not come to a good end."""


def dispatches(settings: Settings | None = None) -> bool:
    """Return whether stages run elsewhere than in the process of their parent."""
    return (settings or load_settings().settings).place != ProfileName.LOCAL


def run_stage(stage: Flow[[Any], R], parameters: BaseModel | Parameters) -> R | None:
    """Run a stage where the profile says, and wait for its end: `run_stages` with one."""
    return run_stages(stage, [parameters])[0]


def run_stages(stage: Flow[[Any], R], parameters: Sequence[BaseModel | Parameters]) -> list[R | None]:
    """Run a stage with each of some parameters: in this process, or as deployments at the same time.

    Returns
    -------
    What the flow returns, where it ran in this process; else None: its outputs on disk are its result.

    Raises
    ------
    StageFailed
        Where a deployment's run failed, crashed for a reason that more resources do not cure, or was cancelled. All
        have come to their end by then.
    """
    if not dispatches():
        return [stage(each) for each in parameters]
    log.info("%s: begun", stage.name)
    begun = time.monotonic()
    done = run_shards(stage.name, [Work(stage.name, each) for each in parameters], tags=())
    for each in done:
        minutes, seconds = divmod(round(time.monotonic() - begun), 60)
        figures = _figures(each.flow_run) if each.succeeded else each.message
        took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
        log.info("%s: %s after %s. %s", each.name, each.state.lower(), took, figures)
    if bad := [d for d in done if not d.succeeded]:
        raise StageFailed(" ".join(f"{d.name}: {d.state} after {d.attempts} attempt(s). {d.message}" for d in bad))
    return [None for _ in done]


def _figures(flow_run_id: str) -> str:
    """Return the headings of a run's tables: what it did, in figures."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    which = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run_id)]))
    with get_client(sync_client=True) as client:
        artifacts = _patiently(partial(client.read_artifacts, artifact_filter=which, limit=50))
    texts = [a.description for a in artifacts if a.type == "table" and a.description]
    return " ".join(text if text.endswith(".") else f"{text}." for text in reversed(texts))


def run_shards(
    flow_name: str,
    works: Iterable[Work],
    *,
    on_done: Callable[[Done], None] | None = None,
    tags: Sequence[str] = (SHARD_TAG,),
) -> tuple[Done, ...]:
    """Run many pieces of work as runs of one flow's deployment, so many at a time, and wait for all of them.

    One that fails does not take the others along: it is in the answer. Their order is that of `works`.
    """
    settings = load_settings().settings
    works = list(works)
    name = f"{flow_name}/{deployment_name(flow_name, settings.place)}"
    with get_client(sync_client=True) as client:
        runner = ShardRunner(client, name, settings.site.attempts, settings.site.shards_at_once)
        runner.tags = list(tags)
        runner.variables = variables_for_stages(client, name, this_run.id, this_run.root_flow_run_id)
        runner.find_unfinished()
        ended = runner.run(works, on_done)
    return tuple(ended[i] for i in range(len(works)))


class ShardRunner:
    def __init__(self, client: SyncPrefectClient, deployment: str, attempts: int, at_once: int) -> None:
        self.client, self.deployment, self.attempts, self.at_once = client, deployment, attempts, at_once
        self.parent = str(this_run.id or uuid.uuid4())
        self.began = datetime.now(UTC)
        self.tags: list[str] = []
        self.variables: dict[str, object] = {}
        """Job variables of the parent that its stages get too."""
        self.unfinished: dict[str, FlowRun] = {}
        """By what they work on: runs of this deployment that somebody else started."""

    def find_unfinished(self) -> None:
        """Look for runs that wait or run already: of a parent that died, or that a user started by hand."""
        which = DeploymentFilter(name=DeploymentFilterName(any_=[self.deployment.partition("/")[2]]))
        types = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]
        states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
        page: list[FlowRun] = []
        offset = 0
        while offset == 0 or len(page) == 200:
            read = partial(
                self.client.read_flow_runs,
                deployment_filter=which,
                flow_run_filter=states,
                sort=FlowRunSort.ID_DESC,
                limit=200,
                offset=offset,
            )
            page = _patiently(read)
            offset += 200
            for run in page:
                if not (run.auto_scheduled and run.state_type == StateType.SCHEDULED):  # that is next night's
                    self.unfinished[digest(run.parameters.get("parameters"))] = run

    def run(self, works: Sequence[Work], on_done: Callable[[Done], None] | None) -> dict[int, Done]:
        waiting = deque((i, Attempt(work)) for i, work in enumerate(works))
        active: dict[UUID, tuple[int, Attempt]] = {}
        ended: dict[int, Done] = {}
        try:
            self._run(waiting, active, ended, on_done)
        except BaseException as stop:
            if self._is_unwanted(stop):
                self._cancel(list(active))
            raise
        return ended

    def _run(
        self,
        waiting: deque[tuple[int, Attempt]],
        active: dict[UUID, tuple[int, Attempt]],
        ended: dict[int, Done],
        on_done: Callable[[Done], None] | None,
    ) -> None:
        while waiting or active:
            while waiting and len(active) < self.at_once:
                i, attempt = waiting.popleft()
                flow_run, attempt = self._start(attempt)
                active[flow_run.id] = (i, attempt)
            for flow_run in self._look(list(active)):
                i, attempt = active[flow_run.id]
                if flow_run.state is None or not flow_run.state.is_final():
                    continue
                if reason_is_missing(flow_run) and not attempt.waited_enough():
                    if attempt.ended_at is None:
                        active[flow_run.id] = (i, replace(attempt, ended_at=time.monotonic()))
                    continue
                del active[flow_run.id]
                if (again := attempt.another(flow_run, self.attempts)) is not None:
                    log.warning("%s: %s; attempt %d follows", attempt.work.name, message(flow_run), again.number)
                    waiting.appendleft((i, again))
                    continue
                ended[i] = attempt.done(flow_run)
                if on_done:
                    on_done(ended[i])
            if active:
                time.sleep(POLL_S)

    def _is_unwanted(self, stop: BaseException) -> bool:
        """Return whether running stages must end too: a user pressed Ctrl-C or cancelled the parent.

        Where the parent's process only came to its end (its worker was stopped, the machine went down), jobs go on and
        are found again.
        """
        if isinstance(stop, KeyboardInterrupt):
            return True
        root = this_run.root_flow_run_id  # cancelling the demo ends the pipeline in it
        if isinstance(stop, Exception) or not root:
            return False
        state = self.client.read_flow_run(UUID(root)).state
        return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)

    def _cancel(self, ids: list[UUID]) -> None:
        for flow_run_id in ids:
            self.client.set_flow_run_state(flow_run_id, Cancelling(message="Its parent was cancelled."))
        log.warning("%d runs that this one had started are cancelled too", len(ids))

    def _start(self, attempt: Attempt) -> tuple[FlowRun, Attempt]:
        """Make the run of an attempt, or find the one that an earlier life of this parent made."""
        values = attempt.work.values
        mark = digest(values)
        if (there := self.unfinished.pop(mark, None)) is not None:
            log.info("%s is at work already, as the run %s: it is waited for", attempt.work.name, there.name)
            self._note_taken_over(there)
            return there, replace(attempt, variables=dict(there.job_variables or {}))
        while True:
            key = f"{self.parent}:{self.deployment}:{mark}:{attempt.number}:{attempt.generation}"
            key += f":{attempt.preemptions}" if attempt.preemptions else ""
            make = partial(
                run_deployment,
                self.deployment,
                parameters={"parameters": values},
                flow_run_name=attempt.work.name,
                job_variables={**self.variables, **attempt.variables},
                idempotency_key=key,
                tags=self.tags,
                timeout=0,
            )
            try:
                flow_run = cast(FlowRun, _patiently(make))
            except ObjectNotFound:
                raise StageFailed(
                    f"{self.client.api_url} has no deployment {self.deployment}. `cryoflow deploy` registers them."
                ) from None
            state = flow_run.state
            of_earlier_life = flow_run.created is not None and flow_run.created < self.began
            if of_earlier_life and state is not None and state.is_final() and not state.is_completed():
                attempt = replace(attempt, generation=attempt.generation + 1)
                continue
            return flow_run, attempt

    def _note_taken_over(self, flow_run: FlowRun) -> None:
        """Write down with this run whom it waits for: what another's child cost belongs to this run's trace too."""
        if this_run.id is None:
            return
        label: dict[str, bool | int | float | str] = {f"{TOOK_OVER}{flow_run.id}": flow_run.name}
        try:
            _patiently(partial(self.client.update_flow_run_labels, UUID(this_run.id), label))
        except httpx.HTTPStatusError as error:
            log.warning("The trace will not list the run %s: %s", flow_run.name, error)

    def _look(self, ids: list[UUID]) -> list[FlowRun]:
        """Return all runs that are waited for, read in one request for every 200."""
        found: list[FlowRun] = []
        for start in range(0, len(ids), 200):
            some = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + 200]))
            read = partial(self.client.read_flow_runs, flow_run_filter=some, sort=FlowRunSort.ID_DESC, limit=200)
            found += _patiently(read)
        return found


def _patiently(call: Callable[[], R]) -> R:
    """Call the server, and repeat the call while it is away or overloaded."""
    end = time.monotonic() + SERVER_PATIENCE_S
    while True:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            if error.response.status_code < 500 or time.monotonic() > end:
                raise
            log.warning("The Prefect server has too much to do: %s", error.response.status_code)
        except httpx.TransportError as error:
            if time.monotonic() > end:
                raise
            log.warning("The Prefect server does not answer: %r", error)
        time.sleep(POLL_S)
