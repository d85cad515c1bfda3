"""What `cryoflow up` starts: once only, and all of it ends, however often Ctrl-C is pressed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cryoflow.cluster import services
from cryoflow.cluster.services import Running, Service, check_port
from cryoflow.errors import BadInput, ToolFailed

SLEEPER = Service("worker a", ("sleep", "60"))
SLOW_TO_STOP = "trap 'sleep 1; exit' TERM; echo up; while :; do sleep 0.1; done"
UP = f"""
import signal, sys, time
from pathlib import Path
from cryoflow.cluster.services import Running, Service
signal.signal(signal.SIGINT, signal.default_int_handler)  # as `up` does: in a script's background it is ignored
with Running(Path(sys.argv[1])) as running:
    for name in ("server", "worker"):
        assert running.start(Service(name, ("bash", "-c", {SLOW_TO_STOP!r})))
    print("ready", *(process.pid for _, process in running._processes), flush=True)
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
        assert running.start(Service("worker", ("true",)))


def test_a_service_that_ends_at_once_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        running.start(Service("server", ("sh", "-c", "echo Port 4200 is already in use; exit 1")))
        with pytest.raises(ToolFailed, match="Port 4200 is already in use"):
            running.wait_for("the server", lambda: False, timeout_s=30)


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
