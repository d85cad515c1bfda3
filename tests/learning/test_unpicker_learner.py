"""The unpicker as a learner, with a small network on small micrographs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import learning_projects as small
import numpy as np
import pytest

from cryoflow.database import Database
from cryoflow.learning.exemplars import EXEMPLARS as KEPT
from cryoflow.learning.items import Item, read_pieces, set_apart
from cryoflow.learning.stage import unpicker_options
from cryoflow.learning.unpicker_learner import (
    EXEMPLARS,
    LEARNED_ORIENTATIONS,
    REPLAYED_OF_EACH,
    UnpickerLearner,
    UnpickerTraining,
    replayed_exemplars,
)
from cryoflow.learning.update import UpdateResult, update
from cryoflow.models.registry import ModelRegistry
from cryoflow.preparation.picked_micrograph import UNLABELED
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.train import BEFORE
from cryoflow.unpicker.train_options import TrainOptions

SHORT = UnpickerTraining(
    TrainOptions(epochs=3, batch=32, least_steps=8, widths=(8, 12, 16), tensorboard=False), update_epochs=2
)


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


def test_exemplars_of_features_differ_in_them_and_keep_their_orientations(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    home = small.add_project(database, tmp_path, "A", seed=1, n=2, n_false=9)
    learner = UnpickerLearner(database)
    source = learner.sources()[0][0]
    items, failed = learner.prepare(source, {n: checksum(home / n) for n in source.paths}, tmp_path / "prepared")
    assert not failed
    pieces = learner.exemplars(items)
    n_features = learner.training.options.preprocessing_for(160.0).n_channels
    assert {p.pixels.shape[1:] for p in pieces} == {(LEARNED_ORIENTATIONS, 1, n_features)}
    for piece, item in zip(pieces, sorted(items, key=lambda i: i.content), strict=True):
        assert not np.array_equal(piece.pixels[:, 0], piece.pixels[:, 1])
        np.testing.assert_array_equal(piece.pixels, item.map_pixels())  # fewer than are kept: all, in their order
        np.testing.assert_array_equal(piece.labels["label"], item.labels["label"])


def test_which_exemplars_come_first_does_not_depend_on_names(tmp_path: Path) -> None:
    items = []
    for number in range(8):
        np.save(tmp_path / f"{number}.npy", np.random.default_rng(number).normal(size=(4, 1, 1, 3)).astype(np.float16))
        label = np.array([1, -1, 1, -1], np.int8)
        items.append(Item("A", f"{number * 5 % 8}", tmp_path / f"{number}.npy", {"label": label}, 1e4, 160.0))
    learner = UnpickerLearner(Database(tmp_path / "database"))
    for order in (items, items[::-1]):
        assert [p.content for p in learner.exemplars(order)] == [str(n) for n in range(8)]


def test_held_out_micrographs_are_prepared_in_the_one_orientation_that_is_scored(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    home = small.add_project(database, tmp_path, "A", seed=1, n=1)
    learner = UnpickerLearner(database)
    source = learner.sources()[0][0]
    wanted = {n: checksum(home / n) for n in source.paths}
    apart, learned = (learner.prepare(source, wanted, tmp_path / "p", held_out=held)[0][0] for held in (True, False))
    assert (apart.map_pixels().shape[1], learned.map_pixels().shape[1]) == (1, LEARNED_ORIENTATIONS)
    np.testing.assert_array_equal(apart.map_pixels()[:, 0], learned.map_pixels()[:, 0])


def test_micrographs_without_a_file_are_counted(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    small.add_project(database, tmp_path, "A", seed=1, n=3, n_false=1, n_missing=2)
    sources, notes = UnpickerLearner(database).sources()
    assert len(sources[0].paths) == 1
    assert [n for n in notes if "2 micrographs are missing (00.mrc, ...)" in n], notes


def exemplar(project: str, number: int, n_picks: int) -> Item:
    return Item(project, f"{project}{number:03d}", Path(), {"label": np.zeros(n_picks, np.int8)}, 1e4, 160.0)


def test_as_many_picks_are_replayed_as_are_new_and_some_of_each_project() -> None:
    kept = [exemplar(f"P{p}", i, 64) for p in range(5) for i in range(16)]
    for n_new, of_each in ((10, REPLAYED_OF_EACH), (5 * 512, 512), (10**6, 16 * 64)):
        chosen = [i.project for i in replayed_exemplars(kept, n_new)]
        assert {64 * chosen.count(f"P{p}") for p in range(5)} == {of_each}


def test_an_update_goes_on_with_the_network_of_the_version_in_use(tmp_path: Path) -> None:
    registry = ModelRegistry(tmp_path / "models")
    first = unpicker_options(registry, "unpicker")
    patches = TwoChannelPreprocessing(pixels_per_diameter=22.0)
    ModelBundle(TrainOptions().network(patches), patches, {}, 160.0).save(tmp_path / "of_before")
    registry.promote("unpicker", registry.add("unpicker", "unpicker", tmp_path / "of_before").number, "of before")
    then = unpicker_options(registry, "unpicker")
    assert (first.architecture, first.preprocessing) == ("detector", None)
    assert (then.architecture, then.preprocessing, then.batch) == ("residual", patches, TrainOptions().batch)
    recipes = {UnpickerLearner(Database(tmp_path / "d"), UnpickerTraining(options)).recipe for options in (first, then)}
    assert len(recipes) == 2


def contents(items: Sequence[Item]) -> set[str]:
    return {i.content for i in items}


def test_micrographs_that_ended_a_training_are_never_learned_from() -> None:
    micrographs = [exemplar(f"P{p}", i, 8) for p in range(3) for i in range(40)]
    apart = set_apart(micrographs, 5)
    assert 12 <= len(apart) <= 36  # of 120, a fifth
    exemplars = [i for n, i in enumerate(reversed(micrographs)) if n % 3]  # of some of them, in another order
    new = [exemplar("P3", i, 8) for i in range(40)]
    copies = [replace(i, project="P3") for i in micrographs[:10]]
    assert set_apart([*new, *copies, *exemplars], 5) & contents(micrographs) == apart & contents([*copies, *exemplars])


def test_of_a_project_with_two_micrographs_one_is_set_apart_and_never_more_than_half() -> None:
    for number in range(1, 7):
        for start in range(40):
            few = [exemplar("P", i, 8) for i in range(start, start + number)]
            apart = set_apart(few, 5)
            assert min(1, number // 2) <= len(apart) <= number // 2
            assert apart <= contents(few)


def test_a_project_that_grew_learns_from_no_micrograph_that_is_set_apart() -> None:
    earlier = [exemplar("P", i, 8) for i in range(2)]
    new = [exemplar("P", i, 8) for i in range(4)]
    assert len(set_apart([*new, *earlier], 5)) in (1, 2)  # copies of a micrograph are on one side


@pytest.mark.slow
def test_an_update_counts_unlabeled_picks_of_new_projects_alone_as_negative_at_first(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    home = small.add_project(database, tmp_path, "A", seed=1, n=8, n_false=9)
    options = TrainOptions.of("detector", epochs=3, least_steps=8, tensorboard=False)
    learner = UnpickerLearner(database, UnpickerTraining(options, update_epochs=3))
    source = learner.sources()[0][0]
    items, _ = learner.prepare(source, {n: checksum(home / n) for n in source.paths}, tmp_path / "prepared")
    half = np.array([True, False])  # of the picks, particles among them, have no label
    items = [
        replace(i, labels={"label": np.where(np.resize(half, len(i.labels["label"])), UNLABELED, i.labels["label"])})
        for i in items
    ]
    earlier, new = items[:4], [replace(i, project="B") for i in items[4:]]
    priors = {}
    start = None
    for name, learned, kept in (("first", earlier, []), ("old", earlier, []), ("then", new, earlier)):
        start = learner.train(start, learned, kept, tmp_path / name, joint=start is None, say=lambda _: None)
        history = json.loads((tmp_path / name / "training" / "history.json").read_text())
        priors[name] = [epoch["class_prior"] for epoch in history]
        assert not (tmp_path / name / "training" / "learning_curves.png").exists()  # nobody would see them
    assert priors["first"][0] == 0  # in a first training all projects are new
    assert min(priors["first"][-1], *priors["old"]) > 0
    assert 0 < priors["then"][0] < priors["then"][-1]  # that of A, and then those of both
    again = tmp_path / "first again"
    same = learner.train(None, earlier, [], again, joint=True, say=lambda _: None)
    for name, weights in ModelBundle.load(tmp_path / "first" / "model").weights.items():
        np.testing.assert_allclose(ModelBundle.load(same).weights[name], weights, rtol=0.02, atol=2e-3, err_msg=name)


@pytest.mark.slow
def test_a_lab_whose_projects_have_one_micrograph_to_learn_from_gets_a_model(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    home = small.add_project(database, tmp_path, "A", seed=1, n=1, n_false=9)
    learner = UnpickerLearner(database, SHORT)
    source = learner.sources()[0][0]
    items, _ = learner.prepare(source, {n: checksum(home / n) for n in source.paths}, tmp_path / "prepared")
    model = learner.train(None, items, [], tmp_path / "work", joint=True, say=lambda _: None)
    assert contents(items) == {row.content for row in ModelBundle.load(model).manifest}


@pytest.mark.slow
def test_features_are_learned_from_one_project_to_the_next(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    options = TrainOptions.of("detector", epochs=2, least_steps=6, tensorboard=False)
    learner = UnpickerLearner(database, UnpickerTraining(options, update_epochs=2))
    registry = ModelRegistry(tmp_path / "models")
    for number, project in enumerate("AB", start=1):
        small.add_project(database, tmp_path, project, seed=number, sigma_px=12 - 2 * number, n_false=9)
        result = update(registry, "unpicker", learner, say=lambda _: None)
        assert (result.outcome, result.learned, result.joint) == ("promoted", (project,), number == 1), result
        assert not [n for n in result.notes if "other labels" in n]  # those of A are read as they were written
    models = [ModelBundle.load(v.model) for v in registry.versions("unpicker")]
    assert models[1].architecture.name == "detector"
    assert models[1].preprocessing == models[0].preprocessing
    replayed = {r.content for r in models[1].manifest if r.data_set == "A" and r.part != BEFORE}
    assert replayed == {r.content for r in models[0].manifest}  # fewer picks than are replayed: all micrographs
    name = "standardize/moving_mean"
    np.testing.assert_array_equal(models[1].weights[name], models[0].weights[name])


@pytest.mark.slow
def test_poisoned_projects_do_not_pass_and_a_good_one_beside_them_does(tmp_path: Path) -> None:
    database = Database(tmp_path / "database")
    options = TrainOptions.of("detector", epochs=4, least_steps=8, tensorboard=False)
    learner = UnpickerLearner(database, UnpickerTraining(options, update_epochs=4))

    def learned() -> UpdateResult:
        return update(ModelRegistry(tmp_path / "models"), "unpicker", learner, say=lambda _: None)

    small.add_project(database, tmp_path, "A", seed=1, n_false=9)
    small.add_project(database, tmp_path, "random", seed=4, labels=small.at_random, n_false=9)
    small.add_project(database, tmp_path, "swapped", seed=5, labels=small.swapped, n_false=9)
    first = learned()
    assert (first.outcome, first.learned) == ("promoted", ("A",)), first
    assert set(first.quarantined) == {"random", "swapped"}
    assert all("labels that mean nothing" in why for why in first.quarantined.values())
    small.add_project(database, tmp_path, "A", seed=6, n=9, diameter_A=2 * small.DIAMETER_A, n_false=9)
    other = learned()
    assert (other.outcome, other.version and other.version.number) == ("nothing new", 1)
    assert "is it another particle under the same name?" in other.quarantined["A"]
    assert first.version is not None
    assert read_pieces(first.version.model / KEPT / "A.npz", tmp_path / "unpacked")

    def partly(n: int) -> Callable[[small.Points, np.random.Generator], small.Points]:
        number, rng = itertools.count(), np.random.default_rng(7)
        return lambda xy, _: small.at_random(xy, rng) if next(number) < n else xy

    for n_wrong in (3, 8):  # the second step starts from what learned of the first
        small.add_project(database, tmp_path, "A", seed=1, n_false=9, labels=partly(n_wrong))
        last = learned()
    assert "by the labels of their first day" in last.quarantined["A"], last
