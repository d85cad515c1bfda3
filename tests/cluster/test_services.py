"""What `cryoflow up` starts: once only, and all of it ends, however often Ctrl-C is pressed."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from cryoflow.cluster import services
from cryoflow.cluster.services import check_port
from cryoflow.cluster.supervisor import Running, Service
from cryoflow.errors import BadInput, ToolFailed
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.site import Site

SLEEPER = Service("worker a", ("sleep", "60"))
SLOW_TO_STOP = "trap 'sleep 1; exit' TERM; echo up; while :; do sleep 0.1; done"
UP = f"""
import signal, sys, time
from pathlib import Path
from cryoflow.cluster.supervisor import Running, Service
signal.signal(signal.SIGINT, signal.default_int_handler)  # as `up` does: in a script's background it is ignored
with Running(Path(sys.argv[1])) as running:
    for name in ("server", "worker"):
        assert running.start(Service(name, ("bash", "-c", {SLOW_TO_STOP!r})))
    print("ready", *(process.pid for _, process in running.processes), flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("times", [1, 3])
def test_ctrl_c_stops_everything_however_often_it_is_pressed(tmp_path: Path, times: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", UP, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()[1:]]
    assert len(pids) == 2
    while any((tmp_path / f"{name}.log").read_text() != "up\n" for name in ("server", "worker")):
        time.sleep(0.05)  # a shell that has no trap yet would end at once
    for _ in range(times):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=30)
    assert not any(map(is_alive, pids))


def test_what_was_started_ends_with_its_starter_also_where_that_was_killed(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", UP, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()[1:]]
    while any((tmp_path / f"{name}.log").read_text() != "up\n" for name in ("server", "worker")):
        time.sleep(0.05)
    assert all(map(is_alive, pids))
    process.kill()
    process.communicate(timeout=30)
    end = time.monotonic() + 30
    while any(map(is_alive, pids)):
        assert time.monotonic() < end
        time.sleep(0.05)
    with Running(tmp_path) as running:
        assert running.start(Service("worker", ("true",)))


def test_a_service_that_runs_is_not_started_twice_also_where_its_starter_was_killed(tmp_path: Path) -> None:
    """Two workers of one pool would each take the other's runs for lost. This one takes no notice of SIGTERM."""
    up = UP.replace("trap 'sleep 1; exit' TERM", "trap '' TERM")
    process = subprocess.Popen([sys.executable, "-c", up, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()[1:]]
    while any((tmp_path / f"{name}.log").read_text() != "up\n" for name in ("server", "worker")):
        time.sleep(0.05)
    try:
        with Running(tmp_path) as running:
            assert not running.start(Service("worker", ("true",)))
            assert running.start(SLEEPER)
            assert len(running) == 1
            process.kill()
            process.communicate(timeout=30)
            assert not running.start(Service("worker", ("true",)))
    finally:
        for pid in pids:
            os.killpg(pid, signal.SIGKILL)
    while any(map(is_alive, pids)):
        time.sleep(0.05)
    with Running(tmp_path) as running:
        end = time.monotonic() + 20
        while not running.start(Service("worker", ("true",))):  # a child of the killed ones may hold the lock a moment
            assert time.monotonic() < end
            time.sleep(0.05)


def test_a_service_that_ends_at_once_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        running.start(Service("server", ("sh", "-c", "echo Port 4200 is already in use; exit 1")))
        with pytest.raises(ToolFailed, match="Port 4200 is already in use"):
            running.wait_for("the server", lambda: False)


def test_a_port_of_another_program_or_another_user_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        address = f"http://127.0.0.1:{port}"
        check_port(address)  # nobody listens yet
        listener.listen()
        with pytest.raises(BadInput, match=rf"another program .* server = \"http://127.0.0.1:{port + 1}\""):
            check_port(address)
        monkeypatch.setattr(services, "answers", lambda _address: True)
        check_port(address)  # our own
        monkeypatch.setattr(os, "getuid", lambda: 12345)
        with pytest.raises(BadInput, match="server of another user"):
            check_port(address)


def test_a_service_that_was_killed_is_started_again_but_not_for_ever(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        assert running.start(SLEEPER)
        for _ in range(5):
            os.killpg(running.processes[-1][1].pid, signal.SIGKILL)
            while (ended := running.ended()) is None:
                time.sleep(0.05)
            assert ended == SLEEPER
            assert running.restart(ended)
            assert len(running) == 1
        os.killpg(running.processes[-1][1].pid, signal.SIGKILL)
        assert not running.restart(SLEEPER)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Settings(site=Site(server="http://10.0.0.1:4200"))


def test_a_server_that_the_network_reaches_needs_a_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING", raising=False)
    with pytest.raises(BadInput, match=r"no secret is set.*--insecure"):
        services.check(settings, ProfileName.LOCAL, host="10.0.0.1")
    services.check(settings, ProfileName.LOCAL, host="10.0.0.1", insecure=True)
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "a:b")
    services.check(settings, ProfileName.LOCAL, host="10.0.0.1")


def test_each_account_has_folders_and_worker_names_of_its_own(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen() -> set[str]:
        all_services = [services.server(settings), *services.workers(settings, ProfileName.SLURM)]
        names = {s.argv[s.argv.index("--name") + 1] for s in all_services[1:]}
        return names | {s.environment["TMPDIR"] for s in all_services}

    first = seen()
    assert len(first) == 3  # two workers, and one folder for all
    monkeypatch.setattr("getpass.getuser", lambda: "another")
    assert first.isdisjoint(seen())
    (Path(tempfile.gettempdir()) / "cryoflow-third").symlink_to(tempfile.gettempdir())
    monkeypatch.setattr("getpass.getuser", lambda: "third")
    with pytest.raises(BadInput, match="belongs to another account"):
        seen()


def test_the_pages_are_unpacked_where_the_account_can_write(settings: Settings, tmp_path: Path) -> None:
    environment = services.server(settings).environment
    assert Path(environment["PREFECT_UI_STATIC_DIRECTORY"]).is_relative_to(tmp_path / "state")


def test_the_pages_advertise_no_hosted_product(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings.models.server.ui import ServerUISettings

    for name, value in services.server(settings).environment.items():
        monkeypatch.setenv(name, value)
    assert not ServerUISettings().show_promotional_content


def test_an_address_that_shows_no_page_is_noticed(tmp_path: Path) -> None:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.path == "/page"
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if page else "application/json")
            self.end_headers()
            self.wfile.write(b"<!doctype html><html></html>" if page else b'{"detail":"Not Found"}')

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert services.page_problem(f"{address}/page") == ""
        assert "Not Found" in services.page_problem(address)
        server.shutdown()
    assert "refused" in services.page_problem(address)
