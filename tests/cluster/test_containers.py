"""How a container ended, of what Docker Engine says; and the memory that another attempt gets."""

from __future__ import annotations

from typing import Any

import pytest

from cryoflow.cluster.attempts import end_of, reason_is_missing
from cryoflow.cluster.containers import EndedContainer, _ended
from cryoflow.cluster.docker_worker import ContainerConfiguration, ContainerWorker
from cryoflow.cluster.outcome import END_LABELS, End

INSPECTED = {"Name": "/judge-1", "HostConfig": {"Memory": 4 * 1024**3}}


def ended(exit_code: int, actions: set[str], *, oom_killed: bool = False) -> EndedContainer:
    return _ended(INSPECTED | {"State": {"ExitCode": exit_code, "OOMKilled": oom_killed}}, actions, "")


@pytest.mark.parametrize(
    ("container", "end", "says"),
    [
        (ended(0, {"start", "die"}), End.DONE, "could not report its end"),
        (ended(1, {"start", "die"}), End.DONE, "exit code 1. It ended before it could report"),
        (ended(137, {"start", "oom", "die"}, oom_killed=True), End.MEMORY, "more than its limit of 4096 MB"),
        (ended(137, {"start", "oom", "die"}), End.MEMORY, "OUT_OF_MEMORY"),  # the state is late, or never comes
        (ended(137, {"start", "die"}), End.MEMORY, "OUT_OF_MEMORY"),
        (ended(1, {"start", "oom", "die"}, oom_killed=True), End.MEMORY, "OUT_OF_MEMORY"),  # a process below the first
        (ended(137, {"start", "kill", "die"}), End.CANCELLED, "Somebody stopped it"),
        (ended(143, {"start", "kill", "die", "stop"}), End.CANCELLED, "Somebody stopped it"),
        (ended(255, set()), End.NODE, "Docker Engine or its machine was down"),
        (ended(137, set()), End.NODE, "Docker Engine or its machine was down"),
    ],
)
def test_the_end_of_a_container(container: EndedContainer, end: End, says: str) -> None:
    assert container.end == end
    assert says in container.explain()
    assert container.explain().startswith(f"The container judge-1 ended with exit code {container.exit_code}")


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
    assert end_of(told) == End.MEMORY
    assert not reason_is_missing(told)
    other = next(name for name in END_LABELS.values() if name != label)
    assert end_of(run(**{other: "memory"})) is None


def test_prefect_finds_the_worker_by_its_type_and_it_has_what_we_lean_on() -> None:
    from prefect.workers.base import BaseWorker
    from prefect_docker.worker import DockerWorker

    assert BaseWorker.get_worker_class_from_type("cryoflow-docker") is ContainerWorker
    methods = ("_create_and_start_container", "_get_infrastructure_pid")
    assert all(callable(vars(DockerWorker).get(name)) for name in methods)
    assert callable(vars(BaseWorker).get("_mark_flow_run_as_cancelled"))
