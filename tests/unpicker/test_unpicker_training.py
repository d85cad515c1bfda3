import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unpicker_rings import make_set, small_options
from written_files import written_files

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.preparation.augment import augment, oriented
from cryoflow.preparation.folded_weights import fold
from cryoflow.preparation.model_folder import get_weights, set_weights
from cryoflow.preparation.tensorboard import Scalars
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.unpicker import training_loop as fit_module
from cryoflow.unpicker.batches import TrainingBatches
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.evaluate import evaluate
from cryoflow.unpicker.labeled import LabeledSet, balanced_draw, split_by_micrograph
from cryoflow.unpicker.network import Architecture, build, pick_loss
from cryoflow.unpicker.patch_cache import prepare
from cryoflow.unpicker.train import train
from cryoflow.unpicker.train_options import TrainOptions
from cryoflow.unpicker.training_loop import checkpoint_folder


def test_a_model_learns_to_tell_rings_from_discs_on_micrographs_it_has_not_seen(rings, trained):
    result = evaluate(trained, rings)
    assert {r.part for r in trained.manifest} == {"train", "validation", "test"}
    test = {r.name for r in trained.manifest if r.part == "test"}
    assert {row.name for row in result.micrographs} == test
    assert result.roc_auc.value > 0.9
    assert result.roc_auc.low <= result.roc_auc.value <= result.roc_auc.high


def test_training_leaves_curves_logs_history_and_a_checkpoint_of_each_epoch(trained):
    folder = trained.folder
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")
    history = json.loads((folder / "history.json").read_text())
    assert len(history) == 3
    assert {"loss", "val_loss", "val_error", "val_roc_auc"} <= set(history[0])
    best = 1 + int(np.argmin([e["val_loss"] for e in history]))
    assert trained.metrics["best_epoch"] == best
    boxes = np.random.default_rng(0).normal(0, 1, (4, 26, 26, 2)).astype(np.float16)
    outputs = [ModelBundle.load(checkpoint_folder(folder, n)).logits(boxes) for n in (1, 2, 3)]
    np.testing.assert_array_equal(outputs[best - 1], trained.logits(boxes))
    assert not np.allclose(outputs[0], outputs[2])
    assert list((folder / "logs").glob("events.out.tfevents.*"))


def test_the_same_training_is_not_done_again_and_another_is_refused(rings, trained):
    options = small_options(trained.folder.parent)
    before = written_files(trained.folder.parent)
    again = train(rings, trained.folder, options)
    assert again.fingerprint == trained.fingerprint
    assert written_files(trained.folder.parent) == before
    with pytest.raises(BadInput, match="another training"):
        train(rings, trained.folder, replace(options, epochs=4))


def test_a_killed_training_goes_on_to_the_same_result(rings, trained, tmp_path, monkeypatch):
    options = replace(small_options(tmp_path), cache_dir=trained.folder.parent / "cache")
    real = fit_module.save_state
    calls = []

    def save_then_die(*arguments):
        real(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "save_state", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(rings, tmp_path / "model", options)
    with pytest.raises(BadInput, match=r"checkpoints/epoch-002"):
        ModelBundle.load(tmp_path / "model")
    monkeypatch.setattr(fit_module, "save_state", real)
    steps = []
    bundle = train(
        rings, tmp_path / "model", options, on_progress=lambda p: steps.append(p) if p.stage == "training" else None
    )
    assert min(p.done for p in steps) > 2 * max(p.total for p in steps) / 3  # only the third epoch was run
    assert bundle.fingerprint == trained.fingerprint
    for name, value in trained.weights.items():
        np.testing.assert_allclose(bundle.weights[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_one_model_from_two_projects_of_different_pixel_size(rings, tmp_path):
    fine = make_set(tmp_path / "fine", n_micrographs=4, seed=5, pixel_size_A=4.0, data_set="fine", shape_yx=(300, 420))
    both = rings + fine
    bundle = train(both, tmp_path / "model", small_options(tmp_path, widths=(8, 16), blocks=(1, 1)))
    parts = {(r.data_set, r.part) for r in bundle.manifest}
    assert parts == {(d, p) for d in ("rings", "fine") for p in ("train", "validation", "test")}
    assert {r.pixel_size_A for r in bundle.manifest} == {4.0, 8.0}
    for data_set in ("rings", "fine"):
        mine = LabeledSet(tuple(m for m in both.micrographs if m.data_set == data_set))
        assert evaluate(bundle, mine).roc_auc.value > 0.85


def test_transfer_starts_from_an_earlier_model(rings, trained, tmp_path):
    options = small_options(tmp_path, epochs=1, learning_rate=1e-6, start_from=trained.folder, seed=3)
    bundle = train(rings, tmp_path / "model", options)
    assert bundle.preprocessing == trained.preprocessing
    for name, value in trained.weights.items():
        if "moving" not in name:
            np.testing.assert_allclose(bundle.weights[name], value, atol=1e-3, err_msg=name)


def test_an_update_goes_part_of_the_way_and_trains_as_if_it_went_all_of_it(rings, trained, tmp_path, monkeypatch):
    def update(name, part):
        options = small_options(tmp_path, epochs=2, start_from=trained.folder, frozen_norm=True, interpolation=part)
        train(rings, tmp_path / name, options)
        folders = [checkpoint_folder(tmp_path / name, epoch) for epoch in (1, 2)]
        return [ModelBundle.load(folder).weights for folder in folders]

    wholes, somes = update("whole", 1.0), update("some", 0.25)
    for whole, some in zip(wholes, somes, strict=True):
        for name, start in trained.weights.items():
            expected = 0.75 * start + 0.25 * whole[name]
            np.testing.assert_allclose(some[name], expected, rtol=1e-3, atol=1e-4, err_msg=name)
        assert any(np.abs(whole[name] - some[name]).max() > 1e-3 for name in some)
    save = fit_module.save_state

    def save_then_die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(fit_module, "save_state", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            update("killed", 0.25)
    for name, weights in update("killed", 0.25)[1].items():
        np.testing.assert_allclose(weights, somes[1][name], rtol=1e-3, atol=1e-4, err_msg=name)
    update("none", 0.0)  # what is scored is what is kept: here the earlier model, whatever was learned
    first, second = json.loads((tmp_path / "none" / "history.json").read_text())
    assert first["loss"] != second["loss"]
    assert first["val_loss"] == second["val_loss"]


def test_unlabeled_picks_are_learned_from_without_being_called_wrong(rings, tmp_path):
    rng = np.random.default_rng(0)

    def hide(m):
        seen = (m.labels == 1) & (rng.random(len(m.labels)) < 0.6)
        return replace(m, labels=np.where(seen, 1, 0).astype(np.int8))

    hidden = LabeledSet(tuple(map(hide, rings.micrographs)))
    share = 0.4 * rings.count(1) / (0.4 * rings.count(1) + rings.count(-1))
    bundle = train(hidden, tmp_path / "model", small_options(tmp_path, class_prior=share, epochs=4))
    test = {r.name for r in bundle.manifest if r.part == "test"}
    result = evaluate(bundle, LabeledSet(tuple(m for m in rings.micrographs if m.name in test)))
    assert result.roc_auc.value > 0.9
    assert result.recall.value > 0.75  # 0.6 of them were shown; calling the others wrong would lose them


@pytest.fixture(scope="module")
def unknown(rings, trained, tmp_path_factory):
    """No pick is called wrong, though all that are not known are; the options say that most of those are right."""
    hidden = [replace(m, labels=np.where(m.labels == 1, 1, 0).astype(np.int8)) for m in rings.micrographs]
    options = small_options(trained.folder.parent, class_prior=0.6, epochs=4)
    return LabeledSet(tuple(hidden)), options, tmp_path_factory.mktemp("unknown") / "model"


@pytest.fixture(scope="module")
def trained_on_unknown(unknown):
    """A model of them."""
    known, options, folder = unknown
    return train(known, folder, options)


def shares_of(folder):
    """The share of right picks among those not known, by epoch."""
    return [e["class_prior"] for e in json.loads((folder / "history.json").read_text())]


def test_a_share_that_was_said_too_high_is_corrected_by_what_the_scores_show(trained_on_unknown):
    """A network that is told that wrong picks are right finds right ones among them."""
    shares = shares_of(trained_on_unknown.folder)
    assert shares[0] == 0
    assert len(set(shares[1:])) == 1
    assert 0 < shares[-1] < 0.4
    assert trained_on_unknown.metrics["class_prior_estimated"] <= shares[-1]
    assert trained_on_unknown.metrics["best_epoch"] > 1  # losses that count other things are not compared


def test_a_training_killed_after_the_share_was_measured_goes_on_with_it(
    unknown, trained_on_unknown, tmp_path, monkeypatch
):
    known, options, _ = unknown
    real = fit_module.save_state

    def save_then_die(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_module, "save_state", save_then_die)
    with pytest.raises(KeyboardInterrupt):  # at the end of the first epoch, where the share is measured
        train(known, tmp_path / "model", options)
    monkeypatch.setattr(fit_module, "save_state", real)
    again = train(known, tmp_path / "model", options)
    assert shares_of(tmp_path / "model") == pytest.approx(shares_of(trained_on_unknown.folder), rel=1e-3)
    for name, value in trained_on_unknown.weights.items():
        np.testing.assert_allclose(again.weights[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_classic_network_trains_on_classic_boxes(rings, tmp_path):
    options = TrainOptions.emunpicker(
        epochs=1, cache_dir=tmp_path / "cache", validation=0.25, test=0.25, batch=32, least_steps=4
    )
    bundle = train(rings, tmp_path / "model", options)
    assert bundle.preprocessing.kind == "emunpicker"
    assert bundle.architecture.name == "emunpicker"
    assert bundle.architecture.input_px == 32
    assert ModelBundle.load(tmp_path / "model").architecture == bundle.architecture
    assert evaluate(bundle, rings).n_picks > 0


def test_missing_micrographs_are_left_out_of_a_training(rings, tmp_path, caplog):
    gone = replace(rings.micrographs[0], path=tmp_path / "gone.mrc")
    some = LabeledSet((gone, *rings.micrographs[1:]))
    bundle = train(some, tmp_path / "model", small_options(tmp_path, epochs=1, least_steps=2))
    assert len(bundle.manifest) == len(rings.micrographs) - 1
    assert "gone.mrc" in caplog.text


@pytest.mark.parametrize(
    ("label", "says"), [(1, "one class only"), (-1, "no pick is positive"), (0, "no pick is positive")]
)
def test_labels_of_one_kind_are_refused(rings, tmp_path, label, says):
    same = tuple(replace(m, labels=np.full(len(m.labels), label, np.int8)) for m in rings.micrographs)
    with pytest.raises(BadInput, match=says):
        train(LabeledSet(same), tmp_path / "model", small_options(tmp_path))


def test_shares_that_leave_nothing_to_learn_from_are_refused(rings, tmp_path):
    with pytest.raises(BadInput, match=r"0\.5 for validation and 0\.5 for the test leave nothing"):
        train(rings, tmp_path / "model", small_options(tmp_path, validation=0.5, test=0.5))


def test_phase_flipping_without_any_ctf_is_refused_before_anything_is_read(rings, tmp_path):
    unknown = LabeledSet(tuple(replace(m, ctf=None) for m in rings.micrographs))
    with pytest.raises(MissingMetadata, match="none of 8 micrographs has CTF values"):
        train(
            unknown, tmp_path / "model", small_options(tmp_path, preprocessing=TwoChannelPreprocessing(phase_flip=True))
        )
    assert not list(tmp_path.iterdir())


def test_one_micrograph_is_too_few(rings, tmp_path):
    with pytest.raises(BadInput, match="needs two"):
        train(LabeledSet(rings.micrographs[:1]), tmp_path / "model", small_options(tmp_path))


def test_a_folder_of_other_things_is_not_written_to(rings, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "thesis.txt").write_text("dear to me")
    for overwrite in (False, True):
        with pytest.raises(BadInput, match="holds no model"):
            train(rings, tmp_path / "model", small_options(tmp_path), overwrite=overwrite)
    assert (tmp_path / "model" / "thesis.txt").read_text() == "dear to me"


def test_the_split_is_by_micrograph_seeded_and_spans_the_defocus(rings):
    split = split_by_micrograph(rings, validation=0.25, test=0.25, seed=3)
    names = [{m.name for m in part} for _, part in split.parts()]
    assert [len(n) for n in names] == [4, 2, 2]
    assert not names[0] & names[1] | names[1] & names[2] | names[0] & names[2]
    assert split == split_by_micrograph(rings, validation=0.25, test=0.25, seed=3)
    assert split != split_by_micrograph(rings, validation=0.25, test=0.25, seed=4)
    defocus = [m.defocus_A for m in split.test]
    assert max(defocus) - min(defocus) >= 4000  # one from each half of the range
    assert split_by_micrograph(rings, test=0).test == ()


def test_a_limited_number_of_right_picks_is_drawn_evenly_over_the_defocus(rings):
    few = balanced_draw(rings.micrographs, 40, seed=1)
    assert sum(m.count(1) for m in few) == 40
    counts = [m.count(1) for m in few]
    assert max(counts) - min(counts) <= 1  # eight micrographs, each of its own defocus
    share = sum(m.count(-1) for m in few) / rings.count(-1)
    assert share == pytest.approx(40 / rings.count(1), abs=0.05)
    assert balanced_draw(rings.micrographs, 10**6) == rings.micrographs


def test_batches_depend_on_seed_and_epoch_alone_and_use_every_pick(rings, tmp_path):
    options = small_options(tmp_path)
    cached = prepare(options.preprocessing, rings.micrographs, tmp_path / "cache").micrographs
    kinds = {"batch": 32, "seed": 1}
    one, other = (TrainingBatches(cached, options.preprocessing, **kinds) for _ in range(2))
    other.start_at(3)
    other.start_at(0)
    x, _ = one[2]
    assert x.shape == (32, 24, 24, 2)
    np.testing.assert_array_equal(x, other[2][0])
    one.on_epoch_end()
    assert not np.array_equal(one[2][0], x)
    other.start_at(1)
    np.testing.assert_array_equal(one[2][0], other[2][0])
    rows = np.concatenate([rows for _, rows in one.batches])
    assert set(rows) == set(range(sum(len(m.labels) for m in cached)))
    assert sum(float((one[i][1][:, 0] == 1).sum()) for i in range(len(one))) >= rings.count(1)


def test_boxes_that_do_not_fit_in_memory_are_read_in_groups(rings, tmp_path):
    options = small_options(tmp_path)
    cached = prepare(options.preprocessing, rings.micrographs, tmp_path / "cache").micrographs
    batches = TrainingBatches(cached, options.preprocessing, batch=32, seed=1, memory_bytes=200 * 26 * 26 * 4)
    groups = {group for group, _ in batches.batches}
    assert len(groups) > 1
    assert sorted(i for group in groups for i in group) == list(range(len(cached)))
    held = []
    for i in range(len(batches)):
        _ = batches[i]
        held.append(len(batches.loaded_group[1]))
    assert max(held) <= 200


def test_a_small_set_is_gone_through_several_times_an_epoch(rings, tmp_path):
    options = small_options(tmp_path)
    cached = prepare(options.preprocessing, rings.micrographs[:1], tmp_path / "cache").micrographs
    batches = TrainingBatches(cached, options.preprocessing, batch=32, seed=1, least_steps=20)
    assert len(batches) == 20
    assert not np.array_equal(batches[0][0], batches[10][0])
    seen = np.bincount(np.concatenate([rows for _, rows in batches.batches]))
    assert len(seen) == len(cached[0].labels)
    assert seen.max() - seen.min() <= 1


@pytest.mark.parametrize(("n_micrographs", "n_steps"), [(5, 16), (6, 17), (7, 20)])
def test_an_epoch_is_never_doubled_by_a_pick_more_or_less(n_micrographs, n_steps, rings, tmp_path):
    options = small_options(tmp_path)
    cached = prepare(options.preprocessing, rings.micrographs[:n_micrographs], tmp_path / "cache").micrographs
    n = sum(len(m.labels) for m in cached)
    assert n_steps == max(16, -(-n // 32))
    assert len(TrainingBatches(cached, options.preprocessing, batch=32, seed=1, least_steps=16)) == n_steps


def test_views_keep_the_box_and_change_its_place_orientation_and_contrast():
    rng = np.random.default_rng(0)
    boxes = np.zeros((200, 12, 12, 2), np.float16)
    boxes[:, 5, 7] = 1
    views = augment(boxes, 10, rng, contrast=0)
    assert views.shape == (200, 10, 10, 2)
    assert (views.sum(axis=(1, 2)) == 1).all()
    places = {tuple(np.argwhere(v[:, :, 0])[0]) for v in views}
    assert len(places) > 20  # 8 orientations of 9 places, some of which coincide
    noisy = augment(boxes, 10, rng, contrast=0.15)
    assert 0.1 < noisy.reshape(200, -1).max(axis=1).std() < 0.4


def test_the_eight_orientations_differ():
    box = np.arange(18.0).reshape(3, 3, 2)
    assert len({oriented(box, i).tobytes() for i in range(8)}) == 8
    stack = np.stack([box, box + 1])
    for i in range(8):
        np.testing.assert_array_equal(oriented(stack, i)[0], oriented(box, i))


def reference_risk(labels, logits, prior):
    """Non-negative positive-unlabeled risk as in its paper, and cross-entropy of labeled negatives."""
    right, wrong, unknown = (logits[labels == k] for k in (1, -1, 0))
    soft = lambda z: np.logaddexp(0, z)  # noqa: E731
    risk = len(right) * soft(-right).mean() + soft(wrong).sum()
    hidden = prior * len(unknown)
    risk += hidden * soft(-right).mean()
    risk += max(0.0, soft(unknown).sum() - hidden * soft(right).mean())
    return risk / len(labels)


@pytest.mark.parametrize("prior", [0.0, 0.2, 0.9])
def test_the_loss_is_the_non_negative_risk(prior):
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], 60)
    logits = rng.normal(0, 2, 60)
    targets = np.column_stack((labels, np.full(60, prior))).astype(np.float32)
    loss = pick_loss(0.0)(targets, logits[:, None].astype(np.float32))
    assert float(loss) == pytest.approx(reference_risk(labels, logits, prior), rel=1e-5)


def test_without_unlabeled_picks_the_loss_is_the_cross_entropy_with_smoothing():
    import keras

    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 1], 50)
    logits = rng.normal(0, 2, 50).astype(np.float32)
    targets = np.column_stack((labels, np.full(50, 0.3))).astype(np.float32)
    ours = pick_loss(0.05)(targets, logits[:, None])
    keras_loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.05)
    assert float(ours) == pytest.approx(
        float(keras_loss((labels[:, None] > 0).astype(np.float32), logits[:, None])), rel=1e-4
    )


@pytest.mark.parametrize("name", ["residual", "emunpicker"])
def test_a_network_is_built_again_from_its_description(name):
    architecture = Architecture(name, 24, 2, widths=(8, 16), blocks=(1, 2))
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    model = build(again)
    assert model.input_shape == (None, 24, 24, 2)
    assert model.output_shape == (None, 1)
    with pytest.raises(ValueError, match="no-such"):
        Architecture.from_json({**architecture.to_json(), "name": "no-such"})


@pytest.mark.parametrize("name", ["residual", "emunpicker"])
def test_folded_weights_give_the_same_logits(name):
    architecture = Architecture(name, 24, 2, widths=(8, 16), blocks=(1, 2))
    model = build(architecture)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        low = 0.5 if weight.path.endswith(("gamma", "variance")) else -0.5
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    patches = rng.normal(0, 1, (8, 24, 24, 2)).astype(np.float32)
    whole, few = get_weights(model), build(architecture, folded=True)
    set_weights(few, fold(whole), Path("weights.npz"))
    expected = model.predict_on_batch(patches)
    np.testing.assert_allclose(few.predict_on_batch(patches), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    assert not any("norm" in w.path for w in few.weights)


def test_mixed_precision_keeps_weights_and_output_in_float32():
    model = build(Architecture("residual", 24, 2, widths=(8,), blocks=(1,)), mixed_precision=True)
    assert {str(w.dtype) for w in model.weights} == {"float32"}
    assert model.get_layer("stem").compute_dtype == "float16"
    assert str(model.output.dtype) == "float32"


def test_scalars_are_what_tensorboard_reads(tmp_path):
    import tensorflow as tf
    from tensorflow.core.util import event_pb2

    log = Scalars(tmp_path / "logs")
    log.add(1, {"loss": 0.5, "val_error": 0.25})
    log.add(300, {"loss": 0.125})
    (file,) = (tmp_path / "logs").glob("events.out.tfevents.*")
    events = [event_pb2.Event.FromString(r.numpy()) for r in tf.data.TFRecordDataset(str(file))]
    found = [(e.step, v.tag, float(tf.make_ndarray(v.tensor))) for e in events for v in e.summary.value]
    assert found == [(1, "loss", 0.5), (1, "val_error", 0.25), (300, "loss", 0.125)]


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04", b"\x80\x04.", None], ids=["empty", "cut", "pickle", "another's"]
)
def test_a_damaged_checkpoint_is_a_clear_error(trained, tmp_path, content):
    from types import SimpleNamespace

    state = tmp_path / "state.npz"
    whole = (trained.folder / "checkpoints" / "state.npz").read_bytes()
    state.write_bytes(whole if content is None else content)
    model = SimpleNamespace(variables=[], optimizer=SimpleNamespace(variables=[]))
    with pytest.raises(BadInput, match="is no state of this training"):
        fit_module.restore_state(model, state)
