"""Where labels are incomplete: recall at a fixed number of picks, and agreement with an un-picker."""

from __future__ import annotations

from pathlib import Path

import learning_projects as small
import numpy as np
import pytest

from cryoflow.database import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import POSITIVE, UNKNOWN
from cryoflow.learning.agreement import PreparedUnpicker, unpicker_in_use
from cryoflow.learning.detector_learner import DetectorLearner
from cryoflow.learning.items import Item
from cryoflow.models.registry import ModelRegistry
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.detector_features import DetectorFeatures
from cryoflow.unpicker.train_options import TrainOptions

PER_DIAMETER = Detector.general().pixels_per_diameter


def by_darkness(preprocessing: DetectorFeatures) -> ModelBundle:
    """An un-picker that keeps what the detector itself gives a positive logit: made by hand, not trained."""
    n = preprocessing.n_channels
    logit_here = n - 2 * 81 + 2 * 40  # the middle of the grid of particle and junk logits
    first = np.zeros((n, 2), np.float32)
    first[logit_here] = (1, -1)
    weights = {
        "standardize/moving_mean": np.zeros(n, np.float32),
        "standardize/moving_variance": np.ones(n, np.float32),
        "dense1/kernel": first,
        "dense1/bias": np.zeros(2, np.float32),
        "logit/kernel": np.array([[1], [-1]], np.float32),
        "logit/bias": np.zeros(1, np.float32),
    }
    architecture = TrainOptions.of("detector", widths=(2,)).network(preprocessing)
    return ModelBundle(architecture, preprocessing, weights, small.DIAMETER_A)


@pytest.fixture(scope="module")
def unpicker() -> PreparedUnpicker:
    found = PreparedUnpicker.of(by_darkness(DetectorFeatures()), PER_DIAMETER)
    assert found is not None
    return found


def prepared(folder: Path, unpicker: PreparedUnpicker | None, n_false: int) -> tuple[DetectorLearner, list[Item]]:
    database = Database(folder / "database")
    home = small.add_project(database, folder, "A", seed=3, n=3, n_false=n_false)
    learner = DetectorLearner(database, unpicker=unpicker)
    source = learner.sources()[0][0]
    items, failed = learner.prepare(source, {n: checksum(home / n) for n in source.paths}, folder / "prepared")
    assert not failed
    return learner, items


def places(item: Item, kind: int) -> np.ndarray:
    return np.asarray(item.labels["xy"], np.float64)[item.labels["kind"] == kind]


def test_it_keeps_particles_of_prepared_micrographs_and_nothing_else(
    tmp_path: Path, unpicker: PreparedUnpicker
) -> None:
    _, items = prepared(tmp_path, None, n_false=8)
    for item in items:
        pixels = np.asarray(item.map_pixels())
        assert pixels.shape[0] != pixels.shape[1]
        assert unpicker.keeps(pixels, places(item, POSITIVE), "A").mean() > 0.8
        assert unpicker.keeps(pixels, places(item, UNKNOWN), "A").mean() < 0.2
    assert not len(unpicker.keeps(pixels, np.zeros((0, 2)), "A"))


def test_a_model_that_avoids_what_other_jobs_picked_wrongly_loses_nothing_and_agrees(
    tmp_path: Path, unpicker: PreparedUnpicker
) -> None:
    learner, items = prepared(tmp_path, unpicker, n_false=8)
    general = Detector.general().folder
    assert general is not None
    for count, item in zip(learner.count(general, items), items, strict=True):
        assert len(places(item, UNKNOWN)) == 8
        assert count.n_picks == count.n_reference == len(places(item, POSITIVE))
        assert count.n_matched == count.n_reference  # although it picks none of the 8
        assert count.n_scored >= count.n_reference
        assert count.n_agreed > 0.8 * count.n_scored


def test_micrographs_with_complete_labels_and_learners_without_an_unpicker_count_no_agreement(
    tmp_path: Path, unpicker: PreparedUnpicker
) -> None:
    general = Detector.general().folder
    assert general is not None
    complete, items = prepared(tmp_path / "complete", unpicker, n_false=0)
    alone, more = prepared(tmp_path / "alone", None, n_false=8)
    for counts in (complete.count(general, items), alone.count(general, more)):
        assert [(c.n_scored, c.n_agreed) for c in counts] == [(0, 0)] * 3
    assert complete.measure != alone.measure


def test_an_unpicker_of_other_images_is_not_used_and_that_is_told(tmp_path: Path, unpicker: PreparedUnpicker) -> None:
    registry, told = ModelRegistry(tmp_path / "models"), list[str]()
    assert unpicker_in_use(registry, "unpicker", PER_DIAMETER, told.append) is None
    unpicker.bundle.save(tmp_path / "bundle")
    registry.promote("unpicker", registry.add("unpicker", "unpicker", tmp_path / "bundle").number, "a try")
    found = unpicker_in_use(registry, "unpicker", PER_DIAMETER, told.append)
    assert found is not None
    assert found.mark == unpicker.mark
    assert unpicker_in_use(registry, "unpicker", PER_DIAMETER + 1, told.append) is None
    assert [line.startswith(start) for line, start in zip(told, ("no version", "unpicker@v0001"), strict=True)] == [
        True,
        True,
    ]
    patches = TwoChannelPreprocessing()
    options = TrainOptions.of("residual")
    bundle = ModelBundle(options.network(patches), patches, {}, small.DIAMETER_A)
    assert PreparedUnpicker.of(bundle, PER_DIAMETER) is None
