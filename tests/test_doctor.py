"""What the doctor finds, and that it never fails itself."""

from __future__ import annotations

import base64
import http.server
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import cryoflow.doctor as doctor
from cryoflow.cli.main import launch
from cryoflow.settings.load import LoadedSettings, load_settings

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoadedSettings:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in [n for n in os.environ if n.startswith("CRYOFLOW_")]:  # of the machine that the tests run on
        monkeypatch.delenv(name)
    return load_settings()


def _one(check: str, loaded: LoadedSettings) -> doctor.CheckResult:
    return next(doctor.examine(loaded, {check: doctor.CHECKS[check]}))


def test_an_unknown_variable_is_named(loaded: LoadedSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert _one("settings", loaded).status == "ok"
    monkeypatch.setenv("CRYOFLOW_WORKER", "3")
    found = _one("settings", loaded)
    assert found.status == "warning"
    assert "CRYOFLOW_WORKER is no setting" in found.found
    assert "CRYOFLOW_WORKERS" in found.hint


def test_a_version_other_than_the_locks_is_a_warning(
    loaded: LoadedSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements.lock").write_text("numpy==0.1\nno-such-package==3\n")
    monkeypatch.setattr("cryoflow.__file__", str(tmp_path / "cryoflow" / "__init__.py"))
    found = _one("versions", loaded)
    assert found.status == "warning"
    assert "numpy" in found.found
    assert "lock: 0.1" in found.found
    assert "no-such-package" not in found.found


def test_too_little_disk_space_is_a_warning(tmp_path: Path, loaded: LoadedSettings) -> None:
    assert {f.status for f in doctor.CHECKS["disk"](load_settings(min_free_gb=0))} == {"ok"}
    greedy = load_settings(min_free_gb=1e9, database=tmp_path / "not" / "yet")
    findings = {f.check: f for f in doctor.CHECKS["disk"](greedy)}
    assert findings["database"].status == "warning"
    assert str(tmp_path) in findings["database"].found


def test_an_image_that_is_not_there_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "cpu.sif"
    monkeypatch.setenv("CRYOFLOW_SITE", json.dumps({"cpu_image": str(image), "gpu_image": "cryoflow:gpu"}))
    found = _one("images", load_settings())
    assert (found.status, str(image) in found.found) == ("warning", True)
    image.touch()
    assert _one("images", load_settings()).status == "ok"


def test_a_prefect_server_that_does_not_answer_is_a_failure(
    loaded: LoadedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        found = _one("prefect", loaded)
    assert found.status == "failed"
    assert "127.0.0.1:9" in found.found


def test_a_program_that_is_there_but_does_not_answer_is_a_warning(
    loaded: LoadedSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sinfo"
    program.write_text("#!/bin/sh\necho cannot reach the controller\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _one("slurm", loaded).status == "warning"
    assert "cannot reach the controller" in _one("slurm", loaded).found
    program.unlink()
    assert _one("slurm", loaded).status == "missing"


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on(loaded: LoadedSettings) -> None:
    def broken(_loaded: LoadedSettings) -> Iterator[doctor.CheckResult]:
        raise OSError("no such device")
        yield

    checks = {**doctor.CHECKS, "disk": broken, "tensorflow": lambda _: iter(())}
    findings = {f.check: f for f in doctor.examine(loaded, checks)}
    assert findings["disk"].status == "failed"
    assert {"python", "micrographs", "slurm"} <= findings.keys()


def test_the_command_for_a_gpu_fits_the_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.gpu_install_command() == f"make -C {ROOT} env GPU=1"
    monkeypatch.setattr("cryoflow.__file__", str(tmp_path / "cryoflow" / "__init__.py"))
    assert doctor.gpu_install_command() == f"{sys.executable} -m pip install 'cryoflow-em[gpu]'"


def test_the_command_lists_every_check_as_json_and_fails_where_one_failed(
    loaded: LoadedSettings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finding = doctor.CheckResult("disk", "failed", "full", "Make room.")
    monkeypatch.setattr(doctor, "examine", lambda _: iter([finding]))
    assert launch(["doctor", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [{"check": "disk", "status": "failed", "found": "full", "hint": "Make room."}]
    assert "failed: disk" in captured.err


@pytest.mark.parametrize(
    ("given", "problem"),
    [("", "PREFECT_API_AUTH_STRING is not set"), ("ann:WRONG", "is not the one"), ("ann:SECRET", "")],
)
def test_a_server_that_asks_for_a_secret_says_which_variable_it_goes_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str, problem: str
) -> None:
    """A stand-in for Prefect's server, which answers whether it is well without the secret, and nothing else."""
    from cryoflow.doctor import access_problem, server_problem

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            right = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"ann:SECRET").decode()
            self.send_response(200 if right or self.path == "/api/health" else 401)
            self.end_headers()

        def log_message(self, *_args: object) -> None: ...

    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_PROFILES_PATH", raising=False)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", given)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        try:
            assert server_problem(url) == ""
            found = access_problem(url)
            assert problem in found
            assert bool(found) == bool(problem)
            if not given:
                (tmp_path / "profiles.toml").write_text('PREFECT_API_AUTH_STRING = "ann:SECRET"\n')
                assert access_problem(url) == ""  # Prefect's own profile has it
        finally:
            server.shutdown()
            thread.join()
