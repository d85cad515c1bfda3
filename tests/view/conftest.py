"""A viewer of a small database, and clients that may look and write."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from chromium import Page, browser
from view_browser import Viewer
from view_client import TestClient
from view_fixtures import READ, SCORED, WRITE, links_of, make_database

from cryoflow.database import Database
from cryoflow.view.access import Access
from cryoflow.view.app import make_app
from cryoflow.view.opened_entries import Library


@pytest.fixture
def database(tmp_path: Path, request: pytest.FixtureRequest) -> Database:
    return make_database(tmp_path, per_micrograph=getattr(request, "param", 12))


@pytest.fixture
def start(database: Database, tmp_path: Path) -> Iterator[Callable[..., Viewer]]:
    """Start a viewer; the same tokens and the same port again after it was killed."""
    started: list[subprocess.Popen[str]] = []
    port = 0

    def run(*options: str) -> Viewer:
        nonlocal port
        command = [sys.executable, "-m", "cryoflow", "view", SCORED, "--database", str(database.root), "--write"]
        command += ["--json", "--port", str(port), "--token-file", str(tmp_path / "tokens"), *options]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
        started.append(process)
        links = links_of(process)
        port = int(links["read"].split(":")[2].split("/")[0])
        return Viewer(process, links["read"], links["write"])

    yield run
    for process in started:
        process.terminate()
        process.wait(30)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    with browser(tmp_path / "chromium", width=1300, height=800) as page:
        yield page


@pytest.fixture
def client(database: Database, tmp_path: Path) -> Iterator[TestClient]:
    """A client without any token."""
    library = Library(database, masks=(tmp_path / "none", tmp_path / "masks"))
    app = make_app(library, Access(READ, WRITE), reports=(tmp_path / "runs",), models=(tmp_path / "models",))
    with TestClient(app, base_url="http://127.0.0.1:8765", follow_redirects=False) as client:
        yield client


@pytest.fixture
def reader(client: TestClient) -> TestClient:
    client.headers["authorization"] = f"Bearer {READ}"
    return client


@pytest.fixture
def writer(client: TestClient) -> TestClient:
    client.headers.update({"authorization": f"Bearer {WRITE}", "origin": "http://127.0.0.1:8765"})
    return client
