"""The models page: versions of the registry, and trainings while they run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from view_client import TestClient

from cryoflow.models.card import TrainedOn
from cryoflow.models.registry import ModelRegistry
from cryoflow.view.models import RUNS_FOR_S, registered_models, trainings

UNPICKER = [{"loss": 1.0 / (i + 1), "val_loss": 1.2 / (i + 1)} for i in range(3)]
DETECTOR = [{"round": i + 1.0, "loss": 0.5 - 0.1 * i, "validation_loss": 0.6 - 0.1 * i} for i in range(3)]


def finished(folder: Path, history: object = UNPICKER) -> Path:
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text("{}")
    (folder / "metrics.json").write_text(json.dumps({"validation_f1": 0.9, "odd": "<script>"}))
    (folder / "history.json").write_text(json.dumps(history))
    return folder


def under_way(folder: Path, name: str, array: str, content: object) -> Path:
    state = folder / name
    state.parent.mkdir(parents=True)
    np.savez(state, **{array: np.frombuffer(json.dumps(content).encode(), np.uint8)})
    return state


def registry(root: Path) -> ModelRegistry:
    """Three versions: the first in use, the second one that the gate refused, the third damaged."""
    models = ModelRegistry(root)
    model = finished(root.parent / "trained", DETECTOR)
    learned = (TrainedOn("P1", ("P1/x",), "f", 12, 1234), TrainedOn("P2", ("P2/x",), "f", 1, 6))
    metrics = {"P1": {"f1": 0.91, "recall": 0.88}, "P2": {"f1": 0.71}}
    models.add("picker", "detector", model, trained_on=learned, metrics=metrics)
    worse = {"P1": {"f1": 0.83, "recall": float("nan")}, "P2": {"f1": 0.75}}
    reasons = ("F1 of P1 falls by 0.080 <script>alert(1)</script>",)
    models.add("picker", "detector", model, parent=1, metrics=worse, status="candidate", reasons=reasons)
    models.add("picker", "detector", model)
    models.promote("picker", 1, "the first one")
    (root / "picker" / "v0003" / "card.json").write_text("{")
    return models


def test_versions_show_what_is_in_use_what_was_refused_and_why(reader: TestClient, tmp_path: Path) -> None:
    registry(tmp_path / "models")
    (found,) = registered_models([tmp_path / "models"])
    assert [v.state for v in found.versions] == ["cannot be read", "candidate", "in use"]
    assert "card.json" in found.versions[0].problem
    assert found.versions[1].reasons[0].startswith("F1 of P1 falls")
    assert (found.versions[1].parent, found.versions[1].f1) == ("v0001", "0.790")
    assert found.versions[2].learned_from == "2 projects, 13 micrographs, 1,240 picks"
    assert (found.in_use, found.columns) == ("v0001", ("v0001", "v0002"))
    assert found.switched.endswith("the first one")
    assert [(m.project, m.measure, m.values) for m in found.measures] == [
        ("P1", "f1", (("0.910", True), ("0.830", False))),
        ("P1", "recall", (("0.880", False), ("–", False))),
        ("P2", "f1", (("0.710", False), ("0.750", True))),
    ]
    assert [c.title for c in found.curves] == ["loss"]
    text = reader.get("/models").text
    assert "v0002" in text
    assert "<strong>0.910</strong>" in text
    assert "F1 of P1 falls by 0.080 &lt;script&gt;" in text
    assert "<script>" not in text


def test_a_registry_whose_history_is_damaged_still_shows_its_versions(reader: TestClient, tmp_path: Path) -> None:
    registry(tmp_path / "models")
    (tmp_path / "models" / "picker" / "current.json").write_text("{}")
    (found,) = registered_models([tmp_path / "models"])
    assert "current.json" in found.problem
    assert [v.state for v in found.versions] == ["cannot be read", "candidate", "accepted"]
    assert reader.get("/models").status_code == 200


@pytest.mark.parametrize(
    ("name", "array", "content"),
    [
        ("checkpoints/state.npz", "history", UNPICKER),
        ("state.npz", "described", {"history": DETECTOR, "fingerprint": "f"}),
    ],
)
def test_a_training_shows_its_curves_while_it_runs(
    reader: TestClient, tmp_path: Path, name: str, array: str, content: object
) -> None:
    state = under_way(tmp_path / "models" / "new", name, array, content)
    (found,) = trainings([tmp_path / "models"])
    assert (found.state, found.epochs, found.problem) == ("running", 3, "")
    (loss,) = found.curves
    assert [line.kind for line in loss.lines] == ["train", "validation"]
    points = [tuple(map(float, p.split(","))) for p in loss.lines[1].points.split()]
    assert [x for x, _ in points] == [40, 145, 250]
    assert points[0][1] < points[1][1] < points[2][1]  # the loss falls, and y grows downwards
    text = reader.get("/models").text
    assert "training, epoch 3" in text
    os.utime(state, (time.time() - RUNS_FOR_S - 60,) * 2)
    text = reader.get("/models").text
    assert "stopped after epoch 3" in text


def test_a_folder_that_is_a_training_is_shown_without_what_lies_in_it(reader: TestClient, tmp_path: Path) -> None:
    under_way(finished(tmp_path / "models" / "done"), "checkpoints/state.npz", "history", UNPICKER)
    assert [(t.name, t.problem) for t in trainings([tmp_path / "models" / "done"])] == [("done", "")]
    assert [(t.name, t.problem) for t in trainings([tmp_path / "models"])] == [("done", "")]


def test_a_finished_training_shows_its_measures(reader: TestClient, tmp_path: Path) -> None:
    finished(tmp_path / "models" / "done")
    (found,) = trainings([tmp_path / "models"])
    assert (found.state, found.measures) == ("finished", (("validation f1", "0.9"),))
    text = reader.get("/models").text
    assert text.count("<polyline") == 2
    assert "validation f1" in text


@pytest.mark.parametrize("history", ['"' + "x" * 100, '"text"', "[1]", "[" * 100_000, '[{"val_loss": "x"}]', "[{}]"])
def test_a_damaged_history_is_told(reader: TestClient, tmp_path: Path, history: str) -> None:
    folder = finished(tmp_path / "models" / "broken")
    (folder / "history.json").write_text(history)
    assert reader.get("/models").status_code == 200
    (found,) = trainings([tmp_path / "models"])
    assert found.curves == ()
    assert found.problem.startswith("cannot be read") or history in ('[{"val_loss": "x"}]', "[{}]")


def test_without_any_model_the_page_names_the_next_step(reader: TestClient, tmp_path: Path) -> None:
    text = reader.get("/models").text
    assert "There are no models in" in text
    assert "cryoflow model add" in text
