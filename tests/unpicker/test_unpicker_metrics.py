import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cryoflow.preparation.calibration import Goal, choose_threshold, fit_temperature
from cryoflow.preparation.class_prior import class_weights, estimate_class_prior
from cryoflow.preparation.score_metrics import (
    Counts,
    average_precision,
    bootstrap,
    calibration_error,
    precision_recall,
    roc_auc,
)

scored = st.lists(st.tuples(st.booleans(), st.integers(0, 8)), min_size=2, max_size=60).filter(
    lambda pairs: len({right for right, _ in pairs}) == 2
)


@given(scored)
@settings(max_examples=80, deadline=None)
def test_ranking_measures_agree_with_scikit_learn(pairs):
    right = np.array([r for r, _ in pairs])
    scores = np.array([s for _, s in pairs], float)
    assert roc_auc(right, scores) == pytest.approx(roc_auc_score(right, scores))
    assert average_precision(right, scores) == pytest.approx(average_precision_score(right, scores))


@given(scored, st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_weights_are_the_same_as_repeating_picks(pairs, seed):
    right = np.array([r for r, _ in pairs])
    scores = np.array([s for _, s in pairs], float)
    times = np.random.default_rng(seed).integers(0, 4, len(pairs))
    times[[int(right.argmax()), int((~right).argmax())]] += 1
    again = np.repeat(np.arange(len(pairs)), times)
    for measure in (roc_auc, average_precision):
        assert measure(right, scores, times.astype(float)) == pytest.approx(measure(right[again], scores[again]))
    kept = scores > 4
    weighted, repeated = Counts.of(right, kept, times.astype(float)), Counts.of(right[again], kept[again])
    assert vars(weighted) == pytest.approx(vars(repeated))


def test_counts_of_a_known_decision():
    right = np.array([True, True, True, False, False])
    kept = np.array([True, True, False, True, False])
    counts = Counts.of(right, kept)
    assert (counts.true_positives, counts.false_positives, counts.false_negatives, counts.true_negatives) == (
        2,
        1,
        1,
        1,
    )
    assert counts.error == pytest.approx(0.4)
    assert counts.precision == counts.recall == counts.f1 == pytest.approx(2 / 3)


def test_measures_of_one_class_are_not_a_number():
    assert np.isnan(roc_auc(np.ones(3, bool), np.arange(3.0)))
    assert np.isnan(average_precision(np.zeros(0, bool), np.zeros(0)))


def test_precision_recall_has_one_point_for_each_different_score():
    precision, recall, thresholds = precision_recall(np.array([True, False, True]), np.array([0.9, 0.9, 0.1]))
    assert thresholds.tolist() == [0.9, 0.1]
    assert precision.tolist() == pytest.approx([0.5, 2 / 3])
    assert recall.tolist() == [0.5, 1.0]


def test_honest_probabilities_have_no_calibration_error_and_boastful_ones_have():
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    right = rng.random(len(p)) < p
    assert calibration_error(right, p) < 0.01
    assert calibration_error(right, np.where(p > 0.5, 0.99, 0.01)) > 0.2


def test_bootstrap_draws_whole_micrographs():
    # All picks of a micrograph are alike: its interval is that of 10 draws, not of 1,000.
    micrograph = np.repeat(np.arange(10), 100)
    value = (micrograph % 2).astype(float)
    interval = bootstrap(lambda w: float((w * value).sum() / w.sum()), micrograph, rounds=400)
    assert interval.value == 0.5
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(10), rel=0.25)
    assert bootstrap(lambda w: 1.0, np.zeros(5, int)).value == 1.0  # one micrograph has no interval
    assert np.isnan(bootstrap(lambda w: 1.0, np.zeros(5, int)).low)


def test_the_interval_of_the_calibration_error_holds_its_value():
    # The error of a draw with repeated picks is larger than that of the whole: plain quantiles would lie above it.
    rng = np.random.default_rng(3)
    probabilities = rng.random(600)
    right = rng.random(600) < probabilities
    interval = bootstrap(lambda w: calibration_error(right, probabilities, w), np.arange(600) // 50)
    assert 0 <= interval.low < interval.value < interval.high


def test_temperature_makes_boastful_logits_honest():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, 50_000)
    labels = np.where(rng.random(len(logits)) < 1 / (1 + np.exp(-logits)), 1, -1).astype(np.int8)
    assert fit_temperature(3 * logits, labels).temperature == pytest.approx(3, rel=0.05)
    assert fit_temperature(logits / 2, labels).temperature == pytest.approx(0.5, rel=0.05)
    assert fit_temperature(logits[labels == 1], labels[labels == 1]).temperature == 1.0


def test_temperature_heeds_the_right_picks_that_hide_among_the_unlabeled():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, 100_000)
    right = rng.random(len(logits)) < 1 / (1 + np.exp(-logits))
    hidden = right & (rng.random(len(logits)) < 0.3)
    labels = np.where(right & ~hidden, 1, 0).astype(np.int8)
    share = hidden.sum() / (labels == 0).sum()
    assert fit_temperature(2 * logits, labels, class_prior=share).temperature == pytest.approx(2, rel=0.1)
    assert fit_temperature(2 * logits, labels).temperature > 2.4


def test_class_weights_keep_the_number_of_picks():
    labels = np.array([1, 1, 1, -1, 0, 0, 0, 0], np.int8)
    as_right, as_wrong = class_weights(labels, 0.25)
    assert as_right.sum() == pytest.approx(3 + 0.25 * 4)
    assert as_wrong.sum() == pytest.approx(1 + 0.75 * 4)
    plain = class_weights(labels[:4], 0.25)
    assert plain[0].tolist() == [1, 1, 1, 0]
    assert plain[1].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(("wanted", "kept"), [(Goal(), 3), (Goal(precision=1.0), 2), (Goal(recall=1.0), 5)])
def test_threshold_gives_what_is_wanted(wanted, kept):
    p = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    labels = np.array([1, 1, -1, -1, 1, -1], np.int8)
    if wanted == Goal():
        labels = np.array([1, -1, 1, -1, -1, -1], np.int8)
    chosen = choose_threshold(p, labels, wanted)
    assert (p >= chosen.probability).sum() == kept
    assert chosen.reached


def test_a_precision_that_cannot_be_had_is_said():
    chosen = choose_threshold(np.array([0.9, 0.8]), np.array([-1, 1], np.int8), Goal(precision=0.9))
    assert not chosen.reached
    assert chosen.precision == pytest.approx(0.5)


def few_micrographs(rng, n_micrographs=4, n=30):
    """Scores whose best F1 lies anywhere between the two kinds; each micrograph has its own level."""
    labels = np.where(rng.random((n_micrographs, n)) < 0.5, 1, -1).astype(np.int8)
    logits = 4 * labels + rng.normal(0, 3, labels.shape) + rng.normal(0, 1, (n_micrographs, 1))
    micrograph = np.repeat(np.arange(n_micrographs), n)
    return 1 / (1 + np.exp(-logits.ravel())), labels.ravel(), micrograph


def test_the_threshold_of_few_micrographs_scatters_less_than_the_best_one_of_them():
    best, middle = [], []
    for seed in range(60):
        p, labels, micrograph = few_micrographs(np.random.default_rng(seed))
        best.append(choose_threshold(p, labels, Goal()).probability)
        middle.append(choose_threshold(p, labels, Goal(), micrograph=micrograph).probability)
    assert np.std(middle) < 0.85 * np.std(best)
    assert 0.3 < np.mean(middle) < 0.7


def test_a_threshold_from_the_plateau_loses_no_more_than_chance_allows():
    for seed in range(20):
        p, labels, micrograph = few_micrographs(np.random.default_rng(seed))
        best = choose_threshold(p, labels, Goal())
        middle = choose_threshold(p, labels, Goal(), micrograph=micrograph)
        f1 = [2 * c.precision * c.recall / (c.precision + c.recall) for c in (best, middle)]
        assert f1[0] - 0.03 - 1e-9 <= f1[1] <= f1[0] + 1e-9
        kept = p >= middle.probability
        assert middle.recall == pytest.approx((kept & (labels == 1)).sum() / (labels == 1).sum())
        assert middle.precision == pytest.approx((kept & (labels == 1)).sum() / kept.sum())


def test_a_wanted_precision_is_not_softened():
    p, labels, micrograph = few_micrographs(np.random.default_rng(0))
    wanted = Goal(precision=0.95)
    assert choose_threshold(p, labels, wanted, micrograph=micrograph) == choose_threshold(p, labels, wanted)


@pytest.mark.parametrize("hidden", [0.0, 0.1, 0.3])
def test_scores_bound_the_share_of_right_picks_among_those_not_known(hidden):
    rng = np.random.default_rng(1)
    found = []
    for _ in range(20):
        right = rng.random(300) < hidden
        scores = np.concatenate([rng.normal(3, 1, 200), rng.normal(np.where(right, 3, -1), 1)])
        labels = np.repeat(np.array([1, 0], np.int8), [200, 300])
        found.append(estimate_class_prior(scores, labels, at_most=1.0).value)
        assert estimate_class_prior(scores, labels, at_most=0.05).value <= 0.05
    assert hidden - 0.05 <= np.mean(found) <= hidden + 0.03
    assert estimate_class_prior(scores[:200], labels[:200], at_most=0.2).value == 0  # none is unknown
    assert estimate_class_prior(scores[200:], labels[200:], at_most=0.2).value == 0.2  # nothing to tell it from
