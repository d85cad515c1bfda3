"""The worker on a real SLURM, without containers: what users do and what happens to jobs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from real_site import FLOWS, RealSite, has_ended, is_queued, is_running

from cryoflow.cluster.dispatch import Done

pytestmark = [pytest.mark.slurm]


def slurmd_pid_file(node: str) -> Path:
    config = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"SlurmdPidFile\s*=\s*(\S+)", config)
    return Path(found[1].replace("%n", node)) if found else Path("/nowhere")


def start_node(node: str) -> None:
    """Start a node's slurmd; again while a connection of another program holds its port."""
    for _ in range(20):
        subprocess.run(["slurmd", "-N", node, "-f", os.environ["SLURM_CONF"]], check=True)
        time.sleep(5)
        if slurmd_pid_file(node).exists():
            return
    raise AssertionError(f"slurmd of {node} does not start")


@pytest.fixture(scope="module")
def slow_runs(site: RealSite) -> Iterator[dict[str, UUID]]:
    """Runs whose end takes a minute or more, started before the others: one out of time, one on a node that dies."""
    node = "gpu1"
    pid_file = slurmd_pid_file(node)
    if not pid_file.exists():
        pytest.skip(f"{node} has no slurmd on this machine to be killed")
    runs = {
        "time": site.launch({"time_minutes": 1}, wait_s=300),
        "node": site.launch({"partition": "gpu", "gpus": 1}, wait_s=1500),
    }
    site.until(runs["node"], is_running)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    pid_file.unlink()
    try:
        yield runs
    finally:
        if not pid_file.exists():
            start_node(node)


@pytest.fixture(scope="module")
def shards(site: RealSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """The parent of shards that run beside the other tests: out of memory, out of time, and one that is broken."""
    folder = tmp_path_factory.mktemp("shards")
    (folder / "cryoflow.toml").write_text('profile = "slurm"\n')
    works = {
        "out of memory": {"eat_mb": 800, "wait_s": 5},
        "out of time": {"once": str(folder / "once"), "wait_s": 300},
        "broken": {"fail": "the file x.star is broken"},
    }
    environment = site.environment | {"CRYOFLOW_CONFIG": str(folder / "cryoflow.toml")}
    del environment["CRYOFLOW_SITE"]  # these may be tried again
    # A process, and no thread of this one: pytest changes the environment, and a thread that reads it then may fail.
    argv = [sys.executable, FLOWS / "parent_of_shards.py"]
    with (folder / "works.json").open("w+") as given, (folder / "log").open("w") as log:
        json.dump(works, given)
        given.seek(0)
        parent = subprocess.Popen(argv, env=environment, stdin=given, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        yield parent
    finally:
        parent.kill()
        parent.communicate()


def test_a_run_launched_by_the_api_is_a_slurm_job_and_its_log_reaches_the_ui(
    site: RealSite, slow_runs: dict[str, UUID], shards: subprocess.Popen[str]
) -> None:
    run = site.until(site.launch({"cpus": 2}), has_ended)
    assert run.state.name == "Completed"
    assert run.labels["slurm.end"] == "done"
    messages = site.messages(run.id, f"'SLURM_JOB_ID': '{run.infrastructure_pid}'")
    assert "'OMP_NUM_THREADS': '2'" in messages
    assert str(site.logs) in messages
    assert f"cryoflow: job {run.infrastructure_pid} on " in Path(run.labels["slurm.log"]).read_text()


def test_a_running_run_that_is_cancelled_ends_within_10_s_and_tidies_up(site: RealSite, tmp_path: Path) -> None:
    from prefect.states import Cancelling

    run = site.until(site.launch(wait_s=300, tidy=str(tmp_path / "tidied")), is_running)
    site.set_state(run.id, Cancelling())
    start = time.monotonic()
    run = site.until(run.id, lambda run: run.state.name == "Cancelled")
    assert time.monotonic() - start < 10
    assert (tmp_path / "tidied").exists()
    queue = subprocess.run(["squeue", "-h", "-j", run.infrastructure_pid], capture_output=True, text=True, check=False)
    assert "RUNNING" not in queue.stdout


def test_a_queued_run_that_is_cancelled_ends_within_10_s(site: RealSite) -> None:
    from prefect.states import Cancelling

    run = site.until(site.launch({"extra_directives": ["--begin=now+1hour"]}), is_queued)
    site.set_state(run.id, Cancelling())
    start = time.monotonic()
    site.until(run.id, lambda run: run.state.name == "Cancelled")
    assert time.monotonic() - start < 10


def test_a_flow_that_raises_is_failed_with_its_own_message(site: RealSite) -> None:
    run = site.until(site.launch(fail="the file x.star is broken"), has_ended)
    assert run.state.name == "Failed"
    assert "the file x.star is broken" in run.state.message


def test_a_job_killed_for_memory_crashes_its_run_and_shows_the_end_of_its_log(site: RealSite) -> None:
    run = site.until(site.launch(eat_mb=1500, wait_s=60), has_ended)
    assert run.state.type == "CRASHED"
    assert "ended OUT_OF_MEMORY" in run.state.message
    site.messages(run.id, "xceeded")  # slurmstepd's words


def test_a_job_cancelled_with_slurms_own_command_crashes_its_run(site: RealSite) -> None:
    run = site.until(site.launch(wait_s=300), is_running)
    subprocess.run(["scancel", run.infrastructure_pid], check=True)
    run = site.until(run.id, has_ended)
    assert run.state.type == "CRASHED"
    assert "ended CANCELLED" in run.state.message


def test_a_request_that_the_cluster_cannot_meet_crashes_in_sbatchs_words(site: RealSite) -> None:
    run = site.until(site.launch({"partition": "nowhere"}), lambda run: run.state.is_final())
    assert run.state.type == "CRASHED"
    assert "invalid partition" in run.state.message


def test_a_worker_killed_and_started_again_finds_its_running_job(site: RealSite) -> None:
    # The short one may have ended before anybody saw it run.
    short = site.until(site.launch(wait_s=2), lambda run: is_running(run) or run.state.is_final())
    runs = [short, site.until(site.launch(wait_s=30), is_running)]
    site.kill_worker(signal.SIGKILL)
    time.sleep(8)
    site.start_worker()
    for run in runs:
        run = site.until(run.id, lambda run: run.state.is_final())
        assert run.state.name == "Completed"
        assert run.run_count == 1


def test_the_server_may_be_restarted_under_running_jobs(site: RealSite) -> None:
    run = site.until(site.launch(wait_s=20), is_running)
    site.stop_server()
    time.sleep(5)
    site.start_server()
    run = site.until(run.id, has_ended)
    assert run.state.name == "Completed"


def test_sigterm_stops_a_worker_that_ignores_sigint_and_leaves_its_job(site: RealSite) -> None:
    """As when a script starts it in the background: SIGINT is ignored there, and Prefect turns SIGTERM into SIGINT."""
    site.kill_worker(signal.SIGTERM)
    site.start_worker(preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    run = site.until(site.launch(wait_s=20), is_running)
    start = time.monotonic()
    site.kill_worker(signal.SIGTERM)
    assert time.monotonic() - start < 10
    site.start_worker()
    assert site.until(run.id, has_ended).state.name == "Completed"


def test_a_job_out_of_time_crashes_its_run(site: RealSite, slow_runs: dict[str, UUID]) -> None:
    run = site.until(slow_runs["time"], has_ended, within_s=180)
    assert run.state.type == "CRASHED"
    assert "ended TIMEOUT" in run.state.message
    assert run.labels["slurm.end"] == "time"


def test_a_job_whose_node_failed_crashes_its_run_and_the_node_works_when_it_is_back(
    site: RealSite, slow_runs: dict[str, UUID]
) -> None:
    run = site.until(slow_runs["node"], has_ended, within_s=180)
    assert run.state.type == "CRASHED"
    assert "ended NODE_FAIL" in run.state.message
    assert run.labels["slurm.end"] == "node"
    start_node("gpu1")
    again = site.until(site.launch({"partition": "gpu", "gpus": 1}), has_ended, within_s=120)
    assert again.state.name == "Completed"


def test_shards_that_ran_out_of_memory_or_time_succeed_with_twice_as_much_and_a_broken_one_is_not_tried_again(
    shards: subprocess.Popen[str],
) -> None:
    printed, _ = shards.communicate(timeout=300)
    done = {each["name"]: Done(**each) for each in json.loads(printed)}
    asked = {}
    for name in ("out of memory", "out of time"):
        assert (done[name].state, done[name].attempts) == ("Completed", 2), done[name]
        words = ["sacct", "-nPX", "-j", done[name].slurm_job, "-o", "ReqMem,Timelimit"]
        asked[name] = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    assert asked == {"out of memory": "1230M|00:01:00", "out of time": "615M|00:02:00"}
    assert (done["broken"].state, done["broken"].attempts) == ("Failed", 1)
    assert "the file x.star is broken" in done["broken"].message
