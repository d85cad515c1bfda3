"""The detector as a learner, with its real network on small micrographs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import learning_projects as small
import numpy as np
import pytest

from cryoflow.database import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import POSITIVE
from cryoflow.detector.stream import CropStream, MixedStream, StreamOptions
from cryoflow.learning.detector_items import example_of
from cryoflow.learning.detector_learner import EXEMPLARS, DetectorLearner, DetectorTraining
from cryoflow.learning.items import Item, read_pieces, write_pieces
from cryoflow.learning.update import UpdateResult, update
from cryoflow.models.registry import ModelRegistry
from cryoflow.storage.fingerprints import checksum

SHORT = DetectorTraining(rounds=1, steps=3, joint_rounds=1, batch=2, crop_px=96)


def run(folder: Path) -> UpdateResult:
    learner = DetectorLearner(Database(folder / "database"), SHORT)
    return update(ModelRegistry(folder / "models"), "detector", learner, say=lambda _: None)


def prepared(folder: Path, project: str, labels: object = None) -> tuple[DetectorLearner, list[Item]]:
    """Return the items of one project, all of its micrographs."""
    database = Database(folder / "database")
    given = {} if labels is None else {"labels": labels}
    home = small.add_project(database, folder, project, seed=3, n=4, **given)  # type: ignore[arg-type]
    learner = DetectorLearner(database, SHORT)
    source = next(s for s in learner.sources()[0] if s.project == project)
    wanted = {name: checksum(home / name) for name in source.paths}
    items, failed = learner.prepare(source, wanted, folder / "prepared")
    assert not failed
    return learner, items


def test_labels_lie_on_the_particles_of_prepared_micrographs_and_of_exemplars(tmp_path: Path) -> None:
    learner, items = prepared(tmp_path, "A")
    assert items[0].map_pixels().shape[0] != items[0].map_pixels().shape[1]
    pieces = learner.exemplars(items)
    assert 0 < len(pieces) <= EXEMPLARS
    write_pieces(tmp_path / "A.npz", "A", pieces)
    for item in [*items, *read_pieces(tmp_path / "A.npz", tmp_path / "unpacked")]:
        image = np.asarray(item.map_pixels()[..., 0], np.float32)
        xy = np.asarray(item.labels["xy"])[item.labels["kind"] == POSITIVE].round().astype(int)
        inside = ((xy >= 0) & (xy < image.shape[::-1])).all(axis=1)
        at = image[xy[inside, 1], xy[inside, 0]]
        assert len(at) == 0 or at.max() < np.median(image) - image.std()  # particles are dark


def test_micrographs_without_a_file_are_counted(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    small.add_project(database, tmp_path, "A", seed=1, n=3, n_missing=2)
    sources, notes = DetectorLearner(database, SHORT).sources()
    assert len(sources[0].paths) == 1
    assert [n for n in notes if "2 micrographs are missing (00.mrc, ...)" in n], notes


def test_labels_of_another_orientation_fit_less_than_turned_ones(tmp_path: Path) -> None:
    general = Detector.general().folder
    assert general is not None
    learner, good = prepared(tmp_path / "good", "A")
    _, swapped = prepared(tmp_path / "swapped", "A", small.swapped)
    assert learner.fit_of(general, good).sigma > 2
    assert learner.fit_of(general, swapped).sigma < -2


def test_replayed_crops_carry_the_answers_of_the_earlier_model(tmp_path: Path) -> None:
    _, items = prepared(tmp_path, "A")
    general = Detector.general()
    examples = [example_of(i) for i in items]
    streams = [CropStream(examples, 24.0, seed=s, options=StreamOptions(crop_px=64, batch=1)) for s in (1, 2)]
    x, y = MixedStream(*streams, general.network).batch(0)
    plain = streams[0].batch(0)[1].shape[-1]
    assert y.shape[-1] == plain + 5 + 1
    assert y[0, ..., -1].max() == 0  # on new crops the earlier model may be wrong
    assert y[1, ..., -1].min() == 1
    np.testing.assert_allclose(y[1, ..., plain:-1], general.network.predict_on_batch(x[1:])[0], atol=1e-4)


@pytest.mark.slow
def test_an_update_goes_part_of_the_way_from_the_earlier_weights_and_a_joint_training_all_of_it(tmp_path: Path) -> None:
    _, items = prepared(tmp_path, "A")
    general = Detector.general()
    learned = {}
    for part in (1.0, 0.25):
        training = replace(SHORT, steps=20, learning_rate=1e-2, interpolation=part)
        learner = DetectorLearner(Database(tmp_path / "database"), training)
        for joint in (False, True):
            model = learner.train(
                general.folder, items, [], tmp_path / f"{part} {joint}", joint=joint, say=lambda _: None
            )
            learned[part, joint] = Detector.load(model).weights
    for name, start in general.weights.items():
        np.testing.assert_allclose(learned[0.25, True][name], learned[1.0, True][name], 0.02, 2e-3, err_msg=name)
        first, last = np.asarray(start, np.float32), np.asarray(learned[1.0, False][name], np.float32)
        np.testing.assert_allclose(learned[0.25, False][name], 0.75 * first + 0.25 * last, 0.02, 2e-3, err_msg=name)
    changes = [np.abs(np.float32(learned[1.0, False][n]) - np.float32(w)).max() for n, w in general.weights.items()]
    assert max(changes) > 0.02


@pytest.mark.slow
def test_the_same_sequence_gives_the_same_model(tmp_path: Path) -> None:
    weights = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        database = Database(folder / "database")
        small.add_project(database, folder, "A", seed=1)
        assert run(folder).outcome == "promoted"
        small.add_project(database, folder, "B", seed=2, sigma_px=8)
        result = run(folder)
        assert (result.outcome, result.joint, result.learned) == ("promoted", False, ("B",))
        assert not [n for n in result.notes if "other labels" in n]  # those of A are read as they were written
        assert result.version is not None
        weights.append(Detector.load(result.version.model).weights)
    for name, first in weights[0].items():
        np.testing.assert_allclose(weights[1][name], first, rtol=0.02, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_poisoned_projects_do_not_pass_and_a_good_one_beside_them_does(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    small.add_project(database, tmp_path, "swapped", seed=3, labels=small.swapped)
    small.add_project(database, tmp_path, "random", seed=4, labels=small.at_random)
    result = run(tmp_path)
    assert (result.outcome, ModelRegistry(tmp_path / "models").names()) == ("nothing new", [])
    assert "axes swapped or mirrored" in result.quarantined["swapped"]
    assert "labels that mean nothing" in result.quarantined["random"]
    small.add_project(database, tmp_path, "good", seed=5)
    assert run(tmp_path).learned == ("good",)
    small.add_project(database, tmp_path, "good", seed=6, n=9, diameter_A=2 * small.DIAMETER_A)
    other = run(tmp_path)
    assert (other.outcome, other.version and other.version.number) == ("nothing new", 1)
    assert "is it another particle under the same name?" in other.quarantined["good"]
