"""Starting a training on a reviewed entry: a run of the registered flow, by Prefect's REST API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import READ, WRITE
from view_client import TestClient
from view_fixtures import SCORED, make_database

from cryoflow.settings.profiles import ProfileName
from cryoflow.unpicker.parameters import TrainUnpickerParameters
from cryoflow.view.access import Access
from cryoflow.view.app import make_app
from cryoflow.view.library import Library
from cryoflow.view.training import FLOW, CannotStart, start_training


class Prefect:
    """The two addresses of Prefect's API that a start needs, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                self._answer(
                    200 if self.path.endswith("/train%20unpicker/train%20unpicker%20%28local%29") else 404,
                    {"id": "d-1"},
                    None,
                )

            def do_POST(self) -> None:
                record = json.loads(self.rfile.read(int(self.headers["content-length"])))
                self._answer(201, {"id": "r-1"}, record)

            def _answer(self, status: int, value: object, record: object) -> None:
                outer.asked.append((self.path, record))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(value).encode())

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def prefect() -> Iterator[Prefect]:
    prefect = Prefect()
    thread = threading.Thread(target=prefect.server.serve_forever)
    thread.start()
    yield prefect
    prefect.server.shutdown()
    thread.join()
    prefect.server.server_close()


def test_a_training_learns_from_the_entry_and_writes_a_model_of_its_name(prefect: Prefect, tmp_path: Path) -> None:
    how = {"server": prefect.address, "place": ProfileName.LOCAL, "models": tmp_path / "models"}
    started = start_training("P1/AutoPick_job005_reviewed", tmp_path / "DB", **how)  # type: ignore[arg-type]
    assert started.page == f"{prefect.address}/runs/flow-run/r-1"
    assert started.model == tmp_path / "models" / "P1_AutoPick_job005_reviewed"
    path, record = prefect.asked[-1]
    assert path == "/api/deployments/d-1/create_flow_run"
    parameters = TrainUnpickerParameters.from_values(record["parameters"]["parameters"])
    assert parameters.entries == ("P1/AutoPick_job005_reviewed",)
    assert parameters.database == tmp_path / "DB"
    assert parameters.model == started.model


def test_a_server_that_is_away_or_knows_no_flow_is_one_clear_error(prefect: Prefect, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="cryoflow deploy"):
        start_training(SCORED, tmp_path, server=prefect.address, place=ProfileName.SLURM, models=tmp_path)
    with pytest.raises(CannotStart, match="cryoflow up"):
        start_training(SCORED, tmp_path, server="http://127.0.0.1:9", place=ProfileName.LOCAL, models=tmp_path)
    with pytest.raises(CannotStart, match="http"):
        start_training(SCORED, tmp_path, server="file:///etc", place=ProfileName.LOCAL, models=tmp_path)


def test_only_who_may_write_starts_a_training(prefect: Prefect, tmp_path: Path) -> None:
    database = make_database(tmp_path)

    def train(entry: str) -> Any:
        return start_training(
            entry, database.root, server=prefect.address, place=ProfileName.LOCAL, models=tmp_path / "m"
        )

    app = make_app(Library(database), Access(READ, WRITE), train=train)
    client = TestClient(app, base_url="http://127.0.0.1")
    headers = {"origin": "http://127.0.0.1", "authorization": f"Bearer {READ}"}
    assert client.post("/api/train", json={"entry": SCORED}, headers=headers).status_code == 403
    assert not prefect.asked
    headers["authorization"] = f"Bearer {WRITE}"
    assert client.post("/api/train", json={"entry": "P1/none"}, headers=headers).status_code == 404
    answer = client.post("/api/train", json={"entry": SCORED}, headers=headers)
    assert answer.json()["page"].endswith("/runs/flow-run/r-1")


def test_the_flow_that_is_started_is_one_that_is_deployed() -> None:
    from cryoflow.cluster.deployments import STAGES, load_flow

    assert FLOW in [load_flow(stage).name for stage in STAGES]
