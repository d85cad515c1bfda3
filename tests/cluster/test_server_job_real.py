"""`cryoflow up` inside a SLURM job, with a PostgreSQL of its own: killed and submitted again, it finds what runs."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port
from real_site import FLOWS, RealSite, has_ended, is_running

pytestmark = [pytest.mark.slurm]

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "sites" / "server-job.sh"
TOML = """
profile = "slurm-bare"
[site]
log_folder = "{folder}/logs"
[site.resources.small]
memory_gb = 1
"""


class ServerJob:
    """The job that serves a site, and its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state, self.job, self.n_started = folder, folder / "sta te", "", 0
        (folder / "cryoflow.toml").write_text(TOML.format(folder=folder))
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | {
            "PATH": programs, "PYTHONPATH": str(FLOWS), "CRYOFLOW_CONFIG": str(folder / "cryoflow.toml"),
            "CRYOFLOW_PROFILE": "slurm-bare", "CRYOFLOW_PORT": str(free_port()), "CRYOFLOW_HOST": "127.0.0.1",
            "PREFECT_HOME": str(folder / "prefect"),
        }  # fmt: skip

    @property
    def log(self) -> Path:
        return self.folder / f"server-{self.n_started}.log"

    @property
    def worker_log(self) -> Path:
        return self.state / "logs" / "worker-cryoflow-slurm-bare.log"

    def submit(self) -> None:
        self.n_started += 1
        options = ["--parsable", "--partition=cpu", "--cpus-per-task=1", "--mem=3000", f"--output={self.log}"]
        argv = ["sbatch", *options, str(SCRIPT), str(self.state)]
        done = subprocess.run(argv, env=self.environment, capture_output=True, text=True, check=True)
        self.job = done.stdout.strip()

    def given(self) -> dict[str, str]:
        """Return the variables that users read from the folder, once the server answers at their address."""
        end = time.monotonic() + 500
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                lines = shlex.split((self.state / "environment").read_text())
                found = dict(word.split("=", 1) for word in lines if "=" in word)
                urllib.request.urlopen(f"{found['PREFECT_API_URL']}/health").close()
                if "open http" in self.log.read_text():
                    return found
            time.sleep(1)
        raise AssertionError(self.log.read_text())

    def waits_for(self, job: str) -> None:
        """Return once the worker waits for a job that an earlier worker submitted."""
        end = time.monotonic() + 240
        while f"waits for SLURM job {job} now" not in self.worker_log.read_text():
            assert time.monotonic() < end, self.worker_log.read_text()
            time.sleep(1)

    def end(self) -> None:
        if self.job:
            subprocess.run(["scancel", self.job], check=False)
            for _ in range(240):
                if not subprocess.run(["squeue", "-hj", self.job], capture_output=True, check=False).stdout:
                    return
                time.sleep(0.5)
            raise AssertionError(f"job {self.job} does not end: {self.log.read_text()}")


@pytest.fixture
def server() -> Iterator[ServerJob]:
    if not (shutil.which("pg_config") or list(Path("/usr/lib/postgresql").glob("*/bin"))):
        pytest.skip("there is no PostgreSQL server to start")
    # Not pytest's folder: where root runs the tests the account `postgres` must be able to enter it.
    with tempfile.TemporaryDirectory(prefix="cryoflow-server-job-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        job = ServerJob(Path(name))
        try:
            yield job
        finally:
            job.end()


def test_a_server_job_that_is_killed_and_submitted_again_finds_its_running_stage(
    server: ServerJob, tmp_path: Path
) -> None:
    server.submit()
    site = RealSite(tmp_path)
    site.environment = server.environment | server.given()
    site.worker_log = server.worker_log
    assert (server.state / "environment").stat().st_mode & 0o077 == 0
    with pytest.raises(OSError, match="401"):
        urllib.request.urlopen(f"{site.environment['PREFECT_API_URL']}/flows/count", data=b"{}")
    deploy = [sys.executable, "-m", "cryoflow", "deploy", "--json"]
    shown = subprocess.run(deploy, env=site.environment, capture_output=True, text=True, check=True).stdout
    assert {"deployment": "pipeline/pipeline (slurm-bare)"}.items() <= json.loads(shown)[0].items()
    site.deploy("cryoflow-slurm-bare", {"log_folder": str(tmp_path / "logs"), "memory_gb": 0.6}, {"stage": "d"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_API_AUTH_STRING", site.environment["PREFECT_API_AUTH_STRING"])
        hold = tmp_path / "hold"
        hold.touch()
        run = site.launch(hold=str(hold))
        stage = site.until(run, is_running).infrastructure_pid
        before = site.environment["PREFECT_API_URL"], server.job
        server.end()
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(f"{before[0]}/health")
        server.submit()
        assert server.given()["PREFECT_API_URL"] == before[0]
        assert server.job != before[1]
        server.waits_for(stage)
        hold.unlink()
        ended = site.until(run, has_ended)
    assert (ended.state.name, ended.run_count, ended.infrastructure_pid) == ("Completed", 1, stage)
