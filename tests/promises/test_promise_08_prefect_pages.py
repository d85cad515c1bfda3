"""Promise 8, on Prefect's pages: names of projects, jobs and folders are shown as they are; a browser runs none of it.

A real server and a real browser: tables, texts, links and progress of a run whose names hold scripts, images that
report to another server, links and Markdown.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chromium import browser, shown
from ports import free_port

pytestmark = pytest.mark.browser

FLOW = """
import json, sys
from pathlib import Path
from prefect import flow
from flows import run_page

names, path = json.loads(sys.argv[1]), Path(sys.argv[2])

@flow(flow_run_name=names[0])
def hostile():
    run_page.show_table("names", [{"name": n, n: "a column"} for n in names], " and ".join(names))
    run_page.show_text("text", " and ".join(names))
    run_page.show_link("report", path, names[1])
    with run_page.shown_progress("stage", names[2]) as report:
        report(1, 2)
    return hostile_id()

def hostile_id():
    from prefect.runtime import flow_run
    return flow_run.id

print("RUN", hostile())
"""


@contextmanager
def listener() -> Iterator[tuple[int, list[str]]]:
    """Listen as the server that a hostile name reports to; gives its port and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port, asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def prefect(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run Prefect's server on a free port; gives its address and the environment of its clients."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    env = dict(os.environ) | {
        "PREFECT_HOME": str(home),
        "PREFECT_PROFILES_PATH": str(home / "profiles.toml"),
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home}/prefect.db",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    argv = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(argv, env=env, stdout=log, stderr=log)
    try:
        for _ in range(600):
            assert server.poll() is None, (home / "server.log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/api/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield address, env
    finally:
        server.terminate()
        server.wait(60)


def hostile_names(port: int) -> list[str]:
    beacon = f"http://127.0.0.1:{port}"
    return [
        f"<script>window.ran=1;fetch('{beacon}/script')</script>",
        f'<img src={beacon}/img onerror="window.ran=2">',
        f"![picture]({beacon}/markdown)",
        "[a link](javascript:window.ran=3)",
        f"[a page]({beacon}/page)",
        f"<iframe src={beacon}/frame></iframe><style>@import url({beacon}/style);</style>",
        f"`code` **bold** <svg/onload=fetch('{beacon}/svg')> | cell | {beacon}/bare",
        f"a\n\n# heading\n\n<img src={beacon}/paragraph>",
        f"[ref]: {beacon}/ref\n![ref]",
        "{{ constructor.constructor('window.ran=4')() }}",
    ]


TABLE_SHOWN = r"document.body && /\b(10|20) Items/.test(document.body.innerText)"
"""JavaScript: whether the page shows a table of all names."""


def says(text: str) -> str:
    """JavaScript: whether the page shows a text."""
    return f"!!document.body && document.body.innerText.includes({json.dumps(text)})"


def test_hostile_names_on_the_pages_of_a_run_are_only_text(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    home.mkdir()
    with listener() as (port, asked), prefect(home) as (address, env):
        names = hostile_names(port)
        page_path = (
            tmp_path / f"`<img src=x onerror=window.ran=5>![p](http://127.0.0.1:{port}".replace("/", "_") / "r.html"
        )
        site = {"viewer": "http://127.0.0.1:1", "read_write": [str(tmp_path)]}
        runs = []
        for extra in ({}, {"CRYOFLOW_SITE": json.dumps(site)}):
            argv = [sys.executable, "-c", FLOW, json.dumps(names), str(page_path)]
            done = subprocess.run(argv, env=env | extra, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr[-3000:]
            runs.append(done.stdout.partition("RUN ")[2].split()[0])
        request = urllib.request.Request(
            f"{address}/api/artifacts/filter", data=b"{}", headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            artifacts = json.load(answer)
        assert len(artifacts) >= 8
        tables = [a["id"] for a in artifacts if (a["type"], a["key"]) == ("table", "names")]
        assert len(tables) == len(runs), "one table of names for each run"
        named = says(names[0])  # the run's name, which is in no menu
        tabs = {"Artifacts": "stage-progress", "Logs": "Beginning flow run", "Details": "Run Count"}
        # Each page with what shows that its content has come: Prefect's menu comes before it, without any name.
        pages = [
            *((f"/runs/flow-run/{run}?tab={tab}", f"{named} && {says(tabs[tab])}") for run in runs for tab in tabs),
            ("/runs", named),
            ("/artifacts", says("stage-progress")),
            *(
                (f"/artifacts/artifact/{a['id']}", TABLE_SHOWN if a["id"] in tables else f"{named} && {says(a['key'])}")
                for a in artifacts
            ),
            *((f"/artifacts/key/{a['key']}", f"{named} && {says(a['key'])}") for a in artifacts[:4]),
        ]
        with browser(tmp_path / "chromium") as page:
            wrong: list[tuple[str, str]] = []
            for number, (path, is_shown) in enumerate(pages):
                if path.endswith("tab=Artifacts"):  # Prefect opens the tab of logs here
                    page.open(address + path, is_shown=f"{shown('Artifacts')} && true")
                    page.click_until(shown("Artifacts"), is_shown)
                else:
                    page.open(address + path, is_shown=is_shown)
                time.sleep(2.5)  # what a name starts, as a request, follows after it is shown
                if os.environ.get("SHOW_PAGES"):
                    html = page.js("document.querySelector('main, #app').innerHTML")
                    print("PAGE", path, page.text(), html[-3000:])
                    page.picture(tmp_path / f"{number}.jpg")
                assert page.js("window.ran") is None, path
                found = page.js(
                    "[...document.querySelectorAll('a[href], img, iframe, script:not([src]), style')]"
                    # Prefect makes links of addresses in logs, which are shown in full and open nothing by themselves
                    ".filter(e => !(e.tagName === 'A' && e.innerText.trim() === e.getAttribute('href')))"
                    f".map(e => e.cloneNode(false).outerHTML).filter(h => /javascript:|127.0.0.1:{port}/.test(h))"
                )
                wrong += [(path.split("?")[0][-60:], html[:160]) for html in found]
                wrong += [(path[-60:], a) for a in asked]
                asked.clear()
        assert wrong == [], "\n".join(map(str, wrong))
