"""How a container ended, of what Docker Engine says; and the memory that another attempt gets."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from cryoflow.cluster import docker_worker
from cryoflow.cluster.attempts import end_of, reason_is_missing
from cryoflow.cluster.docker_worker import ContainerConfiguration, ContainerWorker
from cryoflow.cluster.exit_reason import END_LABELS, ExitReason
from cryoflow.cluster.flow_run_containers import EndedContainer, Engine, EngineSilent, RunContainer, ended_container

INSPECTED = {"Name": "/judge-1", "HostConfig": {"Memory": 4 * 1024**3}}


def ended(exit_code: int, actions: set[str], *, oom_killed: bool = False) -> EndedContainer:
    return ended_container(INSPECTED | {"State": {"ExitCode": exit_code, "OOMKilled": oom_killed}}, actions, "")


@pytest.mark.parametrize(
    ("container", "end", "says"),
    [
        (ended(0, {"start", "die"}), ExitReason.DONE, "could not report its end"),
        (ended(1, {"start", "die"}), ExitReason.DONE, "exit code 1. It ended before it could report"),
        (ended(137, {"start", "oom", "die"}, oom_killed=True), ExitReason.MEMORY, "more than its limit of 4096 MB"),
        (ended(137, {"start", "oom", "die"}), ExitReason.MEMORY, "OUT_OF_MEMORY"),  # the state is late, or never comes
        (ended(137, {"start", "die"}), ExitReason.MEMORY, "OUT_OF_MEMORY"),
        (
            ended(1, {"start", "oom", "die"}, oom_killed=True),
            ExitReason.MEMORY,
            "OUT_OF_MEMORY",
        ),  # a process below the first
        (ended(137, {"start", "kill", "die"}), ExitReason.CANCELLED, "Somebody stopped it"),
        (ended(143, {"start", "kill", "die", "stop"}), ExitReason.CANCELLED, "Somebody stopped it"),
        (ended(255, set()), ExitReason.NODE, "Docker Engine or its machine was down"),
        (ended(137, set()), ExitReason.NODE, "Docker Engine or its machine was down"),
    ],
)
def test_the_end_of_a_container(container: EndedContainer, end: ExitReason, says: str) -> None:
    assert container.end == end
    assert says in container.explain()
    assert container.explain().startswith(f"The container judge-1 ended with exit code {container.exit_code}")


def test_an_end_that_the_engine_logs_in_the_next_second_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    at = 1767355200  # 2026-01-02, 12:00:00
    state = {
        "ExitCode": 137,
        "OOMKilled": False,
        "StartedAt": "2026-01-02T12:00:00.5Z",
        "FinishedAt": "2026-01-02T12:00:07.95Z",
    }

    def events(*, since: int, until: int, **_options: object) -> list[dict[str, str]]:
        logged = {"start": at + 0.6, "die": at + 8.05}
        return [{"Action": action} for action, time in logged.items() if since <= time <= until]

    api = SimpleNamespace(inspect_container=lambda _id: INSPECTED | {"State": state}, logs=lambda _id, tail: b"")
    client = SimpleNamespace(api=api, events=events, close=lambda: None)
    monkeypatch.setattr("docker.from_env", lambda: client)
    container = Engine().ended("abc")
    assert container.seen
    assert container.end == ExitReason.MEMORY


@pytest.mark.parametrize(
    ("limit", "factor", "mb"), [("4096m", 1.0, 4096), ("4096m", 2.0, 8192), ("1.5g", 2.0, 3072), (None, 2.0, None)]
)
def test_the_memory_limit_grows_by_its_factor(limit: str | None, factor: float, mb: int | None) -> None:
    from docker.utils import parse_bytes
    from prefect.client.schemas.objects import FlowRun

    configuration = ContainerConfiguration(mem_limit=limit, memory_factor=factor, auto_remove=True)
    configuration.prepare_for_flow_run(FlowRun.model_construct(id="x", name="a run", deployment_id=None, labels={}))
    assert configuration.mem_limit == (None if mb is None else f"{mb * 1024**2}b")
    assert parse_bytes(configuration.mem_limit or 0) == (mb or 0) * 1024**2
    assert not configuration.auto_remove  # or nobody could see how it ended


def test_the_form_of_the_pool_has_the_factor() -> None:
    form = ContainerWorker.get_default_base_job_template()["variables"]["properties"]
    assert form["memory_factor"]["default"] == 1
    assert {"image", "mem_limit", "volumes"} <= set(form)


@pytest.mark.parametrize(("kind", "label"), END_LABELS.items())
def test_each_kind_of_worker_says_the_end_in_a_label_of_its_own(kind: str, label: str) -> None:
    from prefect.client.schemas.objects import FlowRun

    def run(**labels: str) -> Any:
        known = {"prefect.worker.type": kind} | labels
        return FlowRun.model_construct(labels=known, state_type="CRASHED", infrastructure_pid="7")

    assert end_of(run()) is None
    assert reason_is_missing(run())
    told = run(**{label: "memory"})
    assert end_of(told) == ExitReason.MEMORY
    assert not reason_is_missing(told)
    other = next(name for name in END_LABELS.values() if name != label)
    assert end_of(run(**{other: "memory"})) is None


class ForgetfulEngine:
    """An engine without containers, or one that does not answer."""

    def __init__(self, name: str = "this engine") -> None:
        self.name = name

    def id(self) -> str:
        if not self.name:
            raise EngineSilent("it is down")
        return self.name

    def containers(self, pool: str) -> list[RunContainer]:
        self.id()
        return []


def test_runs_whose_container_is_gone_end_those_that_never_had_one_start_anew_and_others_are_left_alone(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.states import Pending, Running

    monkeypatch.setattr(docker_worker, "GRACE_S", 0.0)
    monkeypatch.setattr(docker_worker, "YOUNG_S", 0.0)
    pool = f"pool-{uuid.uuid4()}"

    @flow(name=f"stage-{pool}")
    def stage() -> None: ...

    async def scene() -> dict[str, str]:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=pool, type="cryoflow-docker"))
            deployment = await client.create_deployment(await client.create_flow(stage), "d", work_pool_name=pool)

            async def new(engine: str, *, has_container: bool) -> uuid.UUID:
                run = await client.create_flow_run_from_deployment(deployment)
                if has_container:
                    await client.update_flow_run(run.id, infrastructure_pid="http+docker://localhost:abc")
                    await client.update_flow_run_labels(run.id, {"docker.engine": engine})
                state = Running() if has_container else Pending()
                await client.set_flow_run_state(run.id, state, force=True)
                return run.id

            runs = {
                "gone": await new("this engine", has_container=True),
                "another's": await new("that engine", has_container=True),
                "never": await new("", has_container=False),
            }
            worker = ContainerWorker(work_pool_name=pool)
            async with get_client() as worker._client:
                for name in ("", "this engine"):
                    worker.engine = ForgetfulEngine(name)
                    await worker.poll_engine(for_lost=True)
                    if not name:
                        states = [(await client.read_flow_run(run_id)).state.name for run_id in runs.values()]
                        assert states == ["Running", "Running", "Pending"]
            ended = {key: await client.read_flow_run(run_id) for key, run_id in runs.items()}
            assert ended["gone"].labels["docker.end"] == "lost"
            return {key: run.state.name for key, run in ended.items()}

    assert asyncio.run(scene()) == {"gone": "Crashed", "another's": "Running", "never": "Scheduled"}


def test_prefect_finds_the_worker_by_its_type_and_it_has_what_we_lean_on() -> None:
    from prefect.workers.base import BaseWorker
    from prefect_docker.worker import DockerWorker

    assert BaseWorker.get_worker_class_from_type("cryoflow-docker") is ContainerWorker
    methods = ("_create_and_start_container", "_get_infrastructure_pid")
    assert all(callable(vars(DockerWorker).get(name)) for name in methods)
    assert callable(vars(BaseWorker).get("_mark_flow_run_as_cancelled"))
