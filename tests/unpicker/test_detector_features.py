"""Features of picks from the detector's network: their places, their orientations, and models that learn from them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from unpicker_rings import SHAPE_YX

from cryoflow.detector.bundle import Detector
from cryoflow.errors import BadInput
from cryoflow.micrographs.image import MicrographFile, write_mrc
from cryoflow.preparation import devices
from cryoflow.preparation.augment import ORIENTATIONS, oriented, oriented_xy
from cryoflow.preparation.devices import inference_precision, load_keras
from cryoflow.preparation.patches import load_patches
from cryoflow.system.cpus import multiplies_bfloat16
from cryoflow.unpicker import detector_features
from cryoflow.unpicker.bundle import ModelBundle, preprocessing_from_json
from cryoflow.unpicker.detector_features import (
    Backbone,
    DetectorFeatures,
    interpolation,
    likeliest_centers,
    logits_around,
)
from cryoflow.unpicker.evaluate import evaluate
from cryoflow.unpicker.parameters import TrainUnpickerParameters
from cryoflow.unpicker.scoring import score
from cryoflow.unpicker.train import train, training_orientations
from cryoflow.unpicker.train_options import TrainOptions


@pytest.fixture(scope="module")
def features() -> DetectorFeatures:
    load_keras()
    return DetectorFeatures()


def options_of(folder, features, **changes) -> TrainOptions:
    values = {"preprocessing": features, "epochs": 4, "least_steps": 20, "validation": 0.25, "test": 0.25}
    return TrainOptions.of("detector", **{**values, "cache_dir": folder / "cache", "workers": 2, **changes})


@pytest.fixture(scope="module")
def learned(rings, features, tmp_path_factory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("features")
    return train(rings, folder / "model", options_of(folder, features))


def sampled(values, xy_px, stride):
    """A map at points, interpolated linearly, (n, points, channels)."""
    channels = values.shape[-1]
    weights = interpolation(xy_px, values.shape[:2], stride)
    return (weights @ values.reshape(-1, channels)).reshape(*xy_px.shape[:2], channels)


@pytest.mark.parametrize("stride", [4, 8, 16])
def test_maps_are_sampled_where_the_micrograph_is(stride):
    row, column = np.mgrid[:10, :13] * stride + (stride - 1) / 2  # centers of what each output pixel covers
    values = np.stack([column, row], axis=-1).astype(np.float32)
    xy = np.random.default_rng(0).uniform(stride, 8 * stride, (5, 3, 2))
    np.testing.assert_allclose(sampled(values, xy, stride), xy, rtol=1e-5)


def test_beyond_its_edge_a_map_goes_on():
    values = np.arange(12, dtype=np.float32).reshape(3, 4, 1)
    outside = np.array([[[-50.0, -50.0], [500.0, 500.0]]])
    np.testing.assert_array_equal(sampled(values, outside, 4)[0, :, 0], [0, 11])


def test_logits_around_a_pick_are_the_maps_at_a_grid_of_points():
    answers = np.random.default_rng(2).normal(size=(14, 17, 5)).astype(np.float32)
    picks = np.random.default_rng(3).uniform((-3, -3), (17 * 4 + 3, 14 * 4 + 3), (30, 2))  # near and beyond edges, too
    row, column = np.mgrid[-4:5, -4:5] * 4
    points = picks[:, None] + np.stack([column.ravel(), row.ravel()], axis=1)
    expected = sampled(answers[..., [0, 4]], points, 4).reshape(30, -1)
    np.testing.assert_allclose(logits_around(answers, picks), expected, atol=1e-5)


def test_features_are_the_maps_at_a_pick_and_on_the_rings_around_it():
    uncentered, rng = DetectorFeatures(centered=False), np.random.default_rng(0)
    levels = uncentered.backbone.levels
    maps = [rng.normal(size=(160 // stride, 192 // stride, n)).astype(np.float32) for _, stride, n in levels]
    xy = rng.uniform(0, 150, (7, 2))
    turns = np.arange(8) * np.pi / 4
    expected = []
    for values, (name, stride, _) in zip(maps, levels, strict=True):
        expected.append(sampled(values, xy[:, None], stride)[:, 0])
        fine = name in ("up2_relu2", "answers")
        for radius in (0.25, 0.5, 0.85) if fine else (0.25, 0.5):
            circle = 24 * radius * np.stack([np.cos(turns), np.sin(turns)], axis=1)
            ring = sampled(values, xy[:, None] + circle, stride)
            expected.append(ring.mean(axis=1))
            expected += [ring.max(axis=1)] if fine or radius == 0.5 else []
            expected += [ring.min(axis=1)] if fine else []
    expected.append(logits_around(maps[-1], xy))
    np.testing.assert_allclose(uncentered.from_maps(maps, xy), np.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)


def test_the_center_of_a_pick_is_the_likeliest_place_near_it_with_its_offset():
    answers = np.zeros((20, 30, 5), np.float32)
    answers[5, 10] = (4, 0.25, -0.5, 0, 0)  # at x 41.5, y 21.5, with an offset of a pixel and minus two
    answers[5, 13] = (9, 0, 0, 0, 0)  # a likelier one, 12 pixels on
    picks = np.array([[39.0, 24.0], [41.5, 21.5]])
    np.testing.assert_allclose(likeliest_centers(answers, picks, 24.0), [[42.5, 19.5]] * 2)
    assert np.all(likeliest_centers(answers, np.array([[49.0, 21.5]]), 24.0) == [[53.5, 21.5]])


def test_no_center_is_far_from_its_pick():
    answers = np.zeros((20, 30, 5), np.float32)
    answers[..., 1:3] = 50  # absurd offsets
    picks = np.array([[0.0, 0.0], [119.0, 79.0], [60.0, 33.0]])
    moved = np.linalg.norm(likeliest_centers(answers, picks, 24.0) - picks, axis=1)
    assert moved.max() <= 0.4 * 24 + 1e-9


def test_picks_off_the_center_of_a_particle_have_features_like_those_on_it(features, rings):
    micrograph = rings.micrographs[0]
    inside = np.all(np.abs(micrograph.centers_xy_px / SHAPE_YX[::-1] - 0.5) < 0.3, axis=1)
    on = micrograph.centers_xy_px[inside & (micrograph.labels == 1)]
    moved = on + 0.2 * micrograph.diameter_A / micrograph.pixel_size_A * np.array([0.6, -0.8])
    change = {}
    for extractor in (features, replace(features, centered=False)):
        here, there = (
            load_patches(extractor, replace(micrograph, centers_xy_px=xy, labels=np.ones(len(xy), np.int8)))[
                ..., -162:
            ].astype(np.float64)
            for xy in (on, moved)
        )
        change[extractor.centered] = np.abs(here - there).mean()
    assert change[True] < 0.5 * change[False]


def test_models_of_before_take_features_at_their_picks(features, tmp_path):
    before = replace(features, centered=False)
    assert "centered" not in before.to_json()
    features.backbone.detector.save(tmp_path / "detector")
    assert preprocessing_from_json(before.to_json(), tmp_path) == before
    assert preprocessing_from_json(features.to_json(), tmp_path) == features
    with pytest.raises(ValueError, match="fields"):
        preprocessing_from_json({**features.to_json(), "centered": 2}, tmp_path)


@pytest.mark.parametrize("orientation", range(8))
def test_points_turn_with_the_image(orientation):
    image = np.zeros((5, 8, 1))
    image[1, 6] = 1
    turned = oriented(image, orientation)
    (x, y) = oriented_xy(np.array([[6.0, 1.0]]), orientation, (5, 8))[0]
    assert turned[int(y), int(x), 0] == 1


def test_the_features_of_a_pick_are_those_of_its_place(features, rings):
    micrograph = rings.micrographs[0]
    all_picks = load_patches(features, micrograph)
    assert all_picks.shape == (len(micrograph.labels), 1, 1, features.n_channels)
    some = replace(micrograph, centers_xy_px=micrograph.centers_xy_px[[5, 2]], labels=micrograph.labels[[5, 2]])
    np.testing.assert_array_equal(load_patches(features, some), all_picks[[5, 2]])


def test_each_orientation_is_that_of_a_turned_micrograph(features, rings, tmp_path):
    micrograph = rings.micrographs[0]
    each = load_patches(features.with_orientations(8), micrograph).astype(np.float64)
    assert each.shape[1] == 8
    np.testing.assert_array_equal(each[:, :1], load_patches(features, micrograph))
    whole = MicrographFile.open(micrograph.path).whole()
    for i in (1, 4, 7):
        turned = oriented(whole[..., None], ORIENTATIONS[i])[..., 0]
        write_mrc(tmp_path / "m.mrc", np.ascontiguousarray(turned), micrograph.pixel_size_A)
        xy = oriented_xy(micrograph.centers_xy_px, ORIENTATIONS[i], SHAPE_YX)
        of_turned = load_patches(features, replace(micrograph, path=tmp_path / "m.mrc", centers_xy_px=xy))
        # The local normalization rounds differently on a turned image, and centers move with it: alike, not equal.
        alike = np.corrcoef(of_turned.ravel().astype(np.float64), each[:, i].ravel())[0, 1]
        others = np.corrcoef(of_turned.ravel().astype(np.float64), each[:, i - 1].ravel())[0, 1]
        assert alike > 0.998
        assert others < alike - 0.002


def test_a_training_view_is_one_of_the_orientations(features):
    patches = np.arange(2 * 8 * 3, dtype=np.float16).reshape(2, 8, 1, 3)
    views = {
        tuple(view)
        for seed in range(40)
        for view in features.training_views(patches, np.random.default_rng(seed))[:, 0, 0]
    }
    assert views == {tuple(one) for pick in patches for one in pick[:, 0]}


def test_a_model_learns_from_features(learned, rings):
    assert learned.architecture.name == "detector"
    assert evaluate(learned, rings).error.value < 0.2


def test_features_are_standardized_by_those_of_the_training(learned, rings, features):
    names = {r.name for r in learned.manifest if r.part == "train"}
    train_set = [m for m in rings.micrographs if m.name in names]
    each = np.concatenate([load_patches(features.with_orientations(8), m) for m in train_set])
    expected = each.reshape(-1, features.n_channels).astype(np.float64).mean(axis=0)
    np.testing.assert_allclose(learned.weights["standardize/moving_mean"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("n_micrographs", "expected"), [(1, 8), (250, 8), (251, 4), (1000, 2), (1001, 1), (10**6, 1)])
def test_many_micrographs_are_learned_from_in_fewer_orientations(n_micrographs, expected):
    assert training_orientations(n_micrographs) == expected


def test_a_copied_model_gives_the_same_probabilities(learned, rings, tmp_path):
    copy = ModelBundle.load(shutil.copytree(learned.folder, tmp_path / "copy"))
    one, other = (next(iter(score(b, rings.micrographs[:1]))).probabilities for b in (learned, copy))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_detector_is_part_of_the_model(learned, tmp_path):
    copy = shutil.copytree(learned.folder, tmp_path / "copy")
    (copy / "detector" / "weights.npz").write_bytes(b"other")
    with pytest.raises(BadInput, match=r"weights\.npz"):
        ModelBundle.load(copy)
    shutil.rmtree(copy / "detector")
    with pytest.raises(BadInput, match="detector"):
        ModelBundle.load(copy)


def test_another_detector_in_its_place_is_refused(learned, tmp_path):
    copy = shutil.copytree(learned.folder, tmp_path / "copy")
    replace(Detector.general(), pixels_per_diameter=20.0).save(copy / "detector")
    with pytest.raises(BadInput, match="changed since"):
        ModelBundle.load(copy)


def test_un_picking_passes_a_micrograph_through_the_network_once(learned, rings, monkeypatch):
    passes = []
    real = Backbone.maps
    monkeypatch.setattr(Backbone, "maps", lambda self, prepared: passes.append(1) or real(self, prepared))
    one, four = (next(iter(score(learned, rings.micrographs[:1], orientations=n))).probabilities for n in (1, 4))
    assert len(passes) == 1 + 4
    assert not np.allclose(one, four, rtol=1e-3, atol=0)  # of a model this sure, most are near 0 and differ by a factor


def test_a_training_that_starts_from_another_model_has_its_recipe(trained, learned, tmp_path):
    options = [
        TrainOptions.from_parameters(TrainUnpickerParameters(model=tmp_path, start_from=folder))
        for folder in (trained.folder, learned.folder)
    ]
    assert [o.architecture for o in options] == ["residual", "detector"]
    assert options[0].epochs == TrainOptions.of("residual").epochs


def test_test_micrographs_of_the_start_are_learned_from_in_all_orientations(learned, rings, features, tmp_path):
    options = options_of(tmp_path, features, start_from=learned.folder, seed=5, epochs=1)
    again = train(rings, tmp_path / "model", options)
    assert again.preprocessing == learned.preprocessing


def in_precision(features, precision, monkeypatch) -> DetectorFeatures:
    monkeypatch.setattr(detector_features, "inference_precision", lambda: precision)
    again = replace(features, backbone=Backbone(features.backbone.detector))
    assert again.backbone.network is not None
    return again


def test_the_maps_are_those_of_the_detector(features, monkeypatch):
    prepared = np.random.default_rng(0).normal(0, 1, (96, 160, 2)).astype(np.float16)
    answers = features.backbone.detector.answers(prepared, orientations=1)
    backbone = in_precision(features, None, monkeypatch).backbone
    maps = backbone.maps(prepared)
    assert [m.shape[2] for m in maps] == [channels for _, _, channels in backbone.levels]
    np.testing.assert_allclose(
        maps[-1][: answers.shape[0], : answers.shape[1]][2:-16, 2:-16], answers[2:-16, 2:-16], atol=2e-3
    )


def test_a_large_micrograph_is_cut_into_tiles(features):
    prepared = np.random.default_rng(0).normal(0, 1, (80, 1700, 2)).astype(np.float16)
    xy = np.array([[10.0, 40.0], [760.0, 30.0], [840.0, 50.0], [1690.0, 70.0]])
    whole = features.from_maps(features.backbone.maps(prepared), xy)
    calls = []
    maps = features.backbone.maps

    class Counted(Backbone):
        def maps(self, prepared):
            calls.append(prepared.shape)
            return maps(prepared)

    tiled = replace(features, backbone=Counted(features.backbone.detector)).features(prepared, xy)
    assert len(calls) == 2
    assert max(shape[1] for shape in calls) < 1536
    spread = np.abs(whole).mean()
    assert np.abs(tiled - whole).mean() < 0.02 * spread


def test_bfloat16_rounds_features_and_changes_nothing_else(features, rings, monkeypatch):
    micrograph = rings.micrographs[0]
    exact, rounded = (
        load_patches(in_precision(features, precision, monkeypatch), micrograph).astype(np.float64)
        for precision in (None, "bfloat16")
    )
    assert 1e-4 < np.abs(exact - rounded).mean() / np.abs(exact).mean() < 0.03


@pytest.mark.parametrize(
    ("native", "gpus", "expected"), [(True, (), "bfloat16"), (False, (), None), (True, ("gpu:0",), None)]
)
def test_bfloat16_is_for_processors_that_multiply_it(native, gpus, expected, monkeypatch):
    monkeypatch.setattr(devices, "multiplies_bfloat16", lambda: native)
    monkeypatch.setattr(devices, "list_gpus", lambda: gpus)
    monkeypatch.setattr("keras.backend.backend", lambda: "tensorflow")
    assert inference_precision() == expected


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor : 0\nflags : fpu avx512f avx512_bf16\n", True),
        ("flags : fpu amx_bf16 amx_tile\n", True),
        ("flags : fpu avx512f avx512_vnni\n", False),
        ("Features : asimd bf16\n", False),
    ],
)
def test_the_processor_is_known_by_its_flags(cpuinfo, expected, tmp_path):
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert multiplies_bfloat16(tmp_path / "cpuinfo") is expected
    assert multiplies_bfloat16(tmp_path / "none") is False


@pytest.mark.slow
def test_preparing_before_anything_is_trained_writes_nothing_of_tensorflow_to_the_terminal() -> None:
    script = "from cryoflow.unpicker.detector_features import DetectorFeatures\nDetectorFeatures().backbone.network\n"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=500)
    assert "cudart" not in ran.stderr
    assert "cpu_feature_guard" not in ran.stderr
