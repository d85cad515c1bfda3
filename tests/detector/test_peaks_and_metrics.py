"""From maps to picks, and from picks to figures."""

from __future__ import annotations

import numpy as np
import pytest

from cryoflow.detector.calibrate import (
    LISTED_PROBABILITY,
    SPREAD_OF_OFFSETS,
    best_threshold,
    expected_f1_threshold,
    fit_calibration,
)
from cryoflow.detector.network import JUNK, LOG_SIZE, OFFSET_X, OFFSET_Y, PARTICLE
from cryoflow.detector.peaks import apart, find_peaks, logits_at
from cryoflow.detector.pick_metrics import HIT, IGNORED, MISS, ScoredDetections, figures, macro, match_outcomes
from cryoflow.preparation.calibration import Calibration


def answers(points: list[tuple[int, int, float, float, float]], shape: tuple[int, int] = (20, 30)) -> np.ndarray:
    made = np.zeros((*shape, 5), np.float32)
    made[..., PARTICLE] = -9
    for row, column, logit, dx, dy in points:
        made[row, column, [PARTICLE, OFFSET_X, OFFSET_Y]] = logit, dx, dy
    return made


def test_peaks_are_moved_by_their_offsets_and_sorted() -> None:
    peaks = find_peaks(answers([(5, 20, 1.0, 0.25, -0.5), (12, 7, 3.0, 0, 0)]), 24.0)
    np.testing.assert_allclose(peaks.logit, [3, 1])
    np.testing.assert_allclose(peaks.xy_px, [(7 * 4 + 1.5, 12 * 4 + 1.5), (20.25 * 4 + 1.5, 4.5 * 4 + 1.5)])


def test_of_two_peaks_too_close_together_the_better_one_stays() -> None:
    peaks = find_peaks(answers([(5, 5, 1.0, 0, 0), (5, 7, 2.0, 0, 0), (5, 14, 0.5, 0, 0)]), 24.0)
    np.testing.assert_allclose(peaks.logit, [2, 0.5])
    keep = apart(np.array([(0, 0), (3, 0), (6, 0)], float), 4)
    assert keep.tolist() == [True, False, True]


def test_peaks_in_the_padding_are_dropped_and_size_and_junk_go_with_their_peak() -> None:
    made = answers([(5, 5, 1.0, 0, 0), (5, 29, 2.0, 0, 0)])
    made[5, 5, [LOG_SIZE, JUNK]] = 0.3, -2
    peaks = find_peaks(made, 24.0, shape_yx=(80, 110))
    assert len(peaks) == 1
    assert (peaks.log_size[0], peaks.junk[0]) == (pytest.approx(0.3), pytest.approx(-2))


def test_a_given_pick_gets_the_best_logit_near_it() -> None:
    made = answers([(5, 20, 2.0, 0, 0)])
    at = np.array([(20 * 4 + 1.5, 5 * 4 + 1.5), (20 * 4 + 5, 5 * 4 + 1.5), (20 * 4 + 30, 5 * 4), (-50, 900)], float)
    logit = logits_at(made, at, 24.0)
    np.testing.assert_allclose(logit, [2, 2, -9, -9])


def scored(xy: list[tuple[float, float]], score: list[float], true: list, ignored: list = ()) -> ScoredDetections:
    as_xy = lambda v: np.array(list(v), float).reshape(-1, 2)  # noqa: E731
    return ScoredDetections(as_xy(xy), np.array(score, float), as_xy(true), as_xy(ignored), 10.0)


def test_one_pick_a_particle_the_best_first() -> None:
    one = scored([(0, 0), (2, 0), (30, 0)], [0.5, 0.9, 0.7], [(1, 0)])
    assert match_outcomes(one, 0.5).tolist() == [MISS, HIT, MISS]
    assert match_outcomes(one, 0.05).tolist() == [MISS, MISS, MISS]


def test_picks_on_places_where_experts_differ_count_neither_way() -> None:
    one = scored([(0, 0), (20, 0)], [0.5, 0.9], [(0, 0)], [(21, 0)])
    assert match_outcomes(one, 0.5).tolist() == [HIT, IGNORED]
    found = figures([one], 0.5, 0.4)
    assert (found.precision, found.recall, found.average_precision, found.n_picks) == (1, 1, 1, 1)


def test_average_precision_of_a_known_ranking() -> None:
    one = scored([(0, 0), (50, 0), (100, 0), (150, 0)], [0.9, 0.8, 0.7, 0.6], [(0, 0), (100, 0)])
    found = figures([one], 0.5, 0.65)
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), 1)
    assert found.best_f1 == pytest.approx(0.8)


def test_a_micrograph_without_particles_counts() -> None:
    busy, empty = scored([(0, 0)], [0.9], [(0, 0)]), scored([(0, 0)], [0.95], [])
    assert figures([busy], 0.5, 0.5).precision == 1
    assert figures([busy, empty], 0.5, 0.5).precision == 0.5
    assert macro([figures([busy], 0.5, 0.5), figures([empty], 0.5, 0.5)])["average_precision"] == 1


def test_calibration_is_recovered_and_the_threshold_is_near_the_best() -> None:
    rng = np.random.default_rng(0)
    true_p = rng.beta(0.5, 0.7, 20000)
    hit = rng.random(len(true_p)) < true_p
    logit = 0.5 * (np.log(true_p / (1 - true_p)) - 1.2)
    fitted = fit_calibration(logit, hit)
    assert fitted.temperature == pytest.approx(0.5, rel=0.05)
    assert fitted.bias == pytest.approx(1.2, abs=0.08)
    p = fitted.probabilities(logit)
    threshold, promised = expected_f1_threshold(p)
    order = np.argsort(-p)
    f1 = 2 * np.cumsum(hit[order]) / (np.arange(1, len(p) + 1) + hit.sum())
    kept = p >= threshold
    reached = 2 * hit[kept].sum() / (kept.sum() + hit.sum())
    assert reached > f1.max() - 0.005
    assert promised == pytest.approx(reached, abs=0.02)


def test_the_threshold_of_one_specimen_allows_for_a_common_error_of_its_probabilities() -> None:
    rng = np.random.default_rng(3)
    gained = []
    for _ in range(200):
        hit = rng.random(400) < 0.4
        logit = 2 * np.where(hit, 1, -1) + rng.normal(0, 2, 400)
        p = 1 / (1 + np.exp(-(logit + rng.normal(0, SPREAD_OF_OFFSETS))))
        kept = [p >= derive(p)[0] for derive in (best_threshold, expected_f1_threshold)]
        f1 = [2 * hit[k].sum() / (k.sum() + hit.sum()) for k in kept]
        gained.append(f1[0] - f1[1])
    assert np.mean(gained) > 0.01


def test_the_promised_f1_is_that_of_the_probabilities_and_the_threshold_of_listed_ones() -> None:
    threshold, promised = best_threshold([0.9, 0.8, 0.1])
    assert 0.1 < threshold <= 0.8
    assert promised == pytest.approx(2 * 1.7 / (2 + 1.8))
    assert best_threshold(np.full(1000, 0.01)) == (LISTED_PROBABILITY, 0.0)


def test_thresholds_of_nothing_and_calibration_of_one_kind() -> None:
    assert expected_f1_threshold([]) == best_threshold([]) == (0.5, 0.0)
    assert fit_calibration(np.ones(3), np.ones(3, bool)) == Calibration()


def test_the_calibration_of_a_few_peaks_without_an_error_is_not_certain() -> None:
    logit = np.array([-4, -3.5, -3, -2.5, -1, -0.5, 0, 0.5])
    p = fit_calibration(logit, logit > -2).probabilities(logit)
    assert 0.001 < p.min() < 0.2
    assert 0.8 < p.max() < 0.999
