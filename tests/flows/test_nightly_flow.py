"""What runs by itself at night: crawl-and-ingest as it is scheduled, and retraining when enough new picks have come."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from relion_projects import write_relion_project

from cryoflow.database import Database
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.settings.load import Settings
from cryoflow.settings.site import Site
from cryoflow.simulate import simulate_dataset
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.network import Architecture
from cryoflow.unpicker.parameters import TrainUnpickerParameters
from flows.ingest import ingest
from flows.nightly import RECORD, RetrainParameters, newest_model, next_model, picks_seen, retrain


@pytest.fixture
def nights(project: Path, tmp_path: Path) -> tuple[IngestParameters, RetrainParameters]:
    """The parameters that the schedules start with, as the site's settings give them."""
    from cryoflow.cluster.deployments import STAGES, scheduled_parameters

    site = Site(read_only=(project.parent, tmp_path / "more"), models=tmp_path / "models")
    settings = Settings(database=tmp_path / "picks", site=site)
    (tmp_path / "more").mkdir()
    forms = {s.entrypoint: scheduled_parameters(s, settings) for s in STAGES if s.cron}
    crawling = IngestParameters.from_values(forms["flows.ingest:ingest"])
    return crawling, RetrainParameters.from_values(forms["flows.nightly:retrain"])


@pytest.fixture
def today(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a model of today, a day that does not end during the test."""
    monkeypatch.setattr("flows.nightly.datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2)))
    return "unpicker-2026-01-02"


def test_a_model_is_trained_when_enough_picks_are_new_and_only_then(
    nights: tuple[IngestParameters, RetrainParameters], tmp_path: Path, today: str
) -> None:
    crawling, training = nights
    ingest(crawling)
    assert retrain(training) is None  # 20,000 picks are not there
    assert not (tmp_path / "models").exists()

    training = replace(training, min_new_picks=100, epochs=1)
    first = retrain(training)
    assert first == tmp_path / "models" / today
    assert newest_model(tmp_path / "models") == first

    assert ingest(crawling).summary.startswith("12 jobs: 9 unchanged")
    assert retrain(training) is None  # nothing new the next night

    data = simulate_dataset(
        tmp_path / "new", specimen="barrel", n_micrographs=5, shape_yx=(360, 480), pixel_size_A=4.0, seed=8
    )
    write_relion_project(tmp_path / "more" / "P7", data)
    ingest(crawling)
    assert {entry.project for entry in Database(crawling.database).entries()} == {"CS-barrel", "P7"}
    second = retrain(training)
    assert second == tmp_path / "models" / f"{today}-2"
    assert first.is_dir()  # what is in use does not change
    assert picks_seen(second) > picks_seen(first) + 100


def save_model(folder: Path) -> None:
    """Write an untrained model, which is complete."""
    weights = {"kernel": np.zeros(3, np.float32)}
    ModelBundle(Architecture("residual", 48, 2), TwoChannelPreprocessing(), weights, diameter_A=160.0).save(folder)


def test_picks_whose_micrographs_are_gone_do_not_bring_a_training_every_night(
    nights: tuple[IngestParameters, RetrainParameters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[TrainUnpickerParameters] = []

    def train(parameters: TrainUnpickerParameters) -> None:
        given.append(parameters)
        save_model(parameters.model)

    monkeypatch.setattr("flows.nightly.train_unpicker", train)
    crawling, training = nights
    ingest(crawling)
    training = replace(training, min_new_picks=1)
    model = retrain(training)
    assert model is not None
    assert given[0].models == training.models  # what these hold out is not learned from
    seen = json.loads((model / RECORD).read_text())["picks_in_database"]
    assert seen > 1  # all of the database's, whatever the model could use
    assert retrain(training) is None


def test_models_are_numbered_by_the_day_and_unfinished_ones_go_on(tmp_path: Path, today: str) -> None:
    for name in ("unpicker-2025-01-01", today, *(f"{today}-{i}" for i in range(2, 11)), "unpicker-by-hand"):
        save_model(tmp_path / name)
    assert newest_model(tmp_path) == tmp_path / f"{today}-10"
    assert next_model(tmp_path) == tmp_path / f"{today}-11"
    (tmp_path / f"{today}-11").mkdir()  # a training that was stopped
    assert newest_model(tmp_path) == tmp_path / f"{today}-10"
    assert next_model(tmp_path) == tmp_path / f"{today}-11"
    assert newest_model(tmp_path / "nothing") is None
