"""The frame, and what building a set of picks does to them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

JOB = Provenance("relion", Path("/data/P1"), "P1", "job012", Kind.SELECT_2D)


def picks_table(**columns: object) -> pd.DataFrame:
    return pd.DataFrame(columns)


def two_micrographs() -> pd.DataFrame:
    """Non-square, of two shapes, not in order of name."""
    return micrograph_table({"name": ["b.mrc", "a.mrc"], "ny": [100, 200], "nx": [300, 50], "pixel_size_A": [1.0, 2.0]})


def test_micrographs_are_sorted_by_name_and_picks_follow_them():
    picks = picks_table(micrograph=[0, 1, 0], x_px=[250.0, 20.0, 10.0], y_px=[90.0, 150.0, 5.0], score=[1, 2, 3])
    built = PickSet.build(JOB, two_micrographs(), picks)
    assert list(built.micrographs["name"]) == ["a.mrc", "b.mrc"]
    assert built.picks.to_dict("list") == {
        "micrograph": [0, 1, 1],
        "x_px": [20.0, 250.0, 10.0],
        "y_px": [150.0, 90.0, 5.0],
        "score": [2.0, 1.0, 3.0],
    }
    assert list(built.offsets) == [0, 1, 3]
    assert [(i, len(group)) for i, group in built.by_micrograph()] == [(0, 1), (1, 2)]


def test_a_pick_beyond_the_columns_is_outside_although_the_rows_would_hold_it():
    """x is held against nx and y against ny: on a 100 x 300 micrograph (250, 20) is inside and (20, 250) is not."""
    picks = picks_table(micrograph=[0, 0], x_px=[250.0, 20.0], y_px=[20.0, 250.0])
    built = PickSet.build(JOB, two_micrographs(), picks)
    assert built.centers_xy_px.tolist() == [[250.0, 20.0]]
    assert built.counts == {"outside": 1}


@pytest.mark.parametrize(("x_px", "inside"), [(-0.5, True), (-0.51, False), (299.49, True), (299.5, False)])
def test_pixel_centers_are_whole_numbers_so_the_edge_is_half_a_pixel_out(x_px: float, inside: bool):
    built = PickSet.build(JOB, two_micrographs(), picks_table(micrograph=[0], x_px=[x_px], y_px=[0.0]))
    assert len(built) == inside


def test_nan_and_infinite_positions_are_dropped_and_counted_beside_what_the_reader_counted():
    picks = picks_table(micrograph=[0, 0, 0], x_px=[np.nan, np.inf, 1.0], y_px=[1.0, 1.0, 1.0])
    built = PickSet.build(JOB, two_micrographs(), picks, counts={"nan": 3, "duplicate": 1})
    assert len(built) == 1
    assert built.counts == {"nan": 5, "duplicate": 1}


def test_picks_on_a_micrograph_of_unknown_shape_are_kept_wherever_they_are():
    unknown = micrograph_table({"name": ["lost.mrc"]})
    built = PickSet.build(JOB, unknown, picks_table(micrograph=[0, 0], x_px=[-5.0, 1e6], y_px=[3.0, 1e6]))
    assert len(built) == 2
    assert built.micrographs["ny"].isna().all()
    assert built.micrographs["pixel_size_A"].isna().all()
    assert built.micrographs["status"].tolist() == ["missing"]


def test_an_empty_set_has_its_micrographs_and_typed_columns():
    empty = PickSet.build(JOB, two_micrographs(), picks_table(micrograph=[], x_px=[], y_px=[]))
    assert len(empty) == 0
    assert len(empty.micrographs) == 2
    assert empty.centers_xy_px.shape == (0, 2)
    assert list(empty.offsets) == [0, 0, 0]


def test_uids_keep_all_their_64_bits():
    uid = np.array([2**64 - 1, 2**53 + 1], np.uint64)
    picks = pd.DataFrame({"micrograph": [0, 1], "x_px": [1.0, 1.0], "y_px": [1.0, 1.0], "uid": uid})
    built = PickSet.build(JOB, two_micrographs(), picks)
    assert built.picks["uid"].tolist() == [2**53 + 1, 2**64 - 1]


def test_an_undeclared_column_is_refused():
    with pytest.raises(ValueError, match="undeclared pick columns"):
        PickSet.build(JOB, two_micrographs(), picks_table(micrograph=[0], x_px=[1.0], y_px=[1.0], mood=[1]))


def test_a_pick_of_no_micrograph_and_a_name_given_twice_are_defects_of_the_caller():
    with pytest.raises(ValueError, match="points to no micrograph"):
        PickSet.build(JOB, two_micrographs(), picks_table(micrograph=[2], x_px=[1.0], y_px=[1.0]))
    with pytest.raises(ValueError, match="two micrographs of one name"):
        PickSet.build(JOB, micrograph_table({"name": ["a", "a"]}), picks_table(micrograph=[], x_px=[], y_px=[]))


def test_where_keeps_all_micrographs_and_only_the_wanted_picks():
    picks = picks_table(micrograph=[0, 1, 0], x_px=[1.0, 2.0, 3.0], y_px=[1.0, 2.0, 3.0])
    built = PickSet.build(JOB, two_micrographs(), picks)
    kept = built.where(built.picks["x_px"].to_numpy() > 1.5, notes=("cleaned",))
    assert kept.picks["x_px"].tolist() == [2.0, 3.0]
    assert len(kept.micrographs) == 2
    assert kept.notes == ("cleaned",)
    assert list(kept.offsets) == [0, 1, 2]


@pytest.mark.parametrize(
    ("kind", "job", "suffix", "name"),
    [
        (Kind.HOMO, "J51", "", "Homo_J51"),
        (Kind.HETERO, "J50", "class1", "Hetero_J50_class1"),
        (Kind.REFINE_3D, "job035", "", "Refine3D_job035"),
    ],
)
def test_entries_are_named_by_kind_job_and_class(kind: Kind, job: str, suffix: str, name: str):
    assert Provenance("relion", Path("/p"), "p", job, kind, suffix=suffix).entry_name == name
