"""The gate lets a candidate pass only where nothing known gets worse and what is new gains."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cryoflow.models.gate import GateRule, MicrographCounts, Verdict, compare, f1


def counts(project: str, f1_value: float, n: int = 8) -> list[MicrographCounts]:
    """Micrographs of 100 reference picks and 100 picks, so that F1 is the matched share."""
    return [MicrographCounts(project, f"m{i}", 100, 100, round(100 * f1_value)) for i in range(n)]


def judged(before: dict[str, float], after: dict[str, float], known: set[str]) -> Verdict:
    return compare(
        [c for p, v in before.items() for c in counts(p, v)],
        [c for p, v in after.items() for c in counts(p, v)],
        known_projects=known,
    )


def test_a_candidate_that_keeps_the_old_and_gains_the_new_passes() -> None:
    verdict = judged({"A": 0.90, "B": 0.80, "N": 0.40}, {"A": 0.90, "B": 0.79, "N": 0.70}, {"A", "B"})
    assert verdict.accepted
    assert any("N is new: F1 0.400 -> 0.700" in reason for reason in verdict.reasons)


def test_a_first_version_is_told_without_one_before_it() -> None:
    assert judged({"N": 0.0}, {"N": 0.95}, set()).reasons == ("N is new: F1 0.950",)
    assert judged({"A": 0.9, "N": 0.0}, {"A": 0.9, "N": 0.95}, {"A"}).reasons[1] == "N is new: F1 0.000 -> 0.950"


def test_the_mean_of_known_projects_may_fall_by_a_hundredth_and_no_more() -> None:
    assert judged({"A": 0.90, "B": 0.90, "N": 0.4}, {"A": 0.89, "B": 0.89, "N": 0.7}, {"A", "B"}).accepted
    verdict = judged({"A": 0.90, "B": 0.90, "N": 0.4}, {"A": 0.88, "B": 0.88, "N": 0.7}, {"A", "B"})
    assert not verdict.accepted
    assert "mean F1 of 2 known projects changes by -0.020" in verdict.reasons[0]


def test_one_project_that_falls_is_refused_although_the_mean_gains() -> None:
    verdict = judged({"A": 0.90, "B": 0.80, "N": 0.4}, {"A": 0.86, "B": 0.95, "N": 0.7}, {"A", "B"})
    assert not verdict.accepted
    assert verdict.reasons[0].startswith("A: F1 0.900 -> 0.860")


def test_new_projects_that_do_not_gain_are_refused() -> None:
    verdict = judged({"A": 0.90, "N": 0.70}, {"A": 0.95, "N": 0.70}, {"A"})
    assert not verdict.accepted
    assert "do not gain" in verdict.reasons[0]


def test_where_nothing_is_new_the_known_must_not_lose() -> None:
    assert judged({"A": 0.90}, {"A": 0.90}, {"A"}).accepted
    verdict = judged({"A": 0.90}, {"A": 0.89}, {"A"})
    assert not verdict.accepted
    assert verdict.reasons == ("nothing is new, and the known projects do not gain",)


def test_versions_scored_on_different_micrographs_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same micrographs"):
        compare(counts("A", 0.9), counts("A", 0.9, n=7), known_projects={"A"})


def test_f1_of_a_project_counts_picks_and_not_micrographs() -> None:
    assert f1(np.array([[1.0, 1.0, 1.0], [99.0, 99.0, 0.0]])) == pytest.approx(0.01)
    assert f1(np.zeros((3, 3))) == 1.0
    assert f1(np.array([[0.0, 10.0, 0.0]])) == 0.0


def test_the_interval_is_paired_and_covers_the_true_change() -> None:
    random = np.random.default_rng(3)
    covered = 0
    for seed in range(60):
        hard = random.uniform(0.3, 0.9, 40)  # micrographs differ much, both versions alike
        old = [MicrographCounts("A", f"{i:02d}", 100, 100, random.binomial(100, h)) for i, h in enumerate(hard)]
        new = [MicrographCounts("A", f"{i:02d}", 100, 100, random.binomial(100, h + 0.05)) for i, h in enumerate(hard)]
        (change,) = compare(old, new, known_projects={"A"}, seed=seed).changes
        covered += change.low <= 0.05 <= change.high
        assert change.high - change.low < 0.06  # the spread of the micrographs themselves is 0.17
    assert covered >= 50


def test_the_limits_are_those_of_the_rule() -> None:
    before, after = counts("A", 0.90) + counts("N", 0.4), counts("A", 0.85) + counts("N", 0.5)
    assert not compare(before, after, known_projects={"A"}).accepted
    assert compare(before, after, known_projects={"A"}, rule=GateRule(0.1, 0.1)).accepted


def agreeing(project: str, share: float) -> list[MicrographCounts]:
    return [MicrographCounts(project, f"m{i}", 100, 100, 90, 100, round(100 * share)) for i in range(8)]


def test_a_candidate_whose_picks_the_unpicker_holds_for_no_particles_is_refused() -> None:
    def verdict(a: float, b: float) -> Verdict:
        before = [*agreeing("A", 0.90), *agreeing("B", 0.90), *counts("N", 0.4)]
        after = [*agreeing("A", a), *agreeing("B", b), *counts("N", 0.7)]
        return compare(before, after, known_projects={"A", "B"})

    assert verdict(0.89, 0.89).accepted
    assert verdict(0.88, 0.88).reasons[0].startswith("mean agreement with the un-picker on 2 known projects changes by")
    assert verdict(0.86, 0.95).reasons == (
        "A: agreement with the un-picker 0.900 -> 0.860; a fall of at most 0.03 is allowed",
    )


def test_complete_projects_and_new_ones_need_no_agreement() -> None:
    before = [*counts("A", 0.9), *agreeing("N", 0.9)]
    after = [*counts("A", 0.9), *[*agreeing("N", 0.2)]]
    after = [replace(c, n_matched=95) if c.project == "N" else c for c in after]
    assert compare(before, after, known_projects={"A"}).accepted
