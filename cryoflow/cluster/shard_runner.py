"""Start the shards of a stage as runs of its deployment, so many at a time, and wait for their end.

The parent starts runs with an idempotency key made of its own run, the stage, its parameters and the attempt. So a
request that is sent twice makes one run, and a parent that was killed and is run again takes over what still runs. So
does a new parent with the same parameters: it looks for runs of the same work before it starts its own.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar, cast
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient
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

from cryoflow.cluster.attempts import Attempt, Done, Work, digest, message, reason_is_missing
from cryoflow.cluster.exit_reason import TOOK_OVER
from cryoflow.cluster.variables import runs_a_job, variables_for_stages
from cryoflow.errors import CryoflowError

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # what is waited for belongs into the parent's log; the root's level is WARNING
R = TypeVar("R")

POLL_S = 5.0
SERVER_PATIENCE_S = 1800.0
"""Seconds that the Prefect server may be away before the parent gives up."""


class StageFailed(CryoflowError):
    """A stage that ran as a deployment did not come to a good end."""


class ShardRunner:
    """The runs of one call of `run_shards`.

    Parameters
    ----------
    deployment
        `flow/deployment` of the shards.
    attempts
        Jobs of one shard that ran out of memory, time or luck.
    at_once
        Jobs that wait or run at the same time.
    """

    def __init__(self, client: SyncPrefectClient, deployment: str, attempts: int, at_once: int) -> None:
        self.client, self.deployment, self.attempts, self.at_once = client, deployment, attempts, at_once
        self.parent = str(this_run.id or uuid.uuid4())
        self.began = datetime.now(UTC)
        self.tags: list[str] = []
        self.variables: dict[str, object] = {}
        """Job variables of the parent that its stages get too."""
        self.runs_a_job = 1
        """Runs that share a job: so many are started together, or the pack that they make would not be full."""
        self.unfinished: dict[str, FlowRun] = {}
        """By what they work on: runs of this deployment that somebody else started."""

    def read_variables(self) -> None:
        """Read the job variables that the parent hands on, and how many runs share a job."""
        parents = this_run.id, this_run.root_flow_run_id
        self.variables = variables_for_stages(self.client, self.deployment, *parents)
        self.runs_a_job = runs_a_job(self.client, self.deployment, self.variables)

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
            page = patiently(read)
            offset += 200
            for run in page:
                if not (run.auto_scheduled and run.state_type == StateType.SCHEDULED):  # that is next night's
                    self.unfinished[digest(run.parameters.get("parameters"))] = run

    def run(self, works: Sequence[Work], on_done: Callable[[Done], None] | None) -> dict[int, Done]:
        """Run pieces of work to their end, and return by their position how each ended."""
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
            for _ in range(runs_to_start(len(waiting), len(active), self.at_once, self.runs_a_job)):
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
                flow_run = cast(FlowRun, patiently(make))
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
            patiently(partial(self.client.update_flow_run_labels, UUID(this_run.id), label))
        except httpx.HTTPStatusError as error:
            log.warning("The trace will not list the run %s: %s", flow_run.name, error)

    def _look(self, ids: list[UUID]) -> list[FlowRun]:
        """Return all runs that are waited for, read in one request for every 200."""
        found: list[FlowRun] = []
        for start in range(0, len(ids), 200):
            some = FlowRunFilter(id=FlowRunFilterId(any_=ids[start : start + 200]))
            read = partial(self.client.read_flow_runs, flow_run_filter=some, sort=FlowRunSort.ID_DESC, limit=200)
            found += patiently(read)
        return found


def runs_to_start(n_waiting: int, n_active: int, at_once: int, runs_a_job: int) -> int:
    """Return how many of the waiting runs to start now: so many that each job which they share is full.

    Parameters
    ----------
    at_once
        Jobs at the same time.
    runs_a_job
        Runs that share a job.
    """
    room = at_once * runs_a_job - n_active
    return min(room, n_waiting) if room >= min(runs_a_job, n_waiting) else 0


def patiently(call: Callable[[], R]) -> R:
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
