"""`cryoflow up`: what it tells, what it starts again, and a second one beside it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from cryoflow.cli import cluster
from cryoflow.cluster import services
from cryoflow.errors import CryoflowError
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import ProfileName


def said(log: Path, text: str, process: subprocess.Popen[bytes], *, within_s: float = 240) -> None:
    """Wait until `up` has said something."""
    end = time.monotonic() + within_s
    while text not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.3)


def command_line(pid: int) -> bytes:
    """Return the arguments of a process, each ended by a zero byte; none of a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def server_of(pid: int) -> int:
    """Return the process of Prefect's server that an `up` started."""
    # Children of the server are left out: until one runs its own program, it has the server's command line.
    children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    (found,) = [child for child in children if b"prefect\0server\0start" in command_line(child)]
    return found


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of an account that has a configuration with a database of its own for the server, and folders that are free."""
    file = tmp_path / "cryoflow.toml"
    file.write_text(f'[site]\nserver = "http://127.0.0.1:{free_port()}"\n')
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return kept | {
        "CRYOFLOW_CONFIG": str(file),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_server_is_started_again_and_a_second_up_starts_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "cryoflow", "up", "--profile", "local", "--no-viewer", "--logs", tmp_path / "logs"]
    log = tmp_path / "up.log"
    with log.open("wb") as opened:
        first = subprocess.Popen(command, env=environment, stdout=opened, stderr=opened, cwd=tmp_path)
    try:
        said(log, "in a browser; logs are in", first)
        second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert second.returncode == 0, second.stderr
        assert "everything runs already" in second.stderr
        killed = server_of(first.pid)
        os.kill(killed, signal.SIGKILL)
        said(log, "server is started again", first)
        end = time.monotonic() + 120
        address = log.read_text().partition("open ")[2].split()[0]
        while not services.answers(address):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        assert server_of(first.pid) != killed
    finally:
        first.send_signal(signal.SIGINT)
        try:
            first.wait(240)
        except subprocess.TimeoutExpired:
            first.kill()  # its services get SIGTERM when it ends
            first.wait()
    assert first.returncode == 0, log.read_text()


class NothingStarted:
    """Stands in for `Running`: everything runs already, or would."""

    log_folder = Path("/logs")

    def __init__(self, _: Path) -> None:
        self.started: list[Any] = []

    def __enter__(self) -> NothingStarted:
        return self

    def __exit__(self, *_: object) -> None: ...

    def __len__(self) -> int:
        return len(self.started)

    def start(self, service: Any) -> bool:
        self.started.append(service)
        return True

    def wait_for(self, *_: object) -> None: ...

    def ended(self) -> None:
        raise KeyboardInterrupt


@pytest.fixture
def started(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """`up` without its programs: a server answers, its page is shown, and no other worker serves."""
    for name, text in (environment | {"PREFECT_API_URL": "http://to-be-set"}).items():
        monkeypatch.setenv(name, text)
    monkeypatch.setattr("cryoflow.cluster.supervisor.Running", NothingStarted)
    monkeypatch.setattr("cryoflow.cluster.orphaned_runs.end_pools", lambda *_args, **_options: None)
    monkeypatch.setattr("cryoflow.doctor.access_problem", lambda _: "")
    monkeypatch.setattr("cryoflow.cluster.pools.make_pools", lambda _: None)
    monkeypatch.setattr("cryoflow.cluster.registration.register", lambda *_: [])
    for name, value in {"answers": True, "page_problem": "", "other_workers": [], "check_port": None}.items():
        monkeypatch.setattr(services, name, lambda *_, value=value: value)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield monkeypatch
    for number, handler in before.items():
        signal.signal(number, handler)


def test_up_gives_no_address_whose_page_is_not_shown(
    started: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started.setattr(services, "page_problem", lambda _: "its answer is JSON")
    with pytest.raises(CryoflowError, match=r"shows no page \(its answer is JSON\)\. .*PREFECT_UI_STATIC_DIRECTORY"):
        cluster.up(profile=ProfileName.LOCAL, viewer=False)
    assert "in a browser" not in capsys.readouterr().err


def test_up_tells_of_workers_that_another_account_has_in_the_same_pools(
    started: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started.setattr(services, "other_workers", lambda *_: ["another worker serves the pool cryoflow-local too: w"])
    assert cluster.up(profile=ProfileName.LOCAL, viewer=False) == 0
    assert "another worker serves the pool cryoflow-local too: w\n" in capsys.readouterr().err


@pytest.mark.usefixtures("prefect_server")
def test_workers_of_other_accounts_are_found_by_their_heartbeat() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from cryoflow.cluster.pools import pools

    with get_client(sync_client=True) as client:
        for pool in pools(ProfileName.LOCAL):
            client.create_work_pool(WorkPoolCreate(name=pool, type="process"), overwrite=True)
        (pool, *_) = pools(ProfileName.LOCAL)
        ours = services.workers(Settings(), ProfileName.LOCAL)[0].argv[-1]
        for name in (ours, "of somebody else"):
            client.send_worker_heartbeat(pool, name)
    found = services.other_workers(Settings(), ProfileName.LOCAL)
    # Workers of other tests may be online, too: all tests of a session share the server.
    assert f"another worker serves the pool {pool} too: of somebody else" in found
    assert not any(ours in line for line in found)


def test_a_missing_image_is_told_when_deployments_are_registered(
    started: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone.sif"
    started.setenv("CRYOFLOW_SITE", json.dumps({"cpu_image": str(gone)}))
    cluster.deploy(profile=ProfileName.SLURM)
    assert f"the image {gone} is not here" in capsys.readouterr().err
