"""A whole site on a real SLURM: PostgreSQL, a Prefect server, a pool, a worker process and a deployment."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from ports import free_port

FLOWS = Path(__file__).parent / "data"


class RealSite:
    """Server and worker are processes of their own, as at a site; `folder` holds all that they write."""

    def __init__(self, folder: Path, *, database: str | None = None) -> None:
        self.folder = folder
        self.port = free_port()
        self.logs = folder / "lo gs of 'all' \"50%\""
        self.worker_log = folder / "worker.log"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_WORKER_QUERY_SECONDS": "3",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
            "PYTHONPATH": str(FLOWS),
            "CRYOFLOW_SITE": '{"attempts": 1}',  # runs that tests launch by hand end at their first death
        }
        if database:
            self.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = database
        self.server: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None

    def start_server(self) -> None:
        self.server = self._start("server", "server", "start", "--port", str(self.port), "--no-ui")
        for _ in range(240):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.environment['PREFECT_API_URL']}/health"):
                return
            time.sleep(0.5)
        raise AssertionError((self.folder / "server.log").read_text())

    def stop_server(self) -> None:
        assert self.server is not None
        os.killpg(self.server.pid, signal.SIGTERM)
        self.server.wait(30)

    def start_worker(self, **options: Any) -> None:
        self.worker = self._start("worker", "worker", "start", "--pool", "hpc", "--name", "w", **options)

    def kill_worker(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.worker is not None
        self.worker.send_signal(number)
        self.worker.wait(20)

    def _start(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "prefect", *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                **options,
            )  # fmt: skip

    @contextlib.contextmanager
    def client(self) -> Iterator[Any]:
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        url = self.environment["PREFECT_API_URL"]
        with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
            yield client

    def set_up(self, *, name: str = "d", **pool_values: Any) -> None:
        """Make the pool as a user would, and deploy the flows of `data/stage_for_tests.py` to it."""
        values = {"log_folder": str(self.logs), "memory_gb": 0.6, "time_minutes": 10, **pool_values}
        subprocess.run(
            [sys.executable, "-m", "prefect", "work-pool", "create", "hpc", "--type", "cryoflow-slurm"],
            env=self.environment, check=True, capture_output=True,
        )  # fmt: skip
        self.deploy("hpc", values, {"stage": name, "shard": "shard (slurm)"}, of_shard={"time_minutes": 1})

    def deploy(
        self, pool: str, values: dict[str, Any], names: dict[str, str], *, of_shard: dict[str, Any] | None = None
    ) -> None:
        """Deploy the flows of `data/stage_for_tests.py` to a pool, with these job variables, under these names."""
        program = (
            "import json, sys\n"
            "import stage_for_tests\n"
            "from prefect.deployments.runner import EntrypointType\n"
            "pool, values, names, more = sys.argv[1], *map(json.loads, sys.argv[2:])\n"
            "for flow, name in names.items():\n"
            "    variables = values | (more if flow == 'shard' else {})\n"
            "    getattr(stage_for_tests, flow).to_deployment(\n"
            "        name, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH, job_variables=variables\n"
            "    ).apply()\n"
        )
        given = [json.dumps(each) for each in (values, names, of_shard or {})]
        argv = [sys.executable, "-c", program, pool, *given]
        subprocess.run(argv, env=self.environment, check=True, capture_output=True)

    def launch(self, variables: dict[str, Any] | None = None, **parameters: Any) -> UUID:
        with self.client() as client:
            deployment = client.read_deployment_by_name("stage/d")
            run = client.create_flow_run_from_deployment(
                deployment.id, parameters=parameters, job_variables=variables or {}
            )
            return UUID(str(run.id))

    def until(
        self, run_id: UUID, condition: Callable[[Any], bool], *, within_s: float = 240, every_s: float = 0.3
    ) -> Any:
        end = time.monotonic() + within_s
        with self.client() as client:
            while time.monotonic() < end:
                run = client.read_flow_run(run_id)
                if condition(run):
                    return run
                time.sleep(every_s)
        worker = self.worker_log.read_text()[-3000:]
        queue = subprocess.run(["squeue"], capture_output=True, text=True, check=False).stdout
        raise AssertionError(f"waited {within_s} s; {run.name} is {run.state!r}, {run.labels}\n{queue}\n{worker}")

    def set_state(self, run_id: UUID, state: Any) -> None:
        with self.client() as client:
            client.set_flow_run_state(run_id, state)

    def messages(self, run_id: UUID, waiting_for: str, *, within_s: float = 120) -> str:
        """The run's log as the UI shows it, once it holds a text. Log lines travel in bundles, every few seconds."""
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        only = {"logs": LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id])).model_dump(mode="json")}
        text, end = "", time.monotonic() + within_s
        while time.monotonic() < end:
            with self.client() as client:
                answer = client._client.post("/logs/filter", json={**only, "limit": 200, "offset": 0})
            text = "\n".join(row["message"] for row in answer.json())
            if waiting_for in text:
                return text
            time.sleep(0.5)
        raise AssertionError(f"{waiting_for!r} did not reach the server; there is:\n{text}")

    def close(self) -> None:
        for process in (self.worker, self.server):
            if process is not None and process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def postgres(*, superuser: str = "cryoflow", auth: str = "trust") -> Iterator[str | None]:
    """A PostgreSQL server of our own and its address for Prefect; None where there is no PostgreSQL.

    `auth` is how it checks who comes over the network; whoever comes by its socket is trusted.

    It refuses to run as root, so root runs it as the user `postgres`, in a folder of that user.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not programs:
        yield None
        return
    as_other = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp(prefix="cryoflow-postgres-"))
    if as_other:
        shutil.chown(folder, "postgres", "postgres")
    data, port = folder / "data", free_port()

    def run(program: str, *arguments: str) -> None:
        words = [*as_other, str(programs[-1] / program), *arguments]
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    try:
        how = ("--auth-local", "trust", "--auth-host", auth)
        run("initdb", "--pgdata", str(data), "--username", superuser, *how, "--no-sync")
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=300"
        run("pg_ctl", "-D", str(data), "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql+asyncpg://cryoflow@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_running(run: Any) -> bool:
    return bool(run.state.name == "Running")


def is_queued(run: Any) -> bool:
    return bool(run.state.name == "Queued" and run.infrastructure_pid)


def has_ended(run: Any) -> bool:
    """SLURM's job is over and the worker has said what that meant."""
    return bool(run.state.is_final() and run.labels.get("slurm.end"))
