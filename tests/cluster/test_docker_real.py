"""The profile `docker` on a real Docker Engine: the project's own deployments, each run in a container of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from pydantic import BaseModel
from real_site import FLOWS, RealSite, is_running

from cryoflow.cluster.dispatch import Done, Work, run_shards
from cryoflow.cluster.docker import COMMAND
from cryoflow.database import Database
from cryoflow.settings.load import load_settings
from cryoflow.settings.profiles import ProfileName, deployment_name

pytestmark = pytest.mark.docker

HOSTILE = 'It\'s a "project", 50%: $(touch pwned) é'
BASE = "python:3.11-slim-bookworm"
USER = 12345
"""Neither root nor the image's own user."""


class DockerSite(RealSite):
    def start_worker(self, **options: object) -> None:
        pool = f"cryoflow-{ProfileName.DOCKER}"
        self.worker = self._start(
            "worker", "worker", "start", "--pool", pool, "--name", "d", "--type", "cryoflow-docker"
        )

    def run(self, flow: str, parameters: dict[str, object]):
        """Start a deployment as its form would, and wait for its end."""
        with self.client() as client:
            deployment = client.read_deployment_by_name(f"{flow}/{deployment_name(flow, ProfileName.DOCKER)}")
            run = client.create_flow_run_from_deployment(deployment.id, parameters={"parameters": parameters})
        return self.until(run.id, lambda r: r.state.is_final(), within_s=240)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, docker_image: str) -> Iterator[DockerSite]:
    from relion_projects import write_relion_project

    from cryoflow.simulate import simulate_dataset

    folder = tmp_path_factory.mktemp("site in containers")
    projects, results = folder / HOSTILE.replace(":", ""), folder / "re 'sul' ts"
    data = simulate_dataset(
        projects / "micrographs", specimen="barrel", n_micrographs=5, shape_yx=(360, 480), pixel_size_A=4.0, seed=2
    )
    write_relion_project(projects / "relion", data)
    results.mkdir()
    os.chown(results, USER, USER)
    site = DockerSite(folder)
    values = {
        "server": f"http://127.0.0.1:{site.port}",
        "cpu_image": docker_image,
        "read_only": [str(projects)],
        "read_write": [str(results)],
    }
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    (folder / "cryoflow.toml").write_text("\n".join(['profile = "docker"', "[site]", *lines]))
    try:
        site.start_server()
        with pytest.MonkeyPatch.context() as patch, site.client():
            patch.setenv("CRYOFLOW_CONFIG", str(folder / "cryoflow.toml"))
            from cryoflow.cluster.deployments import deployments
            from cryoflow.cluster.pools import make_pools

            settings = load_settings().settings
            make_pools(ProfileName.DOCKER)
            patch.setattr(os, "getuid", lambda: USER)  # whoever deploys is who containers run as
            patch.setattr(os, "getgid", lambda: USER)
            wanted = list(deployments(settings, ProfileName.DOCKER))
            patch.undo()
            for deployment in wanted:
                deployment.apply()
        shown = {"volumes": [f"{FLOWS}:{FLOWS}:ro"], "env": {"PYTHONPATH": str(FLOWS), "HOME": "/tmp"}}
        machine = {"image": docker_image, "image_pull_policy": "Never", "network_mode": "host", "mem_limit": "500m"}
        values = shown | machine | {"command": COMMAND}
        site.deploy("cryoflow-docker", values, {"stage": "d", "shard": "shard (docker)"})
        site.start_worker()
        yield site
    finally:
        site.close()


def test_projects_are_read_in_a_container_and_what_it_writes_belongs_to_who_deployed(site: DockerSite) -> None:
    projects, results = site.folder / HOSTILE.replace(":", ""), site.folder / "re 'sul' ts"
    before = sorted(p for p in projects.rglob("*"))
    run = site.run("ingest", {"roots": [str(projects)], "database": str(results / "pi cks")})
    assert run.state.name == "Completed", site.messages(run.id, "")
    entries = Database(results / "pi cks").entries()
    assert {entry.project for entry in entries} == {"relion"}
    assert sum(entry.n_picks for entry in entries) > 0
    owners = {p.lstat().st_uid for p in results.rglob("*")}
    assert owners == {USER}
    assert sorted(p for p in projects.rglob("*")) == before
    assert not (site.folder / "pwned").exists()
    assert "ingest: " in site.messages(run.id, "ingest: ")  # its log reached the server, by the address of the settings


def test_a_container_cannot_write_to_projects_and_the_run_says_so(site: DockerSite) -> None:
    projects = site.folder / HOSTILE.replace(":", "")
    run = site.run("ingest", {"roots": [str(projects)], "database": str(projects / "picks")})
    assert run.state.name == "Failed"
    assert "Read-only file system" in run.state.message
    assert not (projects / "picks").exists()
    its_container_goes(run)


class Shard(BaseModel):
    eat_mb: int = 0
    fail: str = ""
    wait_s: float = 0


def dispatched(site: DockerSite, works: list[Work]) -> tuple[Done, ...]:
    with temporary_settings({PREFECT_API_URL: site.environment["PREFECT_API_URL"]}):
        return run_shards("shard", works)


def containers(run: Any, *options: str) -> list[str]:
    """Names of the containers that a run has."""
    argv = ["docker", "ps", *options, "--filter", f"label=io.prefect.flow-run-id={run.id}", "--format", "{{.Names}}"]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()


def its_container_goes(run: Any) -> None:
    """It goes a moment after its run has ended."""
    end = time.monotonic() + 30
    while left := containers(run, "--all"):
        assert time.monotonic() < end, left
        time.sleep(0.5)


def test_a_shard_that_was_killed_for_memory_succeeds_with_twice_as_much_and_a_broken_one_is_not_tried_again(
    site: DockerSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

    monkeypatch.setenv("CRYOFLOW_CONFIG", str(site.folder / "cryoflow.toml"))
    works = [Work("hungry", Shard(eat_mb=550, wait_s=2)), Work("broken", Shard(fail="the file x.star is broken"))]
    hungry, broken = dispatched(site, works)
    assert (hungry.state, hungry.attempts) == ("Completed", 2), hungry
    assert (broken.state, broken.attempts) == ("Failed", 1), broken
    only = DeploymentFilter(name=DeploymentFilterName(any_=["shard (docker)"]))
    with site.client() as client:
        runs = [r for r in client.read_flow_runs(deployment_filter=only) if r.parameters["parameters"]["eat_mb"]]
    # A run says that it is done before its container has ended: the worker tells that end a moment later.
    told = [site.until(run.id, lambda run: run.labels["docker.end"]) for run in runs]
    first, second = sorted(told, key=lambda run: run.created)
    assert "OUT_OF_MEMORY. It used more than its limit of 500 MB" in first.state.message
    assert second.job_variables == {"memory_factor": 2.0}
    assert [run.labels["docker.end"] for run in (first, second)] == ["memory", "done"]
    its_container_goes(first)
    its_container_goes(second)


def test_a_container_that_somebody_killed_crashes_its_run_and_counts_as_no_memory_kill(site: DockerSite) -> None:
    run = site.until(site.launch(wait_s=300), is_running)
    (name,) = containers(run)
    subprocess.run(["docker", "kill", name], check=True, capture_output=True)
    run = site.until(run.id, lambda run: run.state.is_final() and run.labels["docker.end"])
    assert run.state.type == "CRASHED"
    assert f"The container {name} ended with exit code 137. Somebody stopped it" in run.state.message
    assert run.labels["docker.end"] == "cancelled"
    site.messages(run.id, "The end of its log")


def test_a_running_run_that_is_cancelled_stops_its_container(site: DockerSite) -> None:
    from prefect.states import Cancelling

    run = site.until(site.launch(wait_s=300), is_running)
    site.set_state(run.id, Cancelling())
    start = time.monotonic()
    site.until(run.id, lambda run: run.state.name == "Cancelled")
    assert time.monotonic() - start < 20
    its_container_goes(run)


def test_a_worker_killed_and_started_again_tells_the_end_of_what_it_had_started(site: DockerSite) -> None:
    """One runs on, one ends meanwhile, and one's container is gone when the worker is back."""
    on, gone = [site.until(site.launch(wait_s=seconds), is_running) for seconds in (25, 300)]
    # The short one comes last: of the others, each start would give it time to end before the worker is killed.
    ended = site.until(site.launch(wait_s=1), lambda run: is_running(run) or run.state.is_final())
    site.kill_worker(signal.SIGKILL)
    (name,) = containers(gone)
    subprocess.run(["docker", "rm", "--force", name], check=True, capture_output=True)
    time.sleep(12)  # a younger run could be another worker's that makes its container just now
    site.start_worker()
    gone = site.until(gone.id, lambda run: run.state.is_final())
    gone = site.until(gone.id, lambda run: run.labels["docker.end"])
    assert (gone.state.type, gone.labels["docker.end"]) == ("CRASHED", "lost")
    assert "Its container is gone" in gone.state.message
    for run in (on, ended):
        run = site.until(run.id, lambda run: run.state.is_final() and run.labels["docker.end"])
        assert (run.state.name, run.run_count) == ("Completed", 1)
        its_container_goes(run)


class OwnEngine:
    """A Docker Engine beside that of the machine, which may be killed."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.host = folder, f"unix://{folder}/socket"
        self.process: subprocess.Popen[bytes] | None = None
        self.bridge = f"cryoflow{os.getpid()}"[:15]
        for words in (["add", self.bridge, "type", "bridge"], ["set", self.bridge, "up"]):
            subprocess.run(["ip", "link", *words], check=True)
        subprocess.run(["ip", "address", "add", "192.0.2.1/24", "dev", self.bridge], check=True)

    def start(self) -> None:
        (self.folder / "pid").unlink(missing_ok=True)
        folders = [f"--{name}={self.folder / name}" for name in ("data-root", "exec-root")]
        # With no bridge at all (`--bridge=none`), an engine removes the one that the machine's own engine uses.
        offline = [f"--bridge={self.bridge}", "--iptables=false", "--ip6tables=false", "--ip-masq=false"]
        argv = ["dockerd", *folders, *offline, f"--pidfile={self.folder / 'pid'}", f"--host={self.host}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        end = time.monotonic() + 60
        while self.docker("info").returncode:
            assert time.monotonic() < end, (self.folder / "log").read_text()
            time.sleep(0.5)

    def docker(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["docker", "-H", self.host, *words], capture_output=True, text=True, check=False)

    def lose_power(self) -> None:
        """SIGKILL for the engine, its containerd and all containers."""
        assert self.process is not None
        ids = self.docker("ps", "--quiet").stdout.split()
        pids = self.docker("inspect", "--format", "{{.State.Pid}}", *ids).stdout.split()
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=True)
        self.process.kill()
        for pid in (*children.stdout.split(), *pids):
            os.kill(int(pid), signal.SIGKILL)
        self.process.wait(20)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)
        subprocess.run(["ip", "link", "delete", self.bridge], check=True)
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([m for m in mounts if m.startswith(f"{self.folder}/")]):  # the engine leaves its own
            subprocess.run(["umount", mount], check=True)
        shutil.rmtree(self.folder)


@pytest.fixture
def own_engine() -> Iterator[OwnEngine]:
    if os.getuid() or not shutil.which("dockerd") or not shutil.which("ip"):
        pytest.skip("another Docker Engine needs dockerd, ip, and root")
    base = ["docker", "image", "inspect", BASE]
    if subprocess.run(base, capture_output=True, check=False).returncode:
        pytest.skip(f"there is no image {BASE}")
    folder = Path(tempfile.mkdtemp(prefix="cryoflow-docker-", dir="/var/tmp"))  # an overlay does not lie on another
    before = bridges()
    engine = OwnEngine(folder)
    try:
        engine.start()
        with subprocess.Popen(["docker", "save", BASE], stdout=subprocess.PIPE) as saved:
            argv = ["docker", "-H", engine.host, "load"]
            subprocess.run(argv, stdin=saved.stdout, check=True, stdout=subprocess.DEVNULL)
        yield engine
    finally:
        engine.stop()
    assert bridges() == before


def bridges() -> set[str]:
    """The machine's network bridges."""
    shown = subprocess.run(
        ["ip", "-brief", "link", "show", "type", "bridge"], capture_output=True, text=True, check=True
    )
    return {line.split()[0] for line in shown.stdout.splitlines()}


@pytest.mark.parametrize("goes_down", ["machine", "engine"])
def test_a_stage_whose_engine_went_down_is_tried_again_when_it_is_back(
    site: DockerSite, own_engine: OwnEngine, monkeypatch: pytest.MonkeyPatch, goes_down: str
) -> None:
    pool = f"own-engine-{goes_down}"
    prefect = [sys.executable, "-m", "prefect"]
    create = [*prefect, "work-pool", "create", pool, "--type", "cryoflow-docker"]
    subprocess.run(create, env=site.environment, check=True, capture_output=True)
    held = own_engine.folder / "held" / "first"  # the first attempt is still running when the engine ends it
    held.parent.mkdir(exist_ok=True)
    held.touch()
    values = {
        "image": BASE, "image_pull_policy": "Never", "network_mode": "host",
        "volumes": [f"{FLOWS}:{FLOWS}:ro", f"{held.parent}:{held.parent}:ro"],
        "command": f"python3 {FLOWS / 'stub_engine.py'}", "env": {"STUB_HELD_BY": str(held)},
    }  # fmt: skip
    site.deploy(pool, values, {"shard": "shard (docker)"})
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(site.folder / "cryoflow.toml"))
    with (own_engine.folder / "worker.log").open("wb") as log:
        environment = site.environment | {"DOCKER_HOST": own_engine.host}
        argv = [*prefect, "worker", "start", "--pool", pool, "--name", "o", "--type", "cryoflow-docker"]
        worker = subprocess.Popen(argv, env=environment, stdout=log, stderr=log)
    try:
        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(dispatched, site, [Work(f"on {pool}", Shard())])
            end = time.monotonic() + 90
            while "python3" not in own_engine.docker("ps").stdout:
                assert time.monotonic() < end, (own_engine.folder / "worker.log").read_text()
                time.sleep(0.5)
            time.sleep(3)
            if goes_down == "machine":
                own_engine.lose_power()
            else:
                own_engine.process.kill()
                own_engine.process.wait(20)
            time.sleep(5)
            own_engine.start()
            held.unlink()
            (done,) = waiting.result(120)
    finally:
        worker.terminate()
        worker.wait(30)
    assert (done.state, done.attempts) == ("Completed", 2), (done, (own_engine.folder / "worker.log").read_text())
    with site.client() as client:
        runs = [r for r in client.read_flow_runs(limit=200) if r.work_pool_name == pool]
    (first,) = [run for run in runs if run.state.type == "CRASHED"]
    assert "Docker Engine or its machine was down" in first.state.message
    assert first.labels["docker.end"] == "node"
