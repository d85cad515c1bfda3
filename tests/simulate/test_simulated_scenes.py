"""What lies on simulated micrographs, and how the permissive picker finds it."""

from __future__ import annotations

import numpy as np
import pytest

from cryoflow.simulate.blob_picker import RIGHT_WITHIN, match_to_truth, pick_blobs
from cryoflow.simulate.density import SPECIMENS, find_specimen, random_rotation
from cryoflow.simulate.micrograph import simulate_exposure
from cryoflow.simulate.scene import Scene, Thing, build_scene
from cryoflow.simulate.surroundings import build_surroundings


def scene_of(xy_A: list[tuple[float, float]], radius_A: float) -> Scene:
    n = len(xy_A)
    angle = np.zeros(n)
    return Scene(
        np.zeros(n, np.int8), np.array(xy_A, float), np.full(n, radius_A), angle, angle, [np.zeros((1, 2), "f4")] * n
    )


def test_objects_closer_than_their_radii_together_are_not_isolated() -> None:
    scene = scene_of([(0, 0), (99, 0), (500, 0), (500, 101)], 50)
    assert scene.isolated().tolist() == [False, False, True, True]
    assert scene_of([(0, 0)], 50).isolated().tolist() == [True]


def test_a_scene_holds_every_kind_of_thing() -> None:
    scene = build_scene(find_specimen("barrel"), (6000, 6000), np.random.default_rng(0))
    assert set(scene.thing.tolist()) == {int(t) for t in Thing}
    counts = np.bincount(scene.thing)
    assert counts[Thing.WHOLE] == max(counts)
    assert scene.isolated()[scene.thing == Thing.WHOLE].mean() > 0.7
    assert scene.isolated()[scene.thing == Thing.CROWDED].mean() < 0.3


def test_broken_particles_are_smaller_than_whole_ones() -> None:
    scene = build_scene(find_specimen("large"), (8000, 8000), np.random.default_rng(1))
    sizes = np.array([len(p) for p in scene.points])
    whole = len(find_specimen("large").points)
    assert (sizes[scene.thing == Thing.WHOLE] == whole).all()
    assert (sizes[scene.thing == Thing.BROKEN] < 0.66 * whole).all()


def test_orientations_are_uniform() -> None:
    """The z axis of uniform rotations has uniform z; the in-plane angle has no preference."""
    rng = np.random.default_rng(3)
    axes = np.array([random_rotation(rng)[2] for _ in range(4000)])
    assert np.abs(axes.mean(axis=0)).max() < 0.03
    assert np.abs((axes**2).mean(axis=0) - 1 / 3).max() < 0.02
    rotation = random_rotation(rng)
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_surroundings_vary_from_micrograph_to_micrograph() -> None:
    some = [build_surroundings((200, 300), 10.0, np.random.default_rng(n)) for n in range(30)]
    dirty = np.array([s.dirty.mean() for s in some])
    assert (dirty == 0).any()
    assert dirty.max() > 0.1
    assert all((s.ice_A > 50).all() and (s.ice_A < 1200).all() for s in some)
    assert all((s.opacity[~s.dirty] < 0.1).all() for s in some)


@pytest.mark.parametrize("name", SPECIMENS)
def test_about_half_of_the_picks_are_right_for_every_specimen(name: str) -> None:
    subject, right, n_true = find_specimen(name), [], 0
    for number in range(3):
        exposure = simulate_exposure(subject, (500, 700), 4.0, np.random.default_rng([number, 12]))
        picks, _ = pick_blobs(exposure.image, 4.0, subject.diameter_A, threshold=subject.picker_sigma)
        right.append(match_to_truth(picks, exposure.true_xy_px, RIGHT_WITHIN * subject.diameter_A / 4.0) >= 0)
        n_true += len(exposure.true_xy_px)
    found = np.concatenate(right)
    assert 0.3 < found.mean() < 0.7
    assert found.sum() > 0.7 * n_true


def test_the_picker_finds_dark_discs_where_they_are() -> None:
    rng = np.random.default_rng(6)
    centers = np.array([[100.3, 80.7], [300.0, 90.5], [210.6, 250.2]])
    y, x = np.indices((360, 440))
    image = rng.normal(100, 4, (360, 440))
    for x0, y0 in centers:
        image -= 5 * (np.hypot(x - x0, y - y0) < 18)
    picks, scores = pick_blobs(image.astype("f4"), 2.0, 100, threshold=6)
    assert len(picks) == 3
    assert sorted(match_to_truth(picks, centers, 1.5).tolist()) == [0, 1, 2]
    assert (scores > 6).all()


def test_matching_knows_its_limits() -> None:
    truth = np.array([[10.0, 10.0], [50.0, 50.0]])
    picks = np.array([[13.0, 14.0], [50.0, 55.1], [500.0, 0.0]])
    assert match_to_truth(picks, truth, 5.0).tolist() == [0, -1, -1]
    assert match_to_truth(picks, np.zeros((0, 2)), 5.0).tolist() == [-1, -1, -1]
    assert match_to_truth(np.zeros((0, 2)), truth, 5.0).tolist() == []
