"""A job that starts while the Prefect server is away waits for it, and then says so by its exit status."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cryoflow.cluster import start_stage
from cryoflow.cluster.exit_reason import ExitReason, exit_reason_of
from cryoflow.execution.slurm import EndedJob


@pytest.fixture
def port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = listener.getsockname()[1]
    return number


def test_a_server_that_comes_back_is_waited_for(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_stage, "PAUSE_S", 0.1)
    started: list[http.server.HTTPServer] = []

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    def start_late() -> None:
        time.sleep(1)
        server = http.server.HTTPServer(("127.0.0.1", port), Healthy)
        started.append(server)
        server.serve_forever()

    thread = threading.Thread(target=start_late)
    thread.start()
    assert start_stage.wait_for_server(f"http://127.0.0.1:{port}/api", 60)
    assert started
    started[0].shutdown()
    thread.join()
    started[0].server_close()


def test_a_job_whose_server_stays_away_ends_with_the_status_that_is_retried(port: int) -> None:
    environment = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", start_stage.PATIENCE: "0"}
    argv = [sys.executable, "-m", start_stage.START_STAGE]
    ran = subprocess.run(argv, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode == start_stage.SERVER_AWAY, ran.stderr
    assert "did not answer" in ran.stdout
    assert exit_reason_of(EndedJob(1, "FAILED", ran.returncode)) == ExitReason.SERVER


def run_with_engine(code: str, folder: Path) -> tuple[subprocess.Popen[str], str]:
    """Run a stage with a stand-in for the package prefect, which is found before the real one."""
    (folder / "prefect").mkdir(exist_ok=True)
    (folder / "prefect" / "__init__.py").touch()
    (folder / "prefect" / "engine.py").write_text(code)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PREFECT_API_URL": "", "PYTHONPATH": f"{folder}:{root}"}
    argv = [sys.executable, "-m", start_stage.START_STAGE]
    stage = subprocess.Popen(argv, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
    printed, _ = stage.communicate(timeout=60)
    return stage, printed


def test_the_stage_becomes_the_engine_whose_exit_status_is_the_jobs(tmp_path: Path) -> None:
    stage, printed = run_with_engine("import os, sys\nprint('engine', os.getpid())\nsys.exit(7)\n", tmp_path)
    assert stage.returncode == 7
    assert printed == f"engine {stage.pid}\n"


def test_a_server_that_goes_away_while_the_engine_starts_is_a_job_to_try_again(port: int, tmp_path: Path) -> None:
    """The engine catches what its first request raises, and ends with status 1."""
    engine = "try:\n    {}\nexcept Exception:\n    exit(1)\n".format
    stage, printed = run_with_engine(engine(f"import httpx; httpx.get('http://127.0.0.1:{port}')"), tmp_path)
    assert stage.returncode == start_stage.SERVER_AWAY
    assert "went away" in printed
    stage, _ = run_with_engine(engine("raise ValueError"), tmp_path)
    assert stage.returncode == 1
