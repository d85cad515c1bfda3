"""Runs that lost their worker: one that cannot be taken over leaves the others."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest

from cryoflow.cluster import recovery
from cryoflow.cluster.recovery import Recovery

Taken = list[str]


def search(problem: Exception, monkeypatch: pytest.MonkeyPatch, taken: Taken) -> None:
    """Search for lost runs among three, of which the first cannot be taken over."""
    runs = [SimpleNamespace(id=uuid4(), name=name, infrastructure_pid="1") for name in "abc"]

    async def runs_in(_client: object, _pool: str, *_states: object) -> list[Any]:
        return runs

    async def take_over(_self: Recovery, run: Any, _queue: Mapping[int, Any] | None = None) -> None:
        if run.name == "a":
            raise problem
        taken.append(run.name)

    monkeypatch.setattr(recovery, "runs_in", runs_in)
    monkeypatch.setattr(Recovery, "take_over", take_over)
    worker: Any = SimpleNamespace(
        client=None, _work_pool_name="p", _submitting_flow_run_ids=set(),
        get_flow_run_logger=lambda run: logging.getLogger(run.name),
    )  # fmt: skip
    scheduler: Any = None
    attend: Any = None
    asyncio.run(Recovery(worker, scheduler, set(), attend).find_lost_runs(first=False))


def test_a_run_that_cannot_be_taken_over_is_named_and_leaves_the_others(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    taken: Taken = []
    search(ValueError("memory_gb is no number"), monkeypatch, taken)
    assert taken == ["b", "c"]
    assert [(r.name, r.getMessage()) for r in caplog.records] == [
        ("a", "It was not taken over, which is tried again: ValueError('memory_gb is no number')")
    ]


def test_a_server_that_is_away_ends_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Taken = []
    with pytest.raises(httpx.ConnectError):
        search(httpx.ConnectError("away"), monkeypatch, taken)
    assert taken == []
