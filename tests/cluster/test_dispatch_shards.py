"""Dispatching: shards run at the same time within a limit, grow after exhaustion, and do not take others along."""

from __future__ import annotations

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.exceptions import TerminationSignal
from pydantic import BaseModel

pytestmark = pytest.mark.usefixtures("prefect_server")


class Parameters(BaseModel):
    number: int = 0


def form(*names: str) -> dict[str, Any]:
    """The form of a pool with these variables."""
    fields = {name: {"title": name} for name in names}
    return {"job_configuration": {name: f"{{{{ {name} }}}}" for name in names}, "variables": {"properties": fields}}


class Cluster:
    """A pool without a worker: a thread gives each new run the end that a test wants."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.flow_name = f"stage-{uuid.uuid4()}"
        self.seen: list[tuple[int, dict[str, Any]]] = []
        """Number and job variables of each run, in the order in which they came."""
        self.most_active = 0
        self.answer: Callable[[int, int], Callable[[Any], None]] = lambda number, attempt: self.complete
        self.stop = threading.Event()
        self._handled: set[Any] = set()

        from prefect import flow
        from prefect.client.schemas.actions import WorkPoolCreate

        @flow(name=self.flow_name)
        def stage(parameters: Parameters) -> str:
            return f"in this process: {parameters.number}"

        self.flow = stage
        pool = f"pool-{uuid.uuid4()}"
        client.create_work_pool(WorkPoolCreate(name=pool, type="slurm", base_job_template=form("env", "memory_gb")))
        self.deployment = client.create_deployment(
            client.create_flow(stage), f"{self.flow_name} (slurm)", work_pool_name=pool
        )

    def runs(self) -> list[Any]:
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
        from prefect.client.schemas.sorting import FlowRunSort

        only = DeploymentFilter(id=DeploymentFilterId(any_=[self.deployment]))
        runs = self.client.read_flow_runs(deployment_filter=only, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=100)
        return list(runs)

    def act(self) -> None:
        while not self.stop.wait(0.1):
            runs = self.runs()
            self.most_active = max(self.most_active, sum(not run.state.is_final() for run in runs))
            for run in runs:
                if run.id in self._handled:
                    continue
                self._handled.add(run.id)
                number = run.parameters["parameters"]["number"]
                attempt = 1 + sum(n == number for n, _ in self.seen)
                self.seen.append((number, run.job_variables or {}))
                self.answer(number, attempt)(run)

    def complete(self, run: Any) -> None:
        from prefect.states import Completed

        self.client.set_flow_run_state(run.id, Completed(), force=True)

    def fail(self, run: Any) -> None:
        from prefect.states import Failed

        self.client.set_flow_run_state(run.id, Failed(message="the file x.star is broken"), force=True)

    def ignore(self, run: Any) -> None:
        from prefect.states import Running

        self.client.set_flow_run_state(run.id, Running(), force=True)

    def crash(self, end: str, *, after_s: float = 0.0, node: str = "") -> Callable[[Any], None]:
        """As SLURM's worker does: the engine's crash first, the reason a little later."""

        def do(run: Any) -> None:
            from prefect.states import Crashed

            self.client.update_flow_run(run.id, infrastructure_pid="7")
            labels = {"prefect.worker.type": "slurm"}
            self.client._client.patch(f"/flow_runs/{run.id}/labels", json=labels)
            self.client.set_flow_run_state(run.id, Crashed(message="a signal"), force=True)
            time.sleep(after_s)
            if end:
                self.client._client.patch(f"/flow_runs/{run.id}/labels", json={"slurm.end": end, "slurm.node": node})

        return do


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    from prefect.client.orchestration import get_client

    monkeypatch.setattr("cryoflow.cluster.shard_runner.POLL_S", 0.2)
    monkeypatch.setenv("CRYOFLOW_PROFILE", "slurm")
    with get_client(sync_client=True) as client:
        cluster = Cluster(client)
        actor = threading.Thread(target=cluster.act)
        actor.start()
        yield cluster
        cluster.stop.set()
        actor.join()


def works(n: int) -> list[Any]:
    from cryoflow.cluster.dispatch import Work

    return [Work(f"shard {i}", Parameters(number=i)) for i in range(n)]


def test_a_stage_runs_in_this_process_where_the_profile_is_local(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoflow.cluster.dispatch import run_stage

    monkeypatch.setenv("CRYOFLOW_PROFILE", "local")
    assert run_stage(cluster.flow, Parameters(number=3)) == "in this process: 3"
    assert cluster.seen == []


@pytest.mark.parametrize("profile", ["slurm", "local"])
def test_the_parent_logs_the_begin_and_the_end_of_a_stage_with_its_figures(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, profile: str
) -> None:
    from prefect import flow
    from prefect.client.schemas.actions import ArtifactCreate

    from cryoflow.cluster.dispatch import StageFailed, run_stage
    from flows.run_page import show_table

    @flow(name=f"in process {cluster.flow_name}")
    def here(parameters: Parameters) -> int:
        if parameters.number == 1:
            raise ValueError("the file x.star is broken")
        show_table("labels", [{"a": 1}], "labels: 1 positive")
        return 7

    def complete_with_table(run: Any) -> None:
        table = ArtifactCreate(
            type="table", key="labels", data="[]", description="labels: 1 positive", flow_run_id=run.id
        )
        cluster.client.create_artifact(table)
        cluster.complete(run)

    monkeypatch.setenv("CRYOFLOW_PROFILE", profile)
    cluster.answer = lambda number, attempt: cluster.fail if number == 1 else complete_with_table
    stage = here if profile == "local" else cluster.flow
    caplog.set_level("INFO", logger="cryoflow.cluster.dispatch")
    assert run_stage(stage, Parameters(number=0)) == (7 if profile == "local" else None)
    with pytest.raises(ValueError if profile == "local" else StageFailed, match=r"x\.star is broken"):
        run_stage(stage, Parameters(number=1))
    lines = [record.getMessage() for record in caplog.records if record.name == "cryoflow.cluster.dispatch"]
    assert [re.sub(r" after [^.]+\.", " after N s.", line) for line in lines] == [
        f"{stage.name}: begun",
        f"{stage.name}: completed after N s. labels: 1 positive.",
        f"{stage.name}: begun",
        f"{stage.name}: failed after N s.",
    ]


def test_a_stage_whose_figures_cannot_be_read_is_done_all_the_same(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import httpx

    from cryoflow.cluster import dispatch

    def fails(_: str) -> str:
        raise httpx.ReadTimeout("the server is busy")

    monkeypatch.setattr(dispatch, "figures_of", fails)
    cluster.answer = lambda number, attempt: cluster.complete
    caplog.set_level("INFO", logger="cryoflow.cluster.dispatch")
    assert dispatch.run_stage(cluster.flow, Parameters(number=0)) is None
    assert "Its figures cannot be read: the server is busy" in caplog.text


def test_a_stage_that_is_dispatched_is_waited_for(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import run_stage

    assert run_stage(cluster.flow, Parameters(number=3)) is None
    assert [number for number, _ in cluster.seen] == [3]


def test_a_stage_that_failed_raises_with_its_message_and_is_not_tried_again(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import StageFailed, run_stage

    cluster.answer = lambda number, attempt: cluster.fail
    with pytest.raises(StageFailed, match=r"the file x\.star is broken"):
        run_stage(cluster.flow, Parameters())
    assert len(cluster.seen) == 1


def test_a_shard_that_fails_does_not_take_the_others_along(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.fail if number == 1 else cluster.complete
    told: list[str] = []
    done = run_shards(cluster.flow_name, works(4), on_done=lambda d: told.append(d.name))
    assert [d.name for d in done] == ["shard 0", "shard 1", "shard 2", "shard 3"]
    assert [d.succeeded for d in done] == [True, False, True, True]
    assert "x.star" in done[1].message
    assert sorted(told) == [d.name for d in done]


@pytest.mark.parametrize(("end", "factor"), [("memory", "memory_factor"), ("time", "time_factor")])
def test_what_ran_out_is_doubled_with_each_attempt(cluster: Cluster, end: str, factor: str) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.crash(end) if attempt < 3 else cluster.complete
    (done,) = run_shards(cluster.flow_name, works(1))
    assert done.succeeded
    assert done.attempts == 3
    assert [variables for _, variables in cluster.seen] == [{}, {factor: 2.0}, {factor: 4.0}]


def test_a_lost_node_is_another_attempt_with_the_same_resources_on_another_node(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import run_shards

    answers = {1: cluster.crash("node"), 2: cluster.crash("node", node="node2"), 3: cluster.complete}
    cluster.answer = lambda number, attempt: answers[attempt]
    (done,) = run_shards(cluster.flow_name, works(1))
    assert (done.succeeded, done.attempts) == (True, 3)
    assert [variables for _, variables in cluster.seen] == [{}, {}, {"exclude_nodes": ["node2"]}]


def test_a_server_that_was_away_is_another_attempt(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.crash("server") if attempt == 1 else cluster.complete
    (done,) = run_shards(cluster.flow_name, works(1))
    assert (done.succeeded, done.attempts) == (True, 2)


@pytest.mark.parametrize("end", ["preempted", "warned"])
def test_making_room_and_a_warning_before_the_time_limit_use_up_no_attempt(cluster: Cluster, end: str) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.crash(end) if attempt < 5 else cluster.complete
    (done,) = run_shards(cluster.flow_name, works(1))  # of three attempts
    assert (done.succeeded, done.attempts) == (True, 1)
    assert [variables for _, variables in cluster.seen] == [{}] * 5


def test_preemptions_without_end_are_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.cluster.dispatch import run_shards

    monkeypatch.setattr("cryoflow.cluster.attempts.MOST_JOBS", 2)
    cluster.answer = lambda number, attempt: cluster.crash("preempted") if attempt < 5 else cluster.complete
    (done,) = run_shards(cluster.flow_name, works(1))
    assert (done.succeeded, len(cluster.seen)) == (False, 3)


@pytest.mark.parametrize("end", ["done", "cancelled", "lost"])
def test_a_crash_that_more_would_not_cure_is_not_tried_again(cluster: Cluster, end: str) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.crash(end)
    (done,) = run_shards(cluster.flow_name, works(1))
    assert (done.state, done.attempts, done.slurm_job) == ("Crashed", 1, "7")


def test_attempts_end(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.crash("memory")
    (done,) = run_shards(cluster.flow_name, works(1))
    assert (done.succeeded, done.attempts) == (False, 3)


def test_slurms_reason_is_waited_for(cluster: Cluster) -> None:
    from cryoflow.cluster.dispatch import run_shards

    cluster.answer = lambda number, attempt: cluster.crash("memory", after_s=1.5) if attempt == 1 else cluster.complete
    (done,) = run_shards(cluster.flow_name, works(1))
    assert done.attempts == 2


def test_a_reason_that_never_comes_is_not_waited_for_for_ever(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoflow.cluster.dispatch import run_shards

    monkeypatch.setattr("cryoflow.cluster.attempts.REASON_PATIENCE_S", 0.5)
    cluster.answer = lambda number, attempt: cluster.crash("")
    (done,) = run_shards(cluster.flow_name, works(1))
    assert (done.state, done.attempts) == ("Crashed", 1)


def test_no_more_shards_run_at_the_same_time_than_the_site_allows(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from cryoflow.cluster.dispatch import run_shards

    file = tmp_path / "cryoflow.toml"
    file.write_text("[site]\nshards_at_once = 2\n")
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file))
    done = run_shards(cluster.flow_name, works(6))
    assert all(d.succeeded for d in done)
    assert 1 <= cluster.most_active <= 2


def test_a_parent_that_is_run_again_takes_over_what_runs_and_repeats_what_failed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client

    from cryoflow.cluster import dispatch, shard_runner

    with get_client(sync_client=True) as client:
        parent = client.create_flow_run(flow(lambda: None, name="parent"))

    class Parent:
        id = root_flow_run_id = str(parent.id)

    monkeypatch.setattr(shard_runner, "this_run", Parent)
    first = dict(enumerate([cluster.complete, cluster.fail, cluster.ignore]))
    cluster.answer = lambda number, attempt: first[number] if attempt == 1 else cluster.complete
    # As when a parent was killed: shard 2 runs on, and this thread waits for it beside the second call.
    threading.Thread(target=lambda: dispatch.run_shards(cluster.flow_name, works(3)), daemon=True).start()
    while not (found := [run for run in cluster.runs() if run.state.name == "Running"]):
        time.sleep(0.1)
    (running,) = found
    threading.Timer(1.0, lambda: cluster.complete(running)).start()
    done = dispatch.run_shards(cluster.flow_name, works(3))
    assert all(d.succeeded for d in done)
    assert sorted(number for number, _ in cluster.seen) == [0, 1, 1, 2]
    assert done[2].flow_run == str(running.id)


class TakenOver(logging.Handler):
    """Set an event once a parent takes over a run."""

    def __init__(self, event: threading.Event) -> None:
        super().__init__()
        self.event = event

    def emit(self, record: logging.LogRecord) -> None:
        if "is at work already" in record.getMessage():
            self.event.set()


def test_another_parent_with_the_same_parameters_waits_for_what_runs_already(cluster: Cluster) -> None:
    """A user whose pipeline died starts it anew: what it had started must not be done twice at the same time."""
    from prefect import flow
    from prefect.runtime import flow_run

    from cryoflow.cluster import dispatch
    from cryoflow.cluster.trace import trace

    @flow
    def parent() -> tuple[str, tuple[dispatch.Done, ...]]:
        return str(flow_run.id), dispatch.run_shards(cluster.flow_name, works(2))

    cluster.answer = lambda number, attempt: cluster.ignore if number == 1 else cluster.complete
    dead = threading.Thread(target=lambda: dispatch.run_shards(cluster.flow_name, works(2)), daemon=True)
    dead.start()
    while not [run for run in cluster.runs() if run.state.name == "Running"]:
        time.sleep(0.1)
    (running,) = [run for run in cluster.runs() if run.state.name == "Running"]
    # A run that ends before the parent looks for runs is not taken over: it may end only once it has been.
    taken = threading.Event()
    logger, handler = logging.getLogger("cryoflow.cluster.shard_runner"), TakenOver(taken)
    logger.addHandler(handler)
    threading.Thread(target=lambda: taken.wait(300) and cluster.complete(running), daemon=True).start()
    try:
        run_id, done = parent()
    finally:
        logger.removeHandler(handler)
    assert all(d.succeeded for d in done)
    assert done[1].flow_run == str(running.id)
    assert sorted(number for number, _ in cluster.seen) == [0, 0, 1]
    dead.join(10)
    rows = trace(uuid.UUID(run_id))  # what it cost is told with the one that waited for it
    assert {row.flow_run for row in rows} == {d.flow_run for d in done}
    assert len(rows) == 2


def test_a_run_of_next_night_is_not_waited_for() -> None:
    from cryoflow.cluster.shard_runner import ShardRunner

    parameters = {"parameters": {"number": 0}}
    nightly = SimpleNamespace(auto_scheduled=True, state_type="SCHEDULED", parameters=parameters)
    tonight = SimpleNamespace(auto_scheduled=True, state_type="RUNNING", parameters=parameters)
    found = [nightly]
    client: Any = SimpleNamespace(read_flow_runs=lambda **_filters: found)
    runner = ShardRunner(client, "stage/stage (slurm)", 1, 1)
    runner.find_unfinished()
    assert runner.unfinished == {}
    found.append(tonight)
    runner.find_unfinished()
    assert list(runner.unfinished.values()) == [tonight]


@pytest.mark.parametrize(
    ("stop", "parent_is", "children_are"),
    [
        (KeyboardInterrupt(), "Running", "Cancelling"),  # Ctrl-C
        (TerminationSignal(15), "Cancelling", "Cancelling"),  # a user cancelled the parent in the page
        (TerminationSignal(15), "Running", "Running"),  # its worker was stopped: they are taken over later
        (ValueError("a defect"), "Running", "Running"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_runs_is_cancelled_with_its_parent_and_goes_on_where_the_parent_only_died(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, stop: BaseException, parent_is: str, children_are: str
) -> None:
    from prefect.states import Cancelling, Running

    from cryoflow.cluster import dispatch, shard_runner

    state = Cancelling() if parent_is == "Cancelling" else Running()
    parent = cluster.client.create_flow_run(cluster.flow, parameters={"parameters": {}})
    cluster.client.set_flow_run_state(parent.id, state, force=True)
    monkeypatch.setattr(shard_runner, "this_run", SimpleNamespace(id=str(parent.id), root_flow_run_id=str(parent.id)))
    cluster.answer = lambda number, attempt: cluster.ignore

    def sleep(_seconds: float) -> None:
        if len([run for run in cluster.runs() if run.state.name == "Running"]) == 2:
            raise stop
        time.sleep(0.2)

    monkeypatch.setattr(shard_runner, "time", SimpleNamespace(sleep=sleep, monotonic=time.monotonic))
    with pytest.raises(type(stop)):
        dispatch.run_shards(cluster.flow_name, works(2))
    assert {run.state.name for run in cluster.runs()} == {children_are}


def test_shards_that_share_jobs_are_started_in_full_packs() -> None:
    from cryoflow.cluster.shard_runner import runs_to_start

    of_packs = partial(runs_to_start, at_once=2, runs_a_job=3)  # two jobs of three runs
    assert of_packs(n_waiting=10, n_active=0) == 6
    assert of_packs(n_waiting=4, n_active=4) == 0  # a job of two runs would take the place of one of three
    assert of_packs(n_waiting=4, n_active=3) == 3
    assert of_packs(n_waiting=1, n_active=5) == 1  # the last one is alone
    assert runs_to_start(n_waiting=9, n_active=1, at_once=2, runs_a_job=1) == 1


def test_a_parent_reads_from_the_deployment_how_many_runs_share_a_job(cluster: Cluster) -> None:
    from cryoflow.cluster.variables import runs_a_job

    name = f"{cluster.flow_name}/{cluster.flow_name} (slurm)"
    assert runs_a_job(cluster.client, name, {}) == 1
    cluster.client._client.patch(f"/deployments/{cluster.deployment}", json={"job_variables": {"pack": 8}})
    assert runs_a_job(cluster.client, name, {}) == 8
    assert runs_a_job(cluster.client, name, {"pack": 2}) == 2  # of the parent's form
    assert runs_a_job(cluster.client, "no/deployment", {}) == 1


def test_job_variables_of_a_parent_reach_its_stages_and_a_misspelt_one_starts_none(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate

    from cryoflow.cluster import dispatch, shard_runner
    from cryoflow.errors import BadInput

    pool = f"service-{uuid.uuid4()}"
    cluster.client.create_work_pool(WorkPoolCreate(name=pool, type="process", base_job_template=form("env", "command")))
    flow_id = cluster.client.read_deployment(cluster.deployment).flow_id
    pipeline = cluster.client.create_deployment(flow_id, "pipeline", work_pool_name=pool)

    def start(**variables: object) -> None:
        run = cluster.client.create_flow_run_from_deployment(pipeline, job_variables=variables)
        monkeypatch.setattr(shard_runner, "this_run", SimpleNamespace(id=str(run.id), root_flow_run_id=str(run.id)))
        dispatch.run_stage(cluster.flow, Parameters(number=1))

    start(memory_gb=64, env={"A": "b"}, command="x")
    assert cluster.seen == [(1, {"memory_gb": 64, "env": {"A": "b"}})]
    with pytest.raises(BadInput, match="no variable 'memry'"):
        start(memry=64)
    assert len(cluster.seen) == 1


def test_stages_carry_the_tag_of_the_user_who_launched_their_parent(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import flow

    from cryoflow.cluster.dispatch import run_stage
    from cryoflow.cluster.orphaned_runs import own_runs

    @flow
    def parent() -> None:
        run_stage(cluster.flow, Parameters(number=1))

    monkeypatch.setenv("LOGNAME", "ann")
    monkeypatch.setenv("CRYOFLOW_STARTED_BY", "")  # set by own_runs; put back at the end
    with own_runs():
        parent()
    (run,) = cluster.runs()
    assert [tag for tag in run.tags if tag.startswith("user:")] == ["user:ann"]
    assert not any(tag.startswith("process ") for tag in run.tags)  # that of its parent alone


def test_a_run_that_a_flow_started_is_tried_again_by_that_flow_and_not_by_its_worker(cluster: Cluster) -> None:
    import asyncio

    from prefect import flow
    from prefect.client.orchestration import get_client

    from cryoflow.cluster.dispatch import run_stage
    from cryoflow.cluster.exit_reason import ExitReason
    from cryoflow.cluster.retries import retry

    @flow
    def parent() -> None:
        run_stage(cluster.flow, Parameters(number=1))

    async def retried(run: Any) -> bool:
        async with get_client() as client:
            return await retry(client, run, ExitReason.PREEMPTED, "It had to make room.", most=3)

    parent()
    by_hand = cluster.client.create_flow_run_from_deployment(
        cluster.deployment, parameters={"parameters": {"number": 2}}
    )
    runs = {run.id == by_hand.id: run for run in cluster.runs()}
    assert not asyncio.run(retried(runs[False]))
    assert asyncio.run(retried(runs[True]))
