"""Requests of a worker about many runs: some at the same time, and a refused one stops none of the others."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun

from cryoflow.cluster.pool_runs import set_labels_of_many


class MeetingClient:
    """Answers a request for labels once another one has arrived: requests one after the other never end."""

    def __init__(self, refused: UUID | None = None) -> None:
        self.refused = refused
        self.labels: dict[UUID, dict[str, str]] = {}
        self._others_came = asyncio.Event()
        self._n_here = 0

    async def update_flow_run_labels(self, flow_run_id: UUID, labels: dict[str, str]) -> None:
        self._n_here += 1
        if self._n_here > 1:
            self._others_came.set()
        await self._others_came.wait()
        if flow_run_id == self.refused:
            raise httpx.ConnectError("the server is away")
        self.labels[flow_run_id] = labels


def some_runs() -> list[FlowRun]:
    return [FlowRun(id=uuid4(), flow_id=uuid4()) for _ in range(30)]


def label_all(client: Any, runs: list[FlowRun]) -> None:
    asyncio.run(asyncio.wait_for(set_labels_of_many(client, runs, {"a": "b"}), 120))


def test_labels_of_many_runs_are_set_some_at_the_same_time() -> None:
    runs, client = some_runs(), MeetingClient()
    label_all(client, runs)
    assert client.labels == {run.id: {"a": "b"} for run in runs}


def test_a_run_whose_labels_cannot_be_set_stops_none_of_the_others_and_is_told() -> None:
    runs = some_runs()
    client = MeetingClient(runs[3].id)
    with pytest.raises(httpx.ConnectError):
        label_all(client, runs)
    assert client.labels.keys() == {run.id for run in runs} - {runs[3].id}
