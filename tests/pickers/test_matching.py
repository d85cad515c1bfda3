"""Matching, comparing and agreeing."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.comparing.compare import average_precision, compare
from cryoflow.pickers.comparing.consensus import consensus, labels_by_agreement
from cryoflow.pickers.comparing.evaluate import per_micrograph, table_of, write_evaluation
from cryoflow.pickers.comparing.matching import match_picks, without_duplicates
from cryoflow.pickers.training_sets.names import match_names
from cryoflow.picks import Kind, PickSet

points = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=5)


@settings(max_examples=150, deadline=None)
@given(points, points, st.sampled_from([1.5, 3.0, 6.0]))
def test_optimal_finds_most_pairs_at_least_distance(reference, picks, radius):
    found = match_picks(reference, picks, radius)
    small, large = sorted((np.array(reference, float).reshape(-1, 2), np.array(picks, float).reshape(-1, 2)), key=len)
    best = (0, 0.0)
    for order in permutations(range(len(large)), len(small)):
        distance = np.linalg.norm(small - large[list(order)], axis=1)
        near = distance <= radius
        best = max(best, (int(near.sum()), -float(distance[near].sum())))
    assert len(found.pick) == best[0]
    assert found.distance_px.sum() == pytest.approx(-best[1])
    assert len(set(found.pick)) == len(set(found.reference)) == len(found.pick)


@settings(max_examples=100, deadline=None)
@given(points, points)
def test_greedy_is_one_to_one_within_the_radius_and_never_better(reference, picks):
    greedy, optimal = (match_picks(reference, picks, 3.0, method=m) for m in ("greedy", "optimal"))
    assert len(greedy.pick) <= len(optimal.pick)
    assert (greedy.distance_px <= 3.0).all()
    assert len(set(greedy.pick)) == len(set(greedy.reference)) == len(greedy.pick)


def test_greedy_loses_a_pair_that_optimal_finds():
    reference, picks = [[0, 0], [4, 0]], [[3, 0], [7, 0]]
    assert len(match_picks(reference, picks, 3, method="greedy").pick) == 1
    assert len(match_picks(reference, picks, 3).pick) == 2


def test_duplicates_keep_the_first():
    xy = np.array([[0, 0], [1, 0], [2, 0], [9, 9]], float)
    assert without_duplicates(xy, 1.5).tolist() == [True, False, True, True]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30), st.integers(0, 5))
def test_average_precision_agrees_with_scikit_learn(rows, missed):
    right = np.array([r for r, _ in rows])
    score = np.array([float(s) for _, s in rows])
    n_reference = int(right.sum()) + missed
    if right.sum() == 0:
        return
    area, _ = average_precision(right, score, n_reference)
    assert area == pytest.approx(average_precision_score(right, score) * right.sum() / n_reference)


def _picker(entry: PickSet, name: str, rng, *, miss=0.2, wrong=30, jitter=2.0) -> PickSet:
    keep = rng.random(len(entry)) > miss
    right = entry.picks[keep].assign(score=rng.normal(2, 1, int(keep.sum())))
    right[["x_px", "y_px"]] += rng.normal(0, jitter, (len(right), 2))
    junk = pd.DataFrame(
        {
            "micrograph": rng.integers(0, len(entry.micrographs), wrong).astype(np.int32),
            "x_px": rng.uniform(0, 575, wrong),
            "y_px": rng.uniform(0, 383, wrong),
            "score": rng.normal(0, 1, wrong),
        }
    )
    where = replace(entry.provenance, program="picker", job=name, kind=Kind.AUTO_PICK)
    return PickSet.build(where, entry.micrographs, pd.concat([right, junk]), diameter_A=entry.diameter_A)


def test_comparison_counts_what_is_right_and_where(make_entry):
    entry = make_entry()
    rng = np.random.default_rng(0)
    found = compare(_picker(entry, "a", rng), entry)
    assert found.n_reference == len(entry)
    assert 0.7 < found.recall < 0.9
    assert found.precision == pytest.approx(found.n_matched / found.n_picks)
    assert found.f1 == pytest.approx(2 * found.precision * found.recall / (found.precision + found.recall))
    assert found.recall * 0.6 < found.average_precision < found.recall
    assert 4 < found.localisation_error_A < 20  # 2 px of 4 A in x and y
    assert sum(m.n_matched for m in found.micrographs) == found.n_matched
    assert compare(entry, entry).f1 == 1.0
    assert compare(entry, entry).localisation_error_A == 0


def test_comparison_in_angstrom_joins_other_pixel_sizes_and_other_programs_names(make_entry):
    entry = make_entry()
    names = [f"J2/motioncorrected/{i:021d}_mic_{i}_patch_aligned_doseweighted.mrc" for i in range(6)]
    half = entry.micrographs.assign(name=names, path=None, pixel_size_A=8.0, ny=192, nx=288)
    binned = PickSet.build(
        entry.provenance, half, entry.picks.assign(x_px=entry.picks["x_px"] / 2, y_px=entry.picks["y_px"] / 2)
    )
    found = compare(binned, entry)
    assert (found.precision, found.recall) == (1.0, 1.0)
    other = replace(binned, micrographs=half.assign(name=[f"zzz{i}" for i in range(6)]))
    with pytest.raises(BadInput, match="in common"):
        compare(other, entry)
    with pytest.raises(MissingMetadata, match="diameter"):
        compare(replace(entry, diameter_A=None), replace(entry, diameter_A=None))


def test_several_pickers_in_one_table_and_one_figure(make_entry, tmp_path):
    entry = make_entry()
    rng = np.random.default_rng(1)
    good, bad = _picker(entry, "good", rng, miss=0.1, wrong=5), _picker(entry, "bad", rng, miss=0.5, wrong=80)
    comparisons = [compare(p, entry) for p in (bad, good)]
    table = table_of(comparisons)
    assert table["entry"].tolist() == ["P12/AutoPick_good", "P12/AutoPick_bad"]
    assert len(per_micrograph(comparisons)) == 2 * len(entry.micrographs)
    files = list(write_evaluation(comparisons, "P12/Homo_J51", tmp_path))
    assert [f.name for f in files] == ["evaluation.tsv", "micrographs.tsv", "evaluation.png"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(files[0], sep="\t")["f1"][0] == pytest.approx(table["f1"][0], rel=1e-5)


def test_consensus_of_two_is_more_precise_than_either_and_the_union_finds_more(make_entry):
    entry = make_entry()
    rng = np.random.default_rng(2)
    sets = [_picker(entry, n, rng) for n in "abc"]
    both = consensus(sets, at_least=2, name="agreed")
    union = consensus(sets, at_least=1)
    assert both.provenance.entry_name == "Consensus_agreed"
    assert union.provenance.entry_name == "Consensus_a_b_c"
    of_one_job = consensus([entry, replace(sets[0], provenance=replace(sets[0].provenance, job="J51"))])
    assert of_one_job.provenance.entry_name == "Consensus_Homo_J51_AutoPick_J51"
    assert compare(both, entry).precision > max(compare(s, entry).precision for s in sets) + 0.1
    assert compare(union, entry).recall > max(compare(s, entry).recall for s in sets)
    assert set(both.picks["score"]) == {2.0, 3.0}
    assert len(consensus(sets, at_least=3)) < len(both) < len(union)
    assert both.picks.equals(consensus(sets, at_least=2, name="agreed").picks)
    with pytest.raises(BadInput, match="cannot agree"):
        consensus(sets, at_least=4)


def test_labels_by_agreement_are_sure_particles_and_keep_the_disagreement_as_unlabeled(make_entry):
    entry = make_entry()
    rng = np.random.default_rng(2)
    sets = [_picker(entry, n, rng) for n in "abc"]
    labels = labels_by_agreement(sets, at_least=2, name="agreed")
    union, both = consensus(sets, at_least=1), consensus(sets, at_least=2)
    assert len(labels) == len(union)  # no pick is dropped
    positive = labels.where(labels.picks["label"].to_numpy() == 1)
    unlabeled = labels.where(labels.picks["label"].to_numpy() == 0)
    assert 0 < len(positive) <= len(both)
    assert compare(positive, entry).precision >= compare(both, entry).precision
    assert len(positive) + len(unlabeled) == len(labels)
    # A pick that pickers score highly is surer than one of low scores: the scores are not dropped.
    assert compare(positive, entry).recall > 0.7
    assert unlabeled.picks["score"].mean() < positive.picks["score"].mean() - 0.2


def test_agreement_on_picks_of_low_scores_is_not_a_label(make_entry):
    entry = make_entry()
    rng = np.random.default_rng(3)
    sets = [_picker(entry, n, rng, wrong=400, jitter=1.0) for n in "ab"]
    same = pd.DataFrame({"micrograph": np.zeros(1, np.int32), "x_px": [300.0], "y_px": [5.0], "score": [-9.0]})
    sets = [
        PickSet.build(s.provenance, s.micrographs, pd.concat([s.picks, same]), diameter_A=s.diameter_A) for s in sets
    ]
    labels = labels_by_agreement(sets, at_least=2)
    at = labels.picks[(labels.picks["x_px"] == 300) & (labels.picks["y_px"] == 5)]
    assert at["label"].tolist() == [0]
    assert 5.0 in consensus(sets, at_least=2).picks["y_px"].tolist()


def test_names_are_found_from_strict_to_forgiving_and_never_guessed():
    theirs = ["MotionCorr/job002/Movies/a.mrc", "MotionCorr/job002/Movies/b_DW.mrc", "x/c.mrc", "y/c.mrc"]
    match = match_names(["MotionCorr/job002/Movies/a.mrc", "mics/b.mrc", "c.mrc"], theirs)
    assert match.index.tolist() == [0, 1, -1]
    assert match.how == {"exact": 1, "stem without uid": 1}
    assert match_names(["q/c.mrc", "y/c.mrc"], theirs).index.tolist() == [2, 3]


def test_an_entry_does_not_agree_with_itself(make_entry):
    entry = make_entry()
    with pytest.raises(BadInput, match="named twice"):
        consensus([entry, entry])


@pytest.mark.parametrize(("radius", "diameter_A"), [(0, 100), (-1, 100), (float("nan"), 100), (0.25, -5)])
def test_a_radius_that_cannot_be_is_a_clear_error(make_entry, radius, diameter_A):
    entry, other = make_entry(), make_entry(job="J60")
    with pytest.raises(BadInput, match="above 0"):
        compare(entry, other, radius=radius, diameter_A=diameter_A)
    with pytest.raises(BadInput, match="above 0"):
        consensus([entry, other], radius=radius, diameter_A=diameter_A)


def test_micrographs_to_count_may_be_named_as_either_project_does(make_entry):
    entry = make_entry(n=4, n_empty=0)
    named = [name.rpartition("/")[2] for name in entry.micrographs["name"]]
    picked = replace(entry, micrographs=entry.micrographs.assign(name=named))
    for only in (entry.micrographs["name"][:2], named[:2]):
        assert len(compare(picked, entry, only=frozenset(only)).micrographs) == 2
