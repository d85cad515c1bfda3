"""Promise 12: a training and a flow that were killed go on where they were, and nothing says Running for ever.

What a lost worker, server or node does to runs in SLURM is attacked in tests/cluster; docs/promises.md names the tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
from promise_tools import simulated_project

from cryoflow.database import Database, verify
from cryoflow.unpicker.bundle import ModelBundle

HERE = Path(__file__).parent


def lives(*arguments: str | Path, **environment: str) -> list[list[str]]:
    """What `lives.py` says, line by line in words."""
    argv = [sys.executable, str(HERE / "lives.py"), *map(str, arguments)]
    env = dict(os.environ) | environment | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [
        line.split()
        for line in done.stdout.splitlines()
        if line.startswith(("LIFE", "STEPS", "AGAIN", "FINISHED", "KILLED", "ENDED", "PAST"))
    ]
    assert rows, done.stderr[-3000:]
    return rows


def test_a_training_that_is_killed_again_and_again_ends_at_the_same_model(tmp_path: Path) -> None:
    """SIGKILL in each epoch: between steps, and in the middle of writing a checkpoint."""
    rows = lives("training", tmp_path)
    assert [row[1] for row in rows if row[0] == "LIFE"] == ["0", "-9", "-9", "-9", "0"]
    plain, killed = ([list(map(int, row[2:])) for row in rows if row[:2] == ["STEPS", n]] for n in ("plain", "killed"))
    assert plain == [list(range(1, 22))]
    assert killed == [list(range(15, 22))], "the last life has the third epoch to do, and no other"
    models = [ModelBundle.load(tmp_path / name) for name in ("plain", "killed")]
    assert models[0].fingerprint == models[1].fingerprint
    for name, value in models[0].weights.items():
        np.testing.assert_allclose(models[1].weights[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("plain", "killed")]
    assert [len(history) for history in histories] == [3, 3]
    for one, other in zip(*histories, strict=True):
        assert one["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
    assert models[0].threshold == pytest.approx(models[1].threshold, abs=1e-3)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A root with one finished project of four micrographs."""
    return simulated_project(tmp_path / "users")


def api_url() -> str:
    from prefect.settings import PREFECT_API_URL

    return str(PREFECT_API_URL.value())


def test_a_flow_killed_in_each_of_its_stages_goes_on_and_repeats_nothing(
    project: Path, tmp_path: Path, prefect_server: None
) -> None:
    """`cryoflow run`: its outputs say what is done. The runs of the killed processes are Crashed, none is Running.

    Every open and every change is watched, as in test_promise_07_one_door.py.
    """
    from prefect.client.orchestration import get_client

    rows = lives("flow", tmp_path, project, PREFECT_API_URL=api_url())
    assert [row[1] for row in rows if row[0] == "LIFE"] == ["-9"] * 3 + ["0"]
    assert [row for row in rows if row[0] == "AGAIN"] == []
    assert [row for row in rows if row[0] == "PAST"] == []
    counts = [int(row[1]) for row in rows if row[0] == "FINISHED"]
    assert counts[0] == 0
    assert counts == sorted(set(counts)), "each life did something"
    database = Database(tmp_path / "out/database")
    assert verify(database) == []
    assert {"CS-barrel/NonUniform_J11", "CS-barrel/Unpicked_J4"} <= {entry.name for entry in database.entries()}
    assert "CS-barrel/Unpicked_J4" in (tmp_path / "out/report.html").read_text()
    with get_client(sync_client=True) as client:
        ours = [run for run in client.read_flow_runs() if any(tag.startswith("process ") for tag in run.tags)]
        tasks = client.read_task_runs()
    states = [run.state.name for run in ours if run.state and run.name.startswith("pipeline")]
    assert sorted(states) == ["Completed"] + ["Crashed"] * 3
    assert {run.state.name for run in ours if run.state} == {"Completed", "Crashed"}
    in_ours = [task.state.name for task in tasks if task.flow_run_id in {run.id for run in ours} and task.state]
    assert set(in_ours) == {"Completed", "Crashed"}


def test_a_run_killed_at_random_moments_loses_nothing_and_comes_to_the_same(
    project: Path, tmp_path: Path, prefect_server: None
) -> None:
    """`benchmarks/promises.py` does this for longer."""
    rows = lives("random", tmp_path, project, "5", "120", "11", PREFECT_API_URL=api_url())
    killed, ended = ([row for row in rows if row[0] == word] for word in ("KILLED", "ENDED"))
    assert killed
    assert ended
    assert [row for row in killed if row[2] != "same"] == []
    assert [row for row in ended if row[1] != "same"] == []


def test_only_runs_of_dead_processes_of_this_machine_are_called_crashed(prefect_server: None) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.states import Running

    from cryoflow.cluster import orphaned_runs

    @flow
    def nothing() -> None:
        """One that never starts."""

    words = orphaned_runs.tag().split(" ")
    made: dict[str, uuid.UUID] = {}
    with get_client(sync_client=True) as client:
        gone = str(2**22 + 7)  # a number that Linux gives to no process, here and elsewhere
        for name, changed in (
            ("living", {}),
            ("dead", {3: gone}),
            ("the number is another's now", {4: "1"}),
            ("another machine's", {1: "node17", 3: gone}),
            ("another container's", {2: "pid:[1]", 3: gone}),
        ):
            tag = " ".join(changed.get(i, word) for i, word in enumerate(words))
            made[name] = client.create_flow_run(nothing, state=Running(), tags=[tag]).id
        orphaned_runs.end_tagged()
        found = {name: client.read_flow_run(id_).state for name, id_ in made.items()}
    assert {name for name, state in found.items() if state and state.is_crashed()} == {
        "dead",
        "the number is another's now",
    }
    state = found["dead"]
    assert state is not None
    assert "Run it again" in (state.message or "")


def test_runs_of_a_worker_that_went_down_with_its_machine_are_crashed_unless_another_serves_the_pool(
    prefect_server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent of a pipeline on a cluster is such a run: a process beside the server.

    A worker counts as online for a minute and a half after it was killed; somebody who starts it again before that
    wants the runs that it lost to be ended all the same.
    """
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.objects import FlowRun
    from prefect.states import Running

    from cryoflow.cluster import orphaned_runs

    @flow
    def waits() -> None:
        """One that never starts."""

    monkeypatch.setattr(orphaned_runs, "SIGN_OF_LIFE_S", 20.0)
    stop = threading.Event()
    living: list[subprocess.Popen[bytes]] = []
    told: list[str] = []
    with get_client(sync_client=True) as client:
        runs: dict[tuple[str, str], FlowRun] = {}
        for pool in ("lone", "served", "was served"):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
            deployment = client.create_deployment(client.create_flow(waits), name=pool, work_pool_name=pool)
            for name in ("gone", "the number is another's now", "alive", "unknown"):
                run = client.create_flow_run_from_deployment(deployment, state=Running())
                if name == "alive":
                    living.append(subprocess.Popen(["sleep", "600"], env={"PREFECT__FLOW_RUN_ID": str(run.id)}))
                pids = {"gone": 2**22 + 7, "alive": living[-1].pid if living else 0, "unknown": None}
                pid = pids.get(name, os.getpid())
                client.update_flow_run(run.id, infrastructure_pid=None if pid is None else str(pid))
                runs[pool, name] = run
        client.send_worker_heartbeat("was served", "killed")

        def beat() -> None:
            with get_client(sync_client=True) as heart:
                while not stop.wait(0.5):
                    heart.send_worker_heartbeat("served", "of another machine")

        client.send_worker_heartbeat("served", "of another machine")
        thread = threading.Thread(target=beat)
        thread.start()
        try:
            orphaned_runs.end_pools(["lone", "served", "was served"], tell=told.append)
        finally:
            stop.set()
            thread.join()
            for process in living:
                process.kill()
                process.wait()
        states = {key: client.read_flow_run(run.id).state for key, run in runs.items()}
    assert {key for key, state in states.items() if state and state.is_crashed()} == {
        (pool, name) for pool in ("lone", "was served") for name in ("gone", "the number is another's now")
    }
    assert [line.split(" have lost")[0] for line in told] == ["runs of the pool served", "runs of the pool was served"]


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc: whose a server is cannot be known")
def test_an_embedded_server_whose_process_was_killed_is_stopped_by_the_next_run(tmp_path: Path) -> None:
    """A stand-in for the server, with what marks it in its environment; one of a living process is left alone."""
    from cryoflow.cluster import orphaned_runs
    from cryoflow.system.processes import started

    gone = subprocess.Popen(["true"])
    gone.wait()
    owners = {"dead": f"{gone.pid} 1", "living": f"{os.getpid()} {started(os.getpid())}"}
    children = {
        name: subprocess.Popen(
            ["sleep", "60"],
            env={"PREFECT__SERVER_EPHEMERAL": "1", orphaned_runs.PARENT: owner, "PATH": os.environ["PATH"]},
        )
        for name, owner in owners.items()
    }
    children["not a server"] = subprocess.Popen(
        ["sleep", "60"], env={orphaned_runs.PARENT: owners["dead"], "PATH": os.environ["PATH"]}
    )
    try:
        assert orphaned_runs.end_servers() == 1
        assert children["dead"].wait(10) < 0
        assert children["living"].poll() is None
        assert children["not a server"].poll() is None
    finally:
        for child in children.values():
            child.kill()
            child.wait()
