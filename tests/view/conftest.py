"""A viewer of a small database, and clients that may look and write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from view_client import TestClient
from view_fixtures import READ, WRITE, make_database

from cryoflow.database import Database
from cryoflow.view.access import Access
from cryoflow.view.app import make_app
from cryoflow.view.library import Library


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return make_database(tmp_path)


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
