"""Run stages as deployments: one, or many shards at the same time, each tried again with more where that can help."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect import Flow
from prefect.client.orchestration import get_client
from pydantic import BaseModel

from cryoflow.cluster.attempts import Done, Work
from cryoflow.cluster.shard_runner import ShardRunner, StageFailed, patiently
from cryoflow.cluster.users import users_of_run
from cryoflow.parameters import Parameters
from cryoflow.settings.load import load_settings
from cryoflow.settings.profiles import ProfileName, deployment_name

__all__ = ["Done", "StageFailed", "Work", "dispatches", "run_shards", "run_stage", "run_stages"]

log = logging.getLogger(__name__)
log.setLevel(logging.INFO)  # what is waited for belongs into the parent's log; the root's level is WARNING
R = TypeVar("R")

SHARD_TAG = "shard"
"""Tag of runs that do a part of a stage's work: their tables stay on their own pages."""


def dispatches() -> bool:
    """Return whether stages run elsewhere than in the process of their parent."""
    return load_settings().settings.place != ProfileName.LOCAL


def run_stage(stage: Flow[[Any], R], parameters: BaseModel | Parameters) -> R | None:
    """Run a stage where the profile sets, and wait for its end: `run_stages` with one."""
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
    log.info("%s: begun", stage.name)
    begun = time.monotonic()
    if not dispatches():
        return [_run_here(stage, each) for each in parameters]
    works = [Work(stage.name, each) for each in parameters]
    done = run_shards(
        stage.name, works, tags=(), on_done=lambda d: _log_end(d.name, d.state, time.monotonic() - begun, d.flow_run)
    )
    if bad := [d for d in done if not d.succeeded]:
        raise StageFailed(" ".join(f"{d.name}: {d.state} after {d.attempts} attempt(s). {d.message}" for d in bad))
    return [None for _ in done]


def _run_here(stage: Flow[[Any], R], parameters: BaseModel | Parameters) -> R:
    begun = time.monotonic()
    state = stage(parameters, return_state=True)
    run_id = str(state.state_details.flow_run_id)
    _log_end(stage.name, "Completed" if state.is_completed() else "Failed", time.monotonic() - begun, run_id)
    return state.result()


def _log_end(name: str, state: str, elapsed_s: float, flow_run_id: str) -> None:
    """Log how a stage ended. Why one failed is left to the error that its parent raises, which is logged too."""
    minutes, seconds = divmod(round(elapsed_s), 60)
    took = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    figures = ""
    if state == "Completed":
        try:
            figures = f" {figures_of(flow_run_id)}"
        except httpx.HTTPError as error:  # a stage that is done stays so
            figures = f" Its figures cannot be read: {error}"
    log.info("%s: %s after %s.%s", name, state.lower(), took, figures)


def figures_of(flow_run_id: str) -> str:
    """Return the headings of a run's tables: what it did, in figures."""
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    which = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(flow_run_id)]))
    with get_client(sync_client=True) as client:
        artifacts = patiently(partial(client.read_artifacts, artifact_filter=which, limit=50))
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
        runner.tags = [*tags, *users_of_run()]
        runner.read_variables()
        runner.find_unfinished()
        ended = runner.run(works, on_done)
    return tuple(ended[i] for i in range(len(works)))
