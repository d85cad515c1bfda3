"""What docs/view.md has an administrator write down: the unit for systemd, and the proxy, which runs here."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from chromium import Page
from view_browser import Viewer, journal
from view_fixtures import SCORED

from cryoflow.database import Database
from cryoflow.view.parameters import ViewParameters

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "view.md").read_text()
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
LABEL = {"do": "label", "label": -1, "picks": {"0": [0]}}


def block(language: str) -> str:
    (found,) = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_unit_of_the_page(tmp_path: Path) -> None:
    unit = tmp_path / "cryoflow-view.service"
    unit.write_text(block("ini").replace("/opt/cryoflow/bin/cryoflow", sys.executable))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cryoflow-view" not in done.stderr  # unknown keys are told, and are no failure


def test_the_unit_of_the_page_starts_the_viewer_with_options_that_there_are() -> None:
    command = re.search(r"^ExecStart=((?:[^\\\n]|\\\n)*)", block("ini"), re.MULTILINE)
    assert command
    words = command[1].replace("\\\n", " ").split()
    options = {word.removeprefix("--").replace("-", "_") for word in words if word.startswith("--")}
    assert {"database", "write", "token_file", "user_header", "host_name"} <= options
    assert options <= set(ViewParameters.__dataclass_fields__)


@pytest.fixture
def sign_in() -> Iterator[int]:
    """What a site has for signing in: names whoever gives the password."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "").removeprefix("Basic ")
            name, _, password = base64.b64decode(given).decode().partition(":")
            self.send_response(204 if password == "secret" else 401)
            self.send_header("X-User" if password == "secret" else "WWW-Authenticate", name or 'Basic realm="picks"')
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def proxy(start: Callable[..., Viewer], sign_in: int, tmp_path: Path) -> Iterator[str]:
    """Nginx as the page configures it, but for TLS; gives its address."""
    viewer = start("--user-header", "X-Remote-User", "--host-name", "picks.example.org")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    read, write = (link.split("token=")[1].split("&")[0] for link in (viewer.read, viewer.write))
    of_page = re.sub(r" *ssl_certificate.*\n", "", block("nginx"))
    for old, new in (
        ("listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        ("TOKEN-FOR-READING", read),
        ("TOKEN-FOR-WRITING", write),
        ("http://127.0.0.1:8765/", viewer.read.split("/look")[0] + "/"),
        ("http://127.0.0.1:9091/", f"http://127.0.0.1:{sign_in}/"),
    ):
        assert of_page.count(old) == 1, old
        of_page = of_page.replace(old, new)
    folders = "".join(
        f"{of}_temp_path {tmp_path}/{of};\n" for of in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = tmp_path / "nginx.conf"
    file.write_text(
        f"daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/nginx.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}{of_page}}}\n"
    )
    assert NGINX
    nginx = subprocess.Popen([NGINX, "-e", str(tmp_path / "nginx.log"), "-c", str(file)], stderr=subprocess.PIPE)
    try:
        for _ in range(300):
            assert nginx.poll() is None, (tmp_path / "nginx.log").read_text()
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                threading.Event().wait(0.1)
        yield f"127.0.0.1:{port}"
    finally:
        nginx.terminate()
        nginx.communicate(timeout=30)


def basic(user: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:secret'.encode()).decode()}"


def ask(proxy: str, path: str, user: str, record: object = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://{proxy}/picks{path}")
    if user:
        request.add_header("Authorization", basic(user))
    if record is not None:
        request.data = json.dumps(record).encode()
        request.add_header("Content-Type", "application/json")
        request.add_header("Origin", "https://picks.example.org")
    for name, value in headers.items():
        request.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def label_by(name: str) -> dict[str, Any]:
    return {"entry": SCORED, "window": "w", "revision": 0, "by": name, "threshold": 0.5, "action": LABEL}


@pytest.mark.nginx
def test_behind_the_proxy_of_the_page_a_user_writes_under_the_own_name_alone(proxy: str, database: Database) -> None:
    assert ask(proxy, "/", "")[0] == 401
    status, text = ask(proxy, "/", "bo")
    assert (status, "AutoPick_job005" in text) == (200, True)
    assert ask(proxy, "/static/look.js", "bo")[0] == 200
    assert ask(proxy, "/api/act", "bo", label_by("ada"))[0] == 403  # bo has the token for reading
    assert ask(proxy, "/api/act", "bo", label_by("ada"), X_Remote_User="ada")[0] == 403
    assert ask(proxy, "/api/act", "ada", label_by("somebody else"), X_Remote_User="eve")[0] == 200
    (line,) = journal(database).splitlines()[1:]
    assert json.loads(line)["by"] == "ada"


@pytest.mark.nginx
@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium")
def test_behind_the_proxy_of_the_page_a_browser_looks_and_cleans(proxy: str, page: Page, database: Database) -> None:
    page.call("Network.enable")
    page.call("Network.setExtraHTTPHeaders", headers={"Authorization": basic("ada")})
    page.call("Page.navigate", url=f"http://{proxy}/picks/")
    page.wait_for("document.body && document.body.innerText.includes('AutoPick_job005')")
    page.click("[...document.querySelectorAll('a')].find(a => a.innerText === 'AutoPick_job005')")
    page.wait_for("document.getElementById('stage')?.dataset.pictured === '0'")
    page.press("f")
    page.wait_for("document.querySelectorAll('#list .mark.finished').length === 1")
    page.press("s")
    page.press("Enter", code=13)
    page.wait_for("document.getElementById('saved-entry').textContent === 'P1/AutoPick_job005_reviewed'")
    assert any("saved by ada" in note for note in database.load("P1/AutoPick_job005_reviewed").notes)
