"""Starting a training on a reviewed entry: a run of the registered flow, by Prefect's REST API."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from view_client import TestClient
from view_fixtures import READ, SCORED, WRITE, make_database

from cryoflow.detector.parameters import TrainDetectorParameters
from cryoflow.settings.profiles import ProfileName
from cryoflow.unpicker.parameters import TrainUnpickerParameters
from cryoflow.view.access import Access
from cryoflow.view.app import make_app
from cryoflow.view.opened_entries import Library
from cryoflow.view.training import FLOWS, CannotStart, Trainings

RUN = "0f8fad5b-d9cb-469f-a165-70867728950e"


class Prefect:
    """The addresses of Prefect's API that trainings need, and what was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                there = ("/train%20unpicker%20%28local%29", "/train%20detector%20%28local%29", f"/flow_runs/{RUN}")
                status = 200 if self.path.endswith(there) else 404
                self._answer(status, {"id": "d-1", "state_name": "Running", "state_type": "RUNNING"}, None)

            def do_POST(self) -> None:
                record = json.loads(self.rfile.read(int(self.headers["content-length"])))
                found = [{"data": 42.5}] if self.path == "/api/artifacts/filter" else {"id": RUN}
                self._answer(201, found, record)

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


def trainings(address: str, folder: Path, place: ProfileName = ProfileName.LOCAL) -> Trainings:
    return Trainings(folder / "DB", address, place, folder / "models")


def test_a_training_learns_from_the_entry_and_writes_a_model_of_its_name(prefect: Prefect, tmp_path: Path) -> None:
    started = trainings(prefect.address, tmp_path).start("P1/AutoPick_job005_reviewed", "unpicker")
    assert started.page == f"{prefect.address}/runs/flow-run/{RUN}"
    assert started.model == tmp_path / "models" / "P1_AutoPick_job005_reviewed"
    path, record = prefect.asked[-1]
    assert path == "/api/deployments/d-1/create_flow_run"
    parameters = TrainUnpickerParameters.from_values(record["parameters"]["parameters"])
    assert parameters.entries == ("P1/AutoPick_job005_reviewed",)
    assert parameters.database == tmp_path / "DB"
    assert parameters.model == started.model


def test_the_detector_is_trained_on_the_entry_into_a_folder_of_its_own(prefect: Prefect, tmp_path: Path) -> None:
    started = trainings(prefect.address, tmp_path).start("P1/AutoPick_job005_reviewed", "detector")
    parameters = TrainDetectorParameters.from_values(prefect.asked[-1][1]["parameters"]["parameters"])
    assert parameters.entries == ("P1/AutoPick_job005_reviewed",)
    assert parameters.output == started.model == tmp_path / "models" / "P1_AutoPick_job005_reviewed_detector"


def test_a_server_that_is_away_or_knows_no_flow_is_one_clear_error(prefect: Prefect, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="cryoflow deploy"):
        trainings(prefect.address, tmp_path, ProfileName.SLURM).start(SCORED, "unpicker")
    with pytest.raises(CannotStart, match="cryoflow up"):
        trainings("http://127.0.0.1:9", tmp_path).start(SCORED, "unpicker")
    with pytest.raises(CannotStart, match="http"):
        trainings("file:///etc", tmp_path).start(SCORED, "unpicker")


def test_only_who_may_write_starts_a_training_and_who_may_look_sees_its_progress(
    prefect: Prefect, tmp_path: Path
) -> None:
    database = make_database(tmp_path)
    app = make_app(Library(database), Access(READ, WRITE), trainings=trainings(prefect.address, tmp_path))
    client = TestClient(app, base_url="http://127.0.0.1")
    headers = {"origin": "http://127.0.0.1", "authorization": f"Bearer {READ}"}
    assert client.post("/api/train", json={"entry": SCORED}, headers=headers).status_code == 403
    assert not prefect.asked
    headers["authorization"] = f"Bearer {WRITE}"
    assert client.post("/api/train", json={"entry": "P1/none"}, headers=headers).status_code == 404
    assert client.post("/api/train", json={"entry": SCORED, "trained": "x"}, headers=headers).status_code == 422
    answer = client.post("/api/train", json={"entry": SCORED, "trained": "detector"}, headers=headers)
    assert answer.json()["page"].endswith(f"/runs/flow-run/{RUN}")
    headers["authorization"] = f"Bearer {READ}"
    progress = client.get("/api/progress", params={"run": answer.json()["run"]}, headers=headers)
    assert progress.json() == {"state": "Running", "ended": False, "percent": 42.5}
    assert client.get("/api/progress", params={"run": "../deployments"}, headers=headers).status_code == 422


def test_the_flows_that_are_started_are_deployed() -> None:
    from cryoflow.cluster.deployments import STAGES, load_flow

    assert set(FLOWS.values()) <= {load_flow(stage).name for stage in STAGES}
