"""Picks that stand for one particle several times are one, and are counted."""

from __future__ import annotations

import numpy as np
import pytest
from cryosparc_projects import write_cryosparc_project
from hypothesis import given, settings
from hypothesis import strategies as st
from projects_cryosparc_dataset import small_dataset

from cryoflow.formats.cs import read_cs, write_cs
from cryoflow.projects.cryosparc import find_jobs, read_job, recognize
from cryoflow.projects.duplicates import distance_px, fold_duplicates


def folded(micrograph, xy, closest_px, score=None):
    columns = {"micrograph": np.array(micrograph, np.int32), "row": np.arange(len(xy))}
    columns["x_px"], columns["y_px"] = np.reshape(np.array(xy, float), (-1, 2)).T
    if score is not None:
        columns["score"] = np.array(score, float)
    n = fold_duplicates(columns, closest_px)
    assert n == len(xy) - len(columns["row"])
    return columns["row"].tolist()


def test_of_two_picks_that_are_closer_than_the_distance_the_first_or_the_better_is_kept():
    assert folded([0, 0, 0], [(10, 10), (13, 14), (30, 30)], 5.1) == [0, 2]
    assert folded([0, 0, 0], [(10, 10), (13, 14), (30, 30)], 4.9) == [0, 1, 2]
    assert folded([0, 0, 0], [(10, 10), (13, 14), (30, 30)], 5.1, [0.1, 0.2, np.nan]) == [1, 2]
    assert folded([0, 1], [(10, 10), (10, 10)], 5) == [0, 1]  # on two micrographs


def test_positions_that_are_no_numbers_are_left_for_whoever_counts_them():
    assert folded([0] * 5, [(np.nan, 1), (np.nan, 1), (np.inf, 1), (1e308, 1), (-1e308, 1)], 2) == [0, 1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 60), st.booleans(), st.booleans())
def test_what_is_left_is_apart_and_what_went_was_close_to_something(seed, closest_px, has_scores, is_sorted):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 300))
    xy = np.round(rng.uniform(-20, 200, (n, 2)), int(rng.integers(0, 3)))
    micrograph = rng.integers(0, 3, n)
    if is_sorted:
        micrograph.sort()
    kept = folded(micrograph, xy, closest_px, rng.random(n) if has_scores else None)
    near = np.linalg.norm(xy[:, None] - xy[None], axis=2) < closest_px
    near &= micrograph[:, None] == micrograph[None]
    np.fill_diagonal(near, False)
    assert not near[np.ix_(kept, kept)].any()
    gone = np.setdiff1d(np.arange(n), kept)
    assert near[gone].any(axis=1).all()


def test_the_distance_is_a_tenth_of_the_diameter_or_a_twentieth_of_the_box():
    sizes = np.array([1.0, 1.0])
    assert distance_px(150.0, sizes, 300.0, is_helical=False) == pytest.approx(15)
    assert distance_px(None, sizes, 300.0, is_helical=False) == pytest.approx(15)
    assert distance_px(150.0, np.array([np.nan]), None, is_helical=False) == 1.0
    assert distance_px(150.0, sizes, 300.0, is_helical=True) == 0.1


@pytest.mark.parametrize("has_source", [True, False])
def test_symmetry_copies_whose_shifts_differ_a_little_are_one_particle(tmp_path, has_source):
    folder = write_cryosparc_project(tmp_path / "P", small_dataset(tmp_path / "raw"), symmetry_copies=12)
    for path in (folder / "J13").glob("*.cs"):
        columns = read_cs(path)
        rng = np.random.default_rng(1)
        if "alignments3D/shift" in columns:
            columns["alignments3D/shift"] = columns["alignments3D/shift"] + rng.normal(0, 0.1, (len(columns["uid"]), 2))
        if not has_source:  # a later job did not hand it on
            columns.pop("sym_expand/src_uid", None)
        write_cs(path, {name: np.asarray(values) for name, values in columns.items()})
    jobs = {job.job: job for job in find_jobs(recognize(folder, {p.name for p in folder.iterdir()}))}
    (refined,), (expanded,) = read_job(jobs["J10"]), read_job(jobs["J13"])
    assert len(expanded) == len(refined)
    assert expanded.counts["symmetry_copies" if has_source else "duplicate"] == 11 * len(refined)
    np.testing.assert_allclose(expanded.picks["x_px"], refined.picks["x_px"], atol=1.5)
