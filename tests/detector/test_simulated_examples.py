"""Simulated examples: which objects are particles, which are not, and which nobody can tell."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN
from cryoflow.detector.general import GeneralRecipe
from cryoflow.detector.simulated import (
    HELD_OUT,
    TRAINED,
    ExamplePlan,
    assumed_ratio,
    make_example,
    plans,
    simulate_examples,
    truth_of,
)
from cryoflow.simulate.conditions import STANDARD
from cryoflow.simulate.density import find_specimen
from cryoflow.simulate.families import FAMILIES
from cryoflow.simulate.micrograph import Exposure, simulate_exposure
from cryoflow.simulate.scene import Scene, Thing

BARREL = find_specimen("barrel")
PIXEL_A = 4.0


@pytest.fixture(scope="module")
def exposure() -> Exposure:
    conditions = replace(STANDARD, carbon=0, gold=0, lattice=0, ice_crystals_per_um2=0)
    return simulate_exposure(BARREL, (300, 420), PIXEL_A, np.random.default_rng(4), conditions)


def arranged(exposure: Exposure, things: list[tuple[Thing, float, float]], dirty: np.ndarray | None = None) -> Exposure:
    """An exposure of objects at given places, in pixels."""
    n = len(things)
    xy = np.array([(x, y) for _, x, y in things], float) * PIXEL_A
    zero = np.zeros(n)
    scene = Scene(
        np.array([t for t, *_ in things], np.int8), xy, np.full(n, 80.0), zero, zero, [np.zeros((1, 2), "f4")] * n
    )
    return replace(exposure, scene=scene, dirty=np.zeros(exposure.image.shape, bool) if dirty is None else dirty)


def test_held_out_families_are_not_trained_on() -> None:
    assert set(HELD_OUT) | set(TRAINED) == set(FAMILIES)
    assert not set(HELD_OUT) & {p.family for p in plans(50, 1, seed=1)}
    for stage in GeneralRecipe().stages:
        assert set(stage.families) <= set(TRAINED)


def test_whole_and_apart_is_a_particle_and_broken_is_none(exposure: Exposure) -> None:
    truth = truth_of(
        arranged(exposure, [(Thing.WHOLE, 100, 100), (Thing.BROKEN, 200, 100), (Thing.WHOLE, 300, 200)]),
        BARREL,
        PIXEL_A,
    )
    np.testing.assert_allclose(truth.xy_px, [(100, 100), (300, 200)])
    assert truth.kind.tolist() == [POSITIVE, POSITIVE]


def test_overlapping_and_cut_ones_are_unknown_and_members_of_aggregates_negative(exposure: Exposure) -> None:
    pair = [(Thing.CROWDED, 100, 60), (Thing.CROWDED, 120, 60)]
    edge = [(Thing.WHOLE, 5, 200)]
    clump = [(Thing.CROWDED, 250 + 22 * i, 200) for i in range(4)]
    truth = truth_of(arranged(exposure, [*pair, *edge, *clump]), BARREL, PIXEL_A)
    assert truth.kind.tolist() == [UNKNOWN] * 3 + [NEGATIVE] * 4
    assert truth.junk[200, 250]
    assert not truth.junk[60, 110]


def test_on_dirt_is_negative_and_beside_it_unknown(exposure: Exposure) -> None:
    dirty = np.zeros(exposure.image.shape, bool)
    dirty[:, :100] = True
    truth = truth_of(
        arranged(exposure, [(Thing.WHOLE, 60, 100), (Thing.WHOLE, 106, 200), (Thing.WHOLE, 160, 100)], dirty),
        BARREL,
        PIXEL_A,
    )
    assert truth.kind.tolist() == [NEGATIVE, UNKNOWN, POSITIVE]
    assert truth.junk[:, :100].all()


def test_an_example_is_made_once_and_its_particles_are_dark(tmp_path: Path) -> None:
    made = [make_example(ExamplePlan("shell", 500 + i, 0, 1), tmp_path) for i in range(4)]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    again = simulate_examples([ExamplePlan("shell", 500 + i, 0, 1) for i in range(4)], tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    darker = []
    for one, other in zip(made, again, strict=True):
        np.testing.assert_array_equal(one.xy_px, other.xy_px)
        pixels = np.asarray(one.map_pixels(), np.float32)[..., 1]
        assert one.junk is not None
        assert np.load(one.junk).shape == tuple(n // 4 for n in pixels.shape)
        inside = one.xy_px[one.kind != UNKNOWN]
        y, x = np.indices(pixels.shape)
        disc = 12 * math.exp(one.log_size)
        for cx, cy in inside[:20]:
            near = np.hypot(x - cx, y - cy)
            darker.append(pixels[near < disc].mean() - pixels[(near > 1.3 * disc) & (near < 1.8 * disc)].mean())
    assert len(darker) > 10
    assert np.mean(np.array(darker) < 0) > 0.85


def test_a_plan_makes_the_same_bytes_anywhere(tmp_path: Path) -> None:
    plan = ExamplePlan("globular", 7, 0, 1, hard=True)
    one, two = (make_example(plan, tmp_path / n) if (tmp_path / n).mkdir() is None else None for n in "ab")
    assert one is not None
    assert two is not None
    assert one.pixels.read_bytes() == two.pixels.read_bytes()


def test_far_off_diameters_leave_nothing_to_find(tmp_path: Path) -> None:
    found = {True: 0, False: 0}
    for example in simulate_examples(list(plans(24, 1, seed=5)), tmp_path):
        ratio = math.exp(example.log_size)
        found[0.62 < ratio < 1.6] += example.n_positive
    assert found[False] == 0 < found[True]


def test_diameters_are_assumed_well_mostly_and_up_to_five_times_too_small_where_hard() -> None:
    rng = np.random.default_rng(0)
    plain, hard = (np.array([assumed_ratio(rng, hard=h) for _ in range(2000)]) for h in (False, True))
    assert 0.5 < (np.abs(np.log(plain)) < 0.15).mean() < 0.8
    assert plain.max() < 2.9
    assert 4 < hard.max() <= 5
