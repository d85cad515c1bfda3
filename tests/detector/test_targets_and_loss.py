"""Label rules: what counts as a particle, as none, and as nothing, in the maps and in the loss."""

from __future__ import annotations

import numpy as np
import pytest

from cryoflow.detector import targets as t
from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN
from cryoflow.detector.network import N_OUTPUTS, PARTICLE
from cryoflow.detector.targets import Labels, from_output, target_maps, to_output
from cryoflow.preparation.devices import load_keras

SHAPE_YX = (64, 128)
PIXELS = 24.0


def labels(points: list[tuple[float, float, int]], **changes: object) -> Labels:
    xy = np.array([(x, y) for x, y, _ in points], float).reshape(-1, 2)
    kind = np.array([k for *_, k in points], np.int8)
    values = {"log_size": 0.2, "background": True, "junk": None, "weight": np.ones(len(kind), np.float32), **changes}
    return Labels(xy, kind, **values)  # type: ignore[arg-type]


def maps(points: list[tuple[float, float, int]], **changes: object) -> np.ndarray:
    return target_maps(labels(points, **changes), SHAPE_YX, PIXELS)


def answers(value: float = -6.0) -> np.ndarray:
    made = np.zeros((1, SHAPE_YX[0] // 4, SHAPE_YX[1] // 4, N_OUTPUTS), np.float32)
    made[..., PARTICLE] = value
    return made


def loss(true: np.ndarray, given: np.ndarray, **options: bool) -> float:
    load_keras()
    from cryoflow.detector.loss import detector_loss

    return float(detector_loss(**options)(true[None], given))


@pytest.mark.parametrize("at", [(40.0, 21.0), (77.3, 33.9), (101.5, 12.2)])
def test_a_center_is_told_to_a_part_of_a_pixel(at: tuple[float, float]) -> None:
    made = maps([(*at, POSITIVE)])
    row, column = np.unravel_index(np.argmax(made[..., t.HEAT]), made.shape[:2])
    assert made[row, column, t.CENTER] == 1
    off = made[row, column, [t.OFF_X, t.OFF_Y]]
    np.testing.assert_allclose(from_output(np.array([column, row]) + off), at, atol=1e-4)
    np.testing.assert_allclose(from_output(to_output(np.array([at]))), [at])


def test_the_heat_falls_to_a_tenth_within_four_tenths_of_a_diameter() -> None:
    heat = maps([(61.5, 33.5, POSITIVE)])[8, :, t.HEAT]
    assert heat[15] == 1
    assert heat[15 + 2] == pytest.approx(np.exp(-(2**2) / 2), rel=1e-5)  # sigma is one output pixel: 24 / 6 / 4
    assert heat[15 + 3] < 0.02


def test_places_of_unknown_fate_weigh_nothing_and_particles_overrule_them() -> None:
    made = maps([(40, 30, UNKNOWN), (90, 30, POSITIVE), (90, 30, UNKNOWN)])
    row, column = (int(v) for v in np.rint(to_output(np.array([[40, 30]])))[0][::-1])
    assert made[row, column, t.WEIGHT] == 0
    assert made[row, column, t.UNLABELED] == 1
    row, column = (int(v) for v in np.rint(to_output(np.array([[90, 30]])))[0][::-1])
    assert made[row, column, t.WEIGHT] == 1
    assert made[row, column, t.UNLABELED] == 0


def test_where_nobody_looked_only_known_negatives_count() -> None:
    made = maps([(40, 30, NEGATIVE)], background=False)
    row, column = (int(v) for v in np.rint(to_output(np.array([[40, 30]])))[0][::-1])
    assert made[row, column, t.WEIGHT] == 1
    assert made[..., t.WEIGHT].sum() < 40


def test_an_answer_at_an_unknown_place_costs_nothing_and_at_a_known_one_much() -> None:
    given = answers()
    at = tuple(int(v) for v in np.rint(to_output(np.array([[40, 30]])))[0][::-1])
    given[0, at[0], at[1], PARTICLE] = 4
    nothing_known = maps([(90, 30, POSITIVE), (40, 30, UNKNOWN)])
    background = maps([(90, 30, POSITIVE)])
    base = loss(background, answers())
    assert loss(nothing_known, given) - base < 0.01
    assert loss(background, given) - base > 2


def test_unlabeled_places_enter_as_negatives_less_what_the_prior_explains() -> None:
    given = answers()
    for x in (40, 90):
        row, column = (int(v) for v in np.rint(to_output(np.array([[x, 30]])))[0][::-1])
        given[0, row, column, PARTICLE] = 4
    points = [(90.0, 30.0, POSITIVE), (40.0, 30.0, UNKNOWN)]
    without = loss(maps(points), given)
    none_hides, half_hides, all_hide = (
        loss(maps(points, class_prior=prior), given, unlabeled=True) for prior in (0.0, 0.5, 1.0)
    )
    assert none_hides > half_hides > all_hide >= without - 1e-4


def test_a_particle_of_less_weight_costs_less() -> None:
    sure, unsure = (
        loss(maps([(40, 30, POSITIVE), (90, 30, POSITIVE)], weight=np.array(w, np.float32)), given)
        for w, given in (((1.0, 1.0), answers()), ((1.0, 0.1), answers()))
    )
    row, column = (int(v) for v in np.rint(to_output(np.array([[40, 30]])))[0][::-1])
    found = answers()
    found[0, row, column, PARTICLE] = 6
    assert loss(maps([(40, 30, POSITIVE), (90, 30, POSITIVE)], weight=np.array((1.0, 0.1), np.float32)), found) < unsure
    assert sure == pytest.approx(unsure, rel=0.2)  # per particle: the number that it is divided by shrinks too


def test_junk_is_learned_only_where_it_is_known() -> None:
    junk = np.full((16, 32), 255, np.uint8)
    junk[:8] = 1
    made = maps([], junk=junk)
    assert made[:8, :, t.JUNK_TRUE].all()
    assert not made[8:, :, t.JUNK_KNOWN].any()
    right, wrong = answers(), answers()
    right[0, :8, :, 4], wrong[0, :8, :, 4] = 5, -5
    assert loss(made, right) < loss(made, wrong) - 5
    other = right.copy()
    other[0, 8:, :, 4] = 9
    assert loss(made, other) == pytest.approx(loss(made, right), abs=1e-5)
