"""The unpicker as a learner, with a small network on small micrographs."""

from __future__ import annotations

from pathlib import Path

import learning_projects as small
import numpy as np
import pytest

from cryoflow.database import Database
from cryoflow.learning.items import read_pieces
from cryoflow.learning.unpicker_learner import EXEMPLARS, UnpickerLearner, UnpickerTraining
from cryoflow.learning.update import UpdateResult, update
from cryoflow.learning.update_material import EXEMPLARS as KEPT
from cryoflow.models.registry import ModelRegistry
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.train_options import TrainOptions

SHORT = UnpickerTraining(
    TrainOptions(epochs=3, batch=32, least_steps=8, widths=(8, 12, 16), tensorboard=False), update_epochs=2
)


def run(folder: Path) -> UpdateResult:
    learner = UnpickerLearner(Database(folder / "database"), SHORT)
    return update(ModelRegistry(folder / "models"), "unpicker", learner, say=lambda _: None)


def test_exemplars_are_patches_of_each_label_with_their_labels(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    home = small.add_project(database, tmp_path, "A", seed=1, n=3, n_false=9)
    learner = UnpickerLearner(database, SHORT)
    source = learner.sources()[0][0]
    wanted = {name: checksum(home / name) for name in source.paths}
    items, failed = learner.prepare(source, wanted, tmp_path / "prepared")
    assert not failed
    pieces = learner.exemplars(items)
    labels = np.concatenate([np.asarray(p.labels["label"]) for p in pieces])
    assert len(labels) <= EXEMPLARS
    assert len(np.unique(labels)) > 1
    for piece in pieces:
        middle = piece.pixels.shape[1] // 2
        centers = piece.pixels[:, middle - 1 : middle + 2, middle - 1 : middle + 2, 0].astype(np.float32)
        dark = centers.mean(axis=(1, 2)) < -1
        assert dark[piece.labels["label"] == 1].all()  # particles are dark, and in the middle of their patches
        assert dark[piece.labels["label"] != 1].mean() < 0.3


@pytest.mark.slow
def test_it_learns_two_projects_and_refuses_one_with_labels_at_random(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    small.add_project(database, tmp_path, "A", seed=1, n_false=9)
    first = run(tmp_path)
    assert (first.outcome, first.learned) == ("promoted", ("A",)), first
    small.add_project(database, tmp_path, "B", seed=2, sigma_px=8, n_false=9)
    small.add_project(database, tmp_path, "random", seed=4, labels=small.at_random, n_false=9)
    second = run(tmp_path)
    assert "labels that mean nothing" in second.quarantined["random"]
    assert second.version is not None
    if second.outcome == "promoted":
        assert second.learned == ("B",)
    assert "random" not in {t.project for t in second.version.card.trained_on}
    model = first.version.model if first.version else Path()
    assert ModelBundle.load(model).manifest
    assert read_pieces(model / KEPT / "A.npz", tmp_path / "unpacked")
