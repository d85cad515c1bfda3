"""Thresholds of projects: each has its own, small ones do not pay for large ones, and particles are not lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from cryoflow.preparation.calibration import MINIMUM_KEPT, Calibration, Curve, Goal, fit_project, fit_temperature
from cryoflow.preparation.class_prior import estimate_class_prior
from cryoflow.preparation.score_metrics import calibration_error
from cryoflow.unpicker.decision import decision_for
from cryoflow.unpicker.operating_point import OperatingPoint, decide


def project(rng, n, *, shift=0.0, separation=4.0, share=0.5):
    """Logits of labeled picks of one project, whose logits are all shifted."""
    positive = rng.random(n) < share
    logits = rng.normal(np.where(positive, separation / 2, -separation / 2), 1.0) + shift
    return logits, np.where(positive, 1, -1).astype(np.int8)


def two_projects(seed=0, n_small=60, **small):
    """A large project, and a small one whose particles score lower."""
    rng = np.random.default_rng(seed)
    large, small_ = project(rng, 3000), project(rng, n_small, **({"shift": -2.0} | small))
    logits, labels = (np.concatenate(pair) for pair in zip(large, small_, strict=True))
    names = np.repeat(["large", "small"], [3000, n_small])
    return logits, labels, names, np.arange(len(logits)) // 20


def kept_share(point, logits, labels):
    kept = point.calibration.probabilities(logits) >= point.threshold
    return kept[labels == 1].mean()


@pytest.mark.parametrize(
    ("goal", "told"),
    [
        (Goal(precision=0.99), "P1: a precision of at least 0.99 cannot be reached; 1 of 4 picks are kept, at an "),
        (Goal(keep=10_000), "P1: 10000 picks cannot be kept; 4 of 4 picks are kept"),
        (Goal(precision=0.8), ""),
        (Goal(keep=2), ""),
        (Goal(), ""),
    ],
)
def test_a_goal_that_cannot_be_reached_is_told_for_its_project(goal, told):
    decision = decision_for("P1", None, np.array([0.9, 0.6, 0.4, 0.1]), goal)
    assert decision.shortfall.startswith(told)
    assert bool(decision.shortfall) == bool(told)


@pytest.mark.parametrize("n_small", [20, 60, 200])
def test_a_small_project_keeps_its_particles_though_they_score_lower(n_small):
    logits, labels, names, micrograph = two_projects(n_small=n_small)
    decided = decide(logits, labels, names, micrograph, goal=Goal(), at_most=0.6)
    small = names == "small"
    assert kept_share(decided.pooled, logits[small], labels[small]) < 0.8  # one threshold for both would lose them
    for name in ("large", "small"):
        mine = names == name
        assert kept_share(decided.projects[name], logits[mine], labels[mine]) >= MINIMUM_KEPT


@pytest.mark.parametrize("separation", [0.5, 1.5])
def test_where_nothing_separates_particles_the_default_keeps_them_unless_precision_is_asked_for(separation):
    logits, labels, names, micrograph = two_projects(n_small=300, shift=0.0, separation=separation, share=0.2)
    small = names == "small"

    def share(goal):
        decided = decide(logits, labels, names, micrograph, goal=goal, at_most=0.6)
        return kept_share(decided.projects["small"], logits[small], labels[small])

    assert share(Goal()) >= MINIMUM_KEPT
    assert share(Goal(precision=0.9)) < 0.5


def test_the_calibration_of_a_project_is_shrunk_the_more_the_fewer_its_labels():
    rng = np.random.default_rng(1)
    pooled = Calibration(1.0, 0.0)
    assert fit_project(np.zeros(0), np.zeros(0, np.int8), pooled) == pooled
    few = fit_project(rng.normal(0, 2, 10), np.ones(10, np.int8), pooled)
    assert 0 < few.bias < 2.5  # ten positives alone would be fitted best by an infinite one
    logits = rng.normal(0, 2, 10_000)
    labels = np.where(rng.random(10_000) < expit(logits + 1.0), 1, -1).astype(np.int8)
    assert fit_project(logits, labels, pooled).bias == pytest.approx(1.0, abs=0.1)


def test_probabilities_of_each_project_are_honest():
    logits, labels, names, micrograph = two_projects(n_small=1000)
    decided = decide(logits, labels, names, micrograph, goal=Goal(), at_most=0.6)
    mine = names == "small"
    own = calibration_error(labels[mine] == 1, decided.projects["small"].calibration.probabilities(logits[mine]))
    pooled = calibration_error(labels[mine] == 1, decided.pooled.calibration.probabilities(logits[mine]))
    assert own < 0.05 < pooled


def test_without_labels_the_threshold_maximizes_the_f1_that_calibrated_scores_let_expect():
    rng = np.random.default_rng(2)
    p = rng.beta(0.4, 0.6, 20_000)
    positive = rng.random(len(p)) < p
    decision = decision_for("new", None, p, Goal())
    assert decision.source == "expected F1"
    kept = p >= decision.threshold
    assert (kept & positive).sum() / positive.sum() >= MINIMUM_KEPT - 0.01
    unguarded = Curve.expected(p).choose(Goal(), minimum_kept=0.0)
    f1 = {t: 2 * (positive & (p >= t)).sum() / ((p >= t).sum() + positive.sum()) for t in np.linspace(0.05, 0.95, 37)}
    at = 2 * (positive & (p >= unguarded.probability)).sum() / ((p >= unguarded.probability).sum() + positive.sum())
    assert at >= max(f1.values()) - 0.01


def test_a_decision_names_a_looser_and_a_stricter_alternative():
    logits, labels, names, micrograph = two_projects()
    point = decide(logits, labels, names, micrograph, goal=Goal(), at_most=0.6).projects["large"]
    p = point.calibration.probabilities(logits[names == "large"])
    decision = decision_for("large", point, p, Goal())
    assert decision.source == "validation micrographs"
    assert decision.looser[0] <= decision.threshold <= decision.stricter[0]
    assert decision.looser[1] >= decision.n_kept >= decision.stricter[1]
    for threshold, n in (decision.looser, decision.stricter):
        assert n == (p >= threshold).sum()
    rows = point.alternatives()
    assert rows["looser"][3] >= rows["chosen"][3] >= rows["stricter"][3]
    assert rows["stricter"][2] >= rows["chosen"][2]


def test_an_operating_point_is_written_and_read_again():
    logits, labels, names, micrograph = two_projects()
    point = decide(logits, labels, names, micrograph, goal=Goal(), at_most=0.6).projects["small"]
    values = point.to_json()
    values["curve"] = [list(row) for row in point.curve]
    assert OperatingPoint.from_json(values) == point
    for bad in ({**values, "more": 1}, {**values, "threshold": "0.5"}, {**values, "curve": "x"}):
        with pytest.raises(ValueError, match="operating point"):
            OperatingPoint.from_json(bad)
    assert replace(point, curve=()).alternatives() == {}


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4, 0.6])
@pytest.mark.parametrize("separation", [2.5, 4.0])
def test_the_class_prior_is_found_from_5_to_60_percent(share, separation):
    found, within = [], 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        hidden = rng.random(600) < share
        unlabeled = rng.normal(np.where(hidden, separation / 2, -separation / 2), 1.0)
        scores = np.concatenate([rng.normal(separation / 2, 1.0, 300), unlabeled])
        labels = np.repeat(np.array([1, 0], np.int8), [300, 600])
        prior = estimate_class_prior(scores, labels, at_most=0.6)
        assert 0 <= prior.low <= prior.value <= prior.high <= 0.6
        found.append(prior.value)
        within += prior.low - 0.02 <= min(hidden.mean(), 0.6) <= prior.high + 0.02
    assert np.mean(found) == pytest.approx(share, abs=0.05)
    assert within >= 9


def test_each_project_has_a_class_prior_of_its_own_and_the_pooled_one_where_positives_are_few():
    rng = np.random.default_rng(0)
    parts = []
    for name, n, share in (("clean", 800, 0.05), ("dropped", 800, 0.5), ("tiny", 12, 0.5), ("full", 3, 1.0)):
        hidden = rng.random(n) < share
        n_positive = {"tiny": 3, "full": 50}.get(name, n // 2)
        logits = np.concatenate([rng.normal(2, 1, n_positive), rng.normal(np.where(hidden, 2, -2), 1)])
        labels = np.repeat(np.array([1, 0], np.int8), [n_positive, n])
        parts.append((logits, labels, np.repeat([name], n_positive + n)))
    logits, labels, names = (np.concatenate(p) for p in zip(*parts, strict=True))
    points = decide(logits, labels, names, np.arange(len(logits)) // 10, goal=Goal(), at_most=0.6).projects
    assert points["clean"].class_prior == pytest.approx(0.05, abs=0.04)
    assert points["dropped"].class_prior == pytest.approx(0.5, abs=0.1)
    for name in ("tiny", "full"):  # three picks of either kind show nothing
        assert points["clean"].class_prior < points[name].class_prior < points["dropped"].class_prior
    assert points["dropped"].class_prior_low < points["dropped"].class_prior_high


def test_one_temperature_serves_where_projects_are_alike():
    logits, labels, names, micrograph = two_projects(n_small=1000, shift=0.0)
    decided = decide(logits, labels, names, micrograph, goal=Goal(), at_most=0.6)
    pooled = fit_temperature(logits, labels)
    for point in decided.projects.values():
        assert point.temperature == pytest.approx(pooled.temperature, rel=0.15)
        assert point.bias == pytest.approx(0, abs=0.3)
