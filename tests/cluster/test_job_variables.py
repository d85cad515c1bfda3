"""Job variables given to a pipeline reach its stages, and a misspelt one is refused by name."""

from __future__ import annotations

import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from cryoflow.cluster.variables import refuse_unknown_variables, variables_for_stages
from cryoflow.errors import BadInput

RUN, ROOT = uuid.uuid4(), uuid.uuid4()


class Client:
    """A server with one pipeline run on a pool of processes, whose stages run on a pool of jobs."""

    def __init__(self, of_root: dict[str, object] | None = None, **given: object) -> None:
        self.given = {RUN: given, ROOT: of_root}

    def read_flow_run(self, flow_run_id: uuid.UUID) -> Any:
        return SimpleNamespace(job_variables=self.given[flow_run_id], work_pool_name="cryoflow-service")

    def read_deployment_by_name(self, name: str) -> Any:
        assert name == "ingest/ingest (slurm)"
        return SimpleNamespace(work_pool_name="cryoflow-slurm")

    def read_work_pool(self, name: str) -> Any:
        fields = {"cryoflow-service": ("env", "command", "working_dir"), "cryoflow-slurm": ("env", "memory_gb", "qos")}
        return SimpleNamespace(base_job_template={"variables": {"properties": {key: {} for key in fields[name]}}})


def given_to_stages(**given: object) -> dict[str, object]:
    return variables_for_stages(Client(**given), "ingest/ingest (slurm)", str(RUN), str(RUN))  # type: ignore[arg-type]


def test_resources_reach_the_stages_and_what_is_the_pipelines_own_stays() -> None:
    assert given_to_stages(memory_gb=64, qos="long", working_dir="/a") == {"memory_gb": 64, "qos": "long"}
    assert given_to_stages() == {}


def test_variables_of_the_environment_are_the_pipelines_own_and_reach_its_stages_too() -> None:
    assert given_to_stages(env={"A": "b"}) == {"env": {"A": "b"}}
    demo: Any = Client({"env": {"A": "demo's", "B": "c"}, "qos": "long"}, env={"A": "b"})
    handed_on = variables_for_stages(demo, "ingest/ingest (slurm)", RUN, ROOT)
    assert handed_on == {"env": {"A": "b", "B": "c"}, "qos": "long"}


def test_a_variable_that_neither_pool_has_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"no variable 'memory'\. Did you mean memory_gb\?"):
        given_to_stages(memory=64)
    with pytest.raises(BadInput, match=r"no variable 'zzz'\. There are: a, b\."):
        refuse_unknown_variables({"zzz": 1}, ["b", "a"])
