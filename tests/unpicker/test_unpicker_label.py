from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.errors import BadInput
from cryoflow.formats.star_labels import FOM
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.unpicker.label import label_from_database, label_star_folder
from cryoflow.unpicker.star_lines import StarRows

HEAD = "\n# version 30001\n\ndata_\n\nloop_ \n_rlnCoordinateX #1 \n_rlnCoordinateY #2 \n_rlnAutopickFigureOfMerit #3 \n"


def row(x, y, fom=0.25):
    return f"{x:12.6f} {y:12.6f} {fom:12.6f} "


def star(path: Path, rows, head=HEAD) -> Path:
    path.write_text(head + "\n".join(rows) + "\n \n")
    return path


def pickset(name, positions, *, kind=Kind.AUTO_PICK, job="job010", pixel_size_A=2.0, diameter_A=100.0, path=None):
    """`positions`: micrograph name -> list of (x, y)."""
    names = sorted(positions)
    table = micrograph_table(
        {"name": names, "pixel_size_A": [pixel_size_A] * len(names), "path": [path(n) if path else None for n in names]}
    )
    picks = pd.DataFrame(
        [(i, x, y) for i, n in enumerate(names) for x, y in positions[n]], columns=["micrograph", "x_px", "y_px"]
    )
    provenance = Provenance("relion", Path("/p") / name, name, job, kind)
    return PickSet.build(provenance, table, picks, diameter_A=diameter_A)


def test_kept_picks_become_P_and_as_many_of_the_removed_N(tmp_path):
    rows = [row(10 * i, 20 * i + 3) for i in range(20)]
    star(tmp_path / "a_autopick.star", rows)
    star(tmp_path / "a_autopick_correct.star", [rows[i] for i in (1, 5, 7)])
    done, bad = label_star_folder(tmp_path, tmp_path / "out")
    assert not bad
    assert [(d.n_positive, d.n_negative, d.n_all, d.n_added) for d in done] == [(3, 3, 20, 0)]
    read = StarRows.read(tmp_path / "out" / "a_autopick_train.star")
    column = read.label_column()
    assert column == 3
    assert read.words(column) == ["P"] * 3 + ["N"] * 3
    right = {tuple(c) for c, w in zip(read.centers_xy_px, read.words(column), strict=True) if w == "P"}
    assert right == {(10.0 * i, 20.0 * i + 3) for i in (1, 5, 7)}
    wrong = {tuple(c) for c in read.centers_xy_px} - right
    assert len(wrong) == 3
    again, _ = label_star_folder(tmp_path, tmp_path / "again")
    assert again[0].output.read_bytes() == done[0].output.read_bytes()


def test_training_files_of_the_older_program_are_read_though_their_header_does_not_name_the_labels(tmp_path):
    file = star(tmp_path / "a_autopick_train.star", [row(10, 20) + " P", row(30, 40) + " N", row(50, 60) + " P"])
    read = StarRows.read(file)
    assert read.words(read.label_column()) == ["P", "N", "P"]
    named = StarRows.read(star(tmp_path / "b.star", [], head=read.where(np.ones(3, bool))))
    assert named.columns == read.columns
    assert named.rows == read.rows
    star(file, [row(10, 20) + " P", row(30, 40) + " 7"])
    with pytest.raises(BadInput, match="4 words where its header names 3 columns"):
        StarRows.read(file)


def test_all_removed_picks_can_be_N(tmp_path):
    rows = [row(10 * i, 5) for i in range(6)]
    star(tmp_path / "a_autopick.star", rows)
    star(tmp_path / "a_autopick_correct.star", rows[:1])
    done, _ = label_star_folder(tmp_path, tmp_path, negatives="all")
    assert (done[0].n_positive, done[0].n_negative) == (1, 5)


def test_a_pick_added_by_hand_is_right(tmp_path):
    rows = [row(10 * i, 5) for i in range(6)]
    star(tmp_path / "a_autopick.star", rows)
    star(tmp_path / "a_autopick_correct.star", [rows[0], row(500, 400)])
    done, _ = label_star_folder(tmp_path, tmp_path)
    assert (done[0].n_positive, done[0].n_negative, done[0].n_added) == (2, 2, 1)
    assert [500.0, 400.0] in StarRows.read(done[0].output).centers_xy_px.tolist()


def test_a_pick_added_by_hand_in_other_columns_is_not_lost(tmp_path):
    rows = [row(10 * i, 5) for i in range(6)]
    star(tmp_path / "a_autopick.star", rows)
    head = "\ndata_\n\nloop_ \n_rlnClassNumber #1 \n_rlnCoordinateY #2 \n_rlnCoordinateX #3 \n"
    star(tmp_path / "a_autopick_correct.star", ["1 5.0 0.0", "2 400.0 500.0"], head=head)
    done, _ = label_star_folder(tmp_path, tmp_path)
    assert (done[0].n_positive, done[0].n_negative, done[0].n_added) == (2, 2, 1)
    written = StarRows.read(done[0].output)
    at = written.centers_xy_px.tolist().index([500.0, 400.0])
    assert written.words(2)[at] == "-999"
    assert written.words(3)[at] == "P"


@pytest.mark.parametrize("suffix", ["_autopick", "_autopick_correct.star"])
def test_labels_are_never_written_over_the_files_they_come_from(tmp_path, suffix):
    rows = [row(10 * i, 5) for i in range(6)]
    star(tmp_path / "a_autopick.star", rows)
    star(tmp_path / "a_autopick_correct.star", rows[:2])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(BadInput, match=r"would be written over the files that it comes from\. Name another suffix"):
        label_star_folder(tmp_path, tmp_path / ".." / tmp_path.name, train_suffix=suffix)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    done, _ = label_star_folder(tmp_path, tmp_path / "elsewhere", train_suffix=suffix)
    assert done[0].n_positive == 2


def test_one_bad_file_does_not_stop_the_others(tmp_path):
    rows = [row(10 * i, 5) for i in range(6)]
    for stem in "ab":
        star(tmp_path / f"{stem}_autopick.star", rows)
        star(tmp_path / f"{stem}_autopick_correct.star", rows[:2])
    star(tmp_path / "b_autopick.star", [*rows, "1.0 2.0"])
    star(tmp_path / "c_autopick_correct.star", rows)
    done, bad = label_star_folder(tmp_path, tmp_path)
    assert [d.name for d in done] == ["a_autopick_train"]
    assert len(bad) == 2
    assert "2 words where its header names 3" in str(bad[0])
    assert "c_autopick.star" in str(bad[1])


def test_a_folder_without_such_files_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"no file that ends in _autopick\.star"):
        label_star_folder(tmp_path, tmp_path)


def test_rows_that_are_kept_stay_byte_for_byte(tmp_path):
    odd = ["  1.5   2.50  0.1\t", "3 4 nan", "5.000000  6  -0.2   "]
    read = StarRows.read(star(tmp_path / "x.star", odd))
    text = read.where(np.array([True, False, True]))
    assert text == HEAD + odd[0] + "\n" + odd[2] + "\n \n"


def test_line_ends_of_windows_stay(tmp_path):
    text = (HEAD + "\n".join(row(i, i) for i in range(3)) + "\n\n").replace("\n", "\r\n")
    (tmp_path / "a.star").write_bytes(text.encode())
    rows = StarRows.read(tmp_path / "a.star")
    assert rows.where(np.array([True, True, True])) == text
    assert rows.where(np.array([True, False, True])) == text.replace(f"{row(1, 1)}\r\n", "")
    for changed in (rows.with_column(FOM, ["0.5"] * 3), rows.with_column("cryoflowLabel", ["P"] * 3)):
        assert changed.count("\r\n") == changed.count("\n") == changed.count("\r")
    assert rows.with_column("cryoflowLabel", ["P"] * 3).count("P ") == 3


def test_the_score_replaces_a_figure_of_merit_or_is_added(tmp_path):
    read = StarRows.read(star(tmp_path / "x.star", [row(1, 2), row(3, 4)]))
    text = read.with_column(FOM, ["0.750000", "0.125000"])
    (tmp_path / "y.star").write_text(text)
    scored = StarRows.read(tmp_path / "y.star")
    assert scored.words(2) == ["0.750000", "0.125000"]
    assert scored.columns == read.columns
    np.testing.assert_array_equal(scored.centers_xy_px, read.centers_xy_px)
    without = HEAD.replace("_rlnAutopickFigureOfMerit #3 \n", "")
    plain = StarRows.read(star(tmp_path / "z.star", ["1.0 2.0", "3.0 4.0"], without))
    (tmp_path / "w.star").write_text(plain.with_column(FOM, ["0.1", "0.2"]))
    assert StarRows.read(tmp_path / "w.star").words(2) == ["0.1", "0.2"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no table"),
        ("data_\nloop_\n_rlnMicrographName #1\na.mrc\n", "no table"),
        (HEAD + "1 x 3\n", "not a number"),
    ],
)
def test_a_file_without_picks_says_so(tmp_path, text, says):
    (tmp_path / "x.star").write_text(text)
    with pytest.raises(BadInput, match=says):
        _ = StarRows.read(tmp_path / "x.star").centers_xy_px


def test_an_empty_table_has_no_rows(tmp_path):
    read = StarRows.read(star(tmp_path / "x.star", []))
    assert len(read) == 0
    assert read.centers_xy_px.shape == (0, 2)


def test_survivors_are_right_excluded_wrong_and_the_dropped_unknown():
    candidates = pickset("P", {"a": [(100, 100), (300, 100), (500, 100)], "b": [(50, 60)]})
    positives = pickset("P", {"a": [(105, 100)]}, kind=Kind.REFINE_3D, job="job030")
    excluded = pickset("P", {"a": [(300, 104)]}, kind=Kind.SELECT_2D, job="job020")
    labeled = label_from_database(positives, candidates, excluded)
    assert labeled.picks["label"].tolist() == [1, -1, 0]
    assert labeled.counts["micrographs_without_positives"] == 1
    assert labeled.provenance.entry_name == "AutoPick_job010_labelled"
    as_wrong = label_from_database(positives, candidates, excluded, dropped="wrong")
    assert as_wrong.picks["label"].tolist() == [1, -1, -1]


def test_the_radius_is_in_diameters_and_pixels_come_from_the_pixel_size():
    # 100 A, 2 A a pixel: a quarter of the diameter is 12.5 pixels.
    candidates = pickset("P", {"a": [(100, 100), (200, 100)]})
    positives = pickset("P", {"a": [(112, 100), (213, 100)]}, kind=Kind.REFINE_3D)
    labeled = label_from_database(positives, candidates)
    assert labeled.picks["label"].tolist() == [1, 0]
    assert any("1 of 2 positives have no candidate" in note for note in labeled.notes)


def test_excluded_particles_that_survived_elsewhere_are_right():
    candidates = pickset("P", {"a": [(100, 100)]})
    positives = pickset("P", {"a": [(100, 100)]})
    assert label_from_database(positives, candidates, positives).picks["label"].tolist() == [1]


def test_micrographs_of_other_names_are_matched_by_stem():
    candidates = pickset("P", {"J2/motioncorrected/x_1.mrc": [(1, 1)], "J2/motioncorrected/x_2.mrc": [(9, 9)]})
    positives = pickset("P", {"J9/other/x_1.mrc": [(1, 1)], "J9/other/x_2.mrc": [(90, 90)]})
    assert label_from_database(positives, candidates).picks["label"].tolist() == [1, 0]


def test_entries_that_do_not_belong_together_are_refused():
    candidates = pickset("P", {"a": [(100, 100)]})
    with pytest.raises(BadInput, match="no micrograph in common"):
        label_from_database(pickset("P", {"b": [(100, 100)]}), candidates)
    with pytest.raises(BadInput, match="no pick in common"):
        label_from_database(pickset("P", {"a": [(300, 300)]}), candidates)
    with pytest.raises(BadInput, match="not the same image"):
        label_from_database(pickset("P", {"a": [(100, 100)]}, pixel_size_A=4.0), candidates)
    with pytest.raises(BadInput, match="diameter is unknown"):
        label_from_database(pickset("P", {"a": [(1, 1)]}, diameter_A=None), pickset("P", {"a": []}, diameter_A=None))
