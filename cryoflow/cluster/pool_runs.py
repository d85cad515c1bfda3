"""Requests of a worker to the Prefect server: runs of its pool, and their states."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import UUID

import anyio
import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import Abort, ObjectNotFound
from prefect.states import Crashed
from prefect.utilities.engine import propose_state

AT_ONCE = 8
"""Requests to the server at the same time."""


async def runs_in(client: PrefectClient, pool: str, *states: StateType) -> list[FlowRun]:
    """Return all flow runs of a pool in these states."""
    flow_runs: list[FlowRun] = []
    while True:
        page = await client.read_flow_runs(
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(states)))),
            work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
            sort=FlowRunSort.EXPECTED_START_TIME_ASC,
            limit=200,
            offset=len(flow_runs),
        )
        flow_runs += page
        if len(page) < 200:
            return flow_runs


async def set_labels(client: PrefectClient, flow_run_id: UUID, labels: dict[str, str]) -> None:
    """Set labels of a flow run; a deleted run is skipped."""
    try:
        await client.update_flow_run_labels(flow_run_id, dict(labels))
    except ObjectNotFound:
        pass


async def set_labels_of_many(client: PrefectClient, flow_runs: Sequence[FlowRun], labels: dict[str, str]) -> None:
    """Set the same labels of many flow runs, some at the same time: one after the other, a hundred take seconds."""
    at_once = anyio.Semaphore(AT_ONCE)

    async def set_of(flow_run: FlowRun) -> None:
        async with at_once:
            await set_labels(client, flow_run.id, labels)

    results = await asyncio.gather(*map(set_of, flow_runs), return_exceptions=True)
    for error in filter(None, results):
        raise error


async def propose(client: PrefectClient, flow_run_id: UUID, state: State) -> None:
    """Set a state, except where the engine or a user's cancelling set another one first."""
    try:
        await propose_state(client, state, flow_run_id=flow_run_id)
    except Abort:
        pass


async def report_crash(client: PrefectClient, flow_run: FlowRun, message: str) -> None:
    """Call a run Crashed, with the reason.

    An engine that was asked to stop says Crashed itself, without the reason: that state is replaced.
    """
    state: State = Crashed(message=message)
    if flow_run.state is not None and flow_run.state.type == StateType.CRASHED:
        await client.set_flow_run_state(flow_run.id, state, force=True)
    else:
        await propose(client, flow_run.id, state)


def is_away(error: Exception) -> bool:
    """Return whether the server is away or overloaded, as opposed to refusing."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)
