"""Reviews: actions are kept, undone and folded, counted, and saved as a new entry."""

from __future__ import annotations

import gc
import io
import json
import os
import subprocess
import sys
import weakref
import zipfile
from pathlib import Path

import numpy as np
import pytest
from view_fixtures import OTHER, SCORED, UNPICKED, entry_files, make_database

from cryoflow.database import Database, verify
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets.export import export
from cryoflow.unpicker.label import label_star_folder
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.view.candidates import open_candidates
from cryoflow.view.counts import tally
from cryoflow.view.decisions import BadAction
from cryoflow.view.journal import journal_of
from cryoflow.view.opened_entries import Library
from cryoflow.view.review import Review
from cryoflow.view.save import reviewed_picks, save, star_archive


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return make_database(tmp_path)


def review_of(database: Database, name: str = SCORED) -> Review:
    candidates = open_candidates(database, name)
    return Review(candidates, journal_of(database.root, name, candidates.fingerprint))


def label(micrograph: int, *picks: int, to: int) -> dict[str, object]:
    return {"do": "label", "label": to, "picks": {str(micrograph): list(picks)}}


def test_counts_at_a_threshold_are_those_of_unpicking(database: Database) -> None:
    review = review_of(database)
    scores = database.load(SCORED).picks["score"].to_numpy()
    for threshold in (0.0, 0.25, 0.5, float(scores[3]), 1.0):
        assert tally(review, threshold).n_kept == int((scores >= threshold).sum())
    assert tally(review, 0.5).n_kept == len(database.load(UNPICKED))


def test_expected_precision_and_recall_are_sums_of_probabilities(database: Database) -> None:
    scores = database.load(SCORED).picks["score"].to_numpy()
    found = tally(review_of(database), 0.6)
    assert found.precision == pytest.approx(scores[scores >= 0.6].mean())
    assert found.recall == pytest.approx(scores[scores >= 0.6].sum() / scores.sum())


def test_scores_that_are_no_probabilities_promise_nothing(tmp_path: Path) -> None:
    found = tally(review_of(make_database(tmp_path, calibrated=False)), 0.5)
    assert np.isnan(found.precision)
    assert np.isnan(found.recall)


def test_picks_that_unpicking_removed_can_be_taken_back(database: Database) -> None:
    review = review_of(database, UNPICKED)
    found = tally(review, 0.5)
    assert found.precision == pytest.approx(database.load(UNPICKED).picks["score"].mean())
    assert np.isnan(found.recall)  # the entry holds no scores of removed picks
    kept = review.kept(review.candidates.threshold)
    assert len(kept) == len(database.load(SCORED))
    assert kept.sum() == len(database.load(UNPICKED))
    first = int(np.flatnonzero(~kept[review.candidates.rows(0)])[0])
    review.act("ada", "w", label(0, first, to=1))
    assert review.kept(review.candidates.threshold).sum() == kept.sum() + 1


def test_every_action_is_there_after_the_server_was_killed(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, 1, to=-1))
    review.act("ada", "w", {"do": "add", "micrograph": 1, "xy_px": [[50, 60.5]]})
    review.act("bo", "v", {"do": "mark", "micrograph": 2, "mark": "bad"})
    again = review_of(database)
    assert again.revision == 3
    assert again.decisions.labels[:3].tolist() == [-1, -1, 0]
    assert again.decisions.added[1].xy_px == [(50.0, 60.5)]
    assert again.decisions.marks == {2: "bad"}
    assert again.decisions.people == {"ada", "bo"}


def test_whoever_reads_decisions_sees_them_as_they_were_between_two_actions(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", {"do": "add", "micrograph": 0, "xy_px": [[50, 60]]})
    before = review.decisions
    review.act("ada", "w", label(0, 0, 12, to=-1))
    review.act("ada", "w", {"do": "mark", "micrograph": 2, "mark": "bad"})
    review.act("ada", "w", {"do": "undo"})
    review.act("bo", "v", {"do": "add", "micrograph": 0, "xy_px": [[70, 80]]})
    assert (before.revision, review.decisions.revision) == (1, 5)
    assert not before.labels.any()
    assert (before.added[0].xy_px, before.added[0].labels) == ([(50.0, 60.0)], [1])
    assert (before.marks, before.people) == ({}, {"ada"})
    assert review.decisions.added[0].labels == [0, 1]


def test_an_action_after_the_state_that_is_saved_is_not_saved_with_it(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, to=-1))
    seen = review.decisions
    review.act("bo", "v", label(0, 1, to=-1))
    saved = database.load(save(review, database, "ada", threshold=0.0, decisions=seen))
    assert saved.picks["label"].tolist() == [-1] + [0] * 11


def test_a_torn_last_line_is_dropped_and_the_journal_goes_on(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, to=-1))
    with review.journal.path.open("ab") as file:
        file.write(b'{"n":2,"at":"2026')
    again = review_of(database)
    assert again.revision == 1
    again.act("ada", "w", label(0, 1, to=-1))
    assert review_of(database).decisions.labels[:2].tolist() == [-1, -1]
    assert b"2026{" not in again.journal.path.read_bytes()


@pytest.mark.parametrize(
    "line", [b"{}\n", b"[1]\n", b"[" * 100_000 + b"\n", b'{"n":7,"at":"","by":"","window":"","do":{}}\n']
)
def test_a_damaged_journal_is_one_clear_error(database: Database, line: bytes) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, to=-1))
    with review.journal.path.open("ab") as file:
        file.write(line)
    with pytest.raises(BadInput, match=r"\.reviews"):
        review_of(database)


def test_a_pipe_or_a_link_in_place_of_a_journal_is_an_error_and_nobody_waits(
    database: Database, tmp_path: Path
) -> None:
    review = review_of(database)
    path = review.journal.path
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(BadInput, match="named pipe"):
        review_of(database)
    path.unlink()
    (tmp_path / "mine").write_text("precious")
    path.symlink_to(tmp_path / "mine")
    with pytest.raises(CryoflowError):
        review.act("ada", "w", label(0, 0, to=-1))
    assert (tmp_path / "mine").read_text() == "precious"


def test_two_servers_of_one_database_see_each_other(database: Database) -> None:
    one, two = review_of(database), review_of(database)
    one.act("ada", "w", label(0, 0, to=-1))
    two.act("bo", "v", label(0, 1, to=-1))
    one.refresh()
    assert one.revision == two.revision == 2
    assert one.decisions.labels[:2].tolist() == two.decisions.labels[:2].tolist() == [-1, -1]
    assert [line.by for line in one.changes_since(1)] == ["bo"]


def test_servers_that_write_at_the_same_time_lose_no_action_and_repeat_no_number(database: Database) -> None:
    """Processes, for the lock of a journal is one process's."""
    code = f"""if True:
        import sys
        from pathlib import Path
        from cryoflow.database import Database
        from cryoflow.view.opened_entries import Library
        review = Library(Database(Path(sys.argv[1]))).opened({SCORED!r}).review
        micrograph = int(sys.argv[2])
        print("ready", flush=True)
        sys.stdin.readline()
        for k in range(40):
            picks = {{str(micrograph): [k % 12]}}
            review.act(f"person {{micrograph}}", "w", {{"do": "label", "label": -1, "picks": picks}})
            if k >= 12:
                review.act(f"person {{micrograph}}", "w", {{"do": "undo"}})
    """
    command = [sys.executable, "-c", code, str(database.root)]
    writers = [
        subprocess.Popen([*command, str(m)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for m in range(3)
    ]
    for writer in writers:
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # all at once
        assert writer.stdin
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=300)
        assert writer.returncode == 0
    review = review_of(database)
    assert [line.number for line in review.journal.lines] == list(range(1, 3 * (40 + 28) + 1))
    assert [int((review.decisions.labels[review.candidates.rows(m)] == -1).sum()) for m in range(4)] == [12, 12, 12, 0]


def test_a_review_that_nobody_opens_any_more_is_given_up_and_read_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoflow.view.opened_entries.ENTRIES_BYTES", 1)
    library = Library(database)
    first = weakref.ref(library.opened(SCORED).review)
    library.opened(SCORED).review.act("ada", "w", label(0, 0, to=-1))
    assert library.opened(SCORED).review is first()
    library.opened(UNPICKED)  # takes the place of the other one
    gc.collect()
    assert first() is None
    assert library.opened(SCORED).review.decisions.labels[0] == -1


def test_undo_and_redo_are_each_persons_own(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, to=-1))
    review.act("bo", "v", label(0, 1, to=-1))
    review.act("ada", "w", {"do": "add", "micrograph": 0, "xy_px": [[9, 9]]})
    review.act("ada", "w", {"do": "undo"})
    assert review.decisions.added[0].labels == [0]
    review.act("ada", "w", {"do": "undo"})
    assert review.decisions.labels[:2].tolist() == [0, -1]
    assert review.act("ada", "w", {"do": "undo"}) is None
    review.act("ada", "w", {"do": "redo"})
    review.act("ada", "w", {"do": "redo"})
    assert review.decisions.added[0].labels == [1]
    assert review.decisions.labels[:2].tolist() == [-1, -1]
    assert review.act("ada", "w", {"do": "redo"}) is None
    again = review_of(database)
    assert again.decisions.labels.tolist() == review.decisions.labels.tolist()


def test_an_added_pick_is_named_by_its_position_whoever_added_another_meanwhile(database: Database) -> None:
    review = review_of(database)
    review.act("bo", "v", {"do": "add", "micrograph": 0, "xy_px": [[30, 40]]})
    review.act("ada", "w", {"do": "add", "micrograph": 0, "xy_px": [[9, 9.25]]})
    review.act("ada", "w", {"do": "label", "label": -1, "picks": {"0": [1]}, "added_xy_px": {"0": [[9, 9.25]]}})
    assert review.decisions.added[0].labels == [1, 0]
    assert review.decisions.labels[:2].tolist() == [0, -1]
    review.act("ada", "w", {"do": "label", "label": 1, "picks": {}, "added_xy_px": {"0": [[9, 9.25], [9, 9.25]]}})
    again = review_of(database)
    assert again.decisions.added[0].labels == [1, 1]


def test_a_new_action_ends_what_could_be_redone(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, to=-1))
    review.act("ada", "w", {"do": "undo"})
    review.act("ada", "w", label(0, 1, to=-1))
    assert review.act("ada", "w", {"do": "redo"}) is None


@pytest.mark.parametrize(
    "action",
    [
        {"do": "rm -rf"},
        {"do": "label", "label": 2, "picks": {"0": [0]}},
        {"do": "label", "label": True, "picks": {"0": [0]}},
        {"do": "label", "label": 1, "picks": {"9": [0]}},
        {"do": "label", "label": 1, "picks": {"0": [12]}},
        {"do": "label", "label": 1, "picks": {"0": [-1]}},
        {"do": "label", "label": 1, "picks": {"-1": [0]}},
        {"do": "label", "label": 1, "picks": {"0": [0.5]}},
        {"do": "label", "label": 1, "picks": {}},
        {"do": "label", "label": 1, "picks": {"0": []}},
        {"do": "label", "label": 1, "picks": [0]},
        {"do": "label", "label": 1, "added_xy_px": {"0": [[9, 9]]}},  # nobody added one there
        {"do": "label", "label": 1, "added_xy_px": {"0": 9}},
        {"do": "label", "label": 1, "added_xy_px": {"9": [[9, 9]]}},
        {"do": "label", "label": 1, "added_xy_px": {"0": [[float("nan"), 9]]}},
        {"do": "add", "micrograph": 0, "xy_px": [[419.5, 1]]},
        {"do": "add", "micrograph": 0, "xy_px": [[float("nan"), 1]]},
        {"do": "add", "micrograph": 0, "xy_px": [["1", 1]]},
        {"do": "add", "micrograph": 0, "xy_px": []},
        {"do": "add", "micrograph": 0, "xy_px": [[1, 1]] * 20_001},
        {"do": "mark", "micrograph": 0, "mark": "pretty"},
        {"do": "mark", "micrograph": 0, "mark": "finished", "threshold": float("inf")},
        {"do": "mark", "micrograph": 0, "mark": "finished", "threshold": 10**400},  # no float holds it
        {"do": "add", "micrograph": 0, "xy_px": [[10**400, 1]]},
        {"do": "add", "micrograph": 0, "xy_px": [[[1], 1]]},
        {"do": [[[]]]},
    ],
)
def test_an_action_that_does_not_fit_changes_nothing(database: Database, action: dict[str, object]) -> None:
    review = review_of(database)
    with pytest.raises(BadAction):
        review.act("ada", "w", action)
    assert review.revision == 0
    assert not review.journal.path.exists()


def test_a_finished_micrograph_keeps_the_threshold_that_its_person_saw(database: Database) -> None:
    review = review_of(database)
    before = review.kept(0.5)[review.candidates.rows(0)]
    review.act("ada", "w", {"do": "mark", "micrograph": 0, "mark": "finished", "threshold": 0.5})
    assert review.kept(0.99)[review.candidates.rows(0)].tolist() == before.tolist()
    assert not review.kept(0.99)[review.candidates.rows(1)].any()


def test_saving_makes_a_new_entry_that_differs_in_labels_alone(database: Database) -> None:
    before = entry_files(database.root)
    review = review_of(database)
    review.act("ada", "w", {"do": "mark", "micrograph": 0, "mark": "finished", "threshold": 0.5})
    review.act("ada", "w", label(0, 2, to=1))
    review.act("ada", "w", label(1, 3, to=-1))
    entry = save(review, database, "ada", threshold=0.5)
    assert entry.name == "P1/AutoPick_job005_reviewed"
    source, saved = database.load(SCORED), database.load(entry)
    assert saved.micrographs["name"].tolist() == source.micrographs["name"].tolist()[:2]
    n = len(saved)
    assert saved.picks[["micrograph", "x_px", "y_px", "score"]].equals(
        source.picks.iloc[:n][["micrograph", "x_px", "y_px", "score"]]
    )
    expected = np.where(source.picks["score"].to_numpy()[:n] >= 0.5, 1, -1)
    expected[12:] = 0
    expected[2], expected[12 + 3] = 1, -1
    assert saved.picks["label"].tolist() == expected.tolist()
    assert any("reviewed from P1/AutoPick_job005 by ada" in note for note in saved.notes)
    after = entry_files(database.root)
    assert {name: after[name] for name in before} == before
    assert save(review, database, "bo", threshold=0.5).name == "P1/AutoPick_job005_reviewed_2"
    assert verify(database) == []


def test_bad_micrographs_and_their_picks_are_left_out_and_counted(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", {"do": "mark", "micrograph": 1, "mark": "bad"})
    saved = reviewed_picks(review, "ada", threshold=0.5, others="threshold")
    assert len(saved.micrographs) == 3
    assert saved.counts["bad_micrograph"] == 12
    assert sorted(saved.picks["label"].unique().tolist()) == [-1, 1]


def test_nothing_decided_is_nothing_to_save(database: Database) -> None:
    with pytest.raises(BadInput, match="nobody has decided"):
        save(review_of(database), database, "ada", threshold=0.5)


def test_a_reviewed_entry_exports_and_trains_like_any_other(database: Database, tmp_path: Path) -> None:
    review = review_of(database)
    for micrograph in range(3):
        review.act("ada", "w", {"do": "mark", "micrograph": micrograph, "mark": "finished", "threshold": 0.5})
    review.act("ada", "w", {"do": "add", "micrograph": 2, "xy_px": [[111.25, 222.5]]})
    entry = save(review, database, "ada", threshold=0.5)
    saved = database.load(entry)
    right = int((saved.picks["label"] > 0).sum())
    result = export("cryosparc", [saved], tmp_path / "out")
    assert result.n_picks == right
    assert LabeledSet.from_picks(saved).count(1) == right
    last = saved.picks[saved.picks["micrograph"] == 2].iloc[-1]
    assert (last["x_px"], last["y_px"], last["label"]) == (111.25, 222.5, 1)


def test_labels_as_star_files_are_read_as_hand_cleaned_micrographs(database: Database, tmp_path: Path) -> None:
    review = review_of(database)
    review.act("ada", "w", {"do": "mark", "micrograph": 1, "mark": "finished", "threshold": 0.5})
    saved = reviewed_picks(review, "ada", threshold=0.5)
    with zipfile.ZipFile(io.BytesIO(star_archive(saved))) as archive:
        assert all(".." not in n and "/" not in n for n in archive.namelist())
        archive.extractall(tmp_path / "stars")
    (labeled,), bad = label_star_folder(tmp_path / "stars", tmp_path / "labeled", negatives="all")
    assert not bad
    assert (labeled.n_positive, labeled.n_negative) == tuple((saved.picks["label"] == v).sum() for v in (1, -1))


def test_an_export_for_relion_holds_the_labels_of_a_review_as_star_files(database: Database, tmp_path: Path) -> None:
    review = review_of(database)
    review.act("ada", "w", {"do": "mark", "micrograph": 1, "mark": "finished", "threshold": 0.5})
    saved = database.load(save(review, database, "ada", threshold=0.5))
    result = export("relion", [saved], tmp_path / "out")
    (labels,) = (result.folder / "labels").iterdir()
    assert sorted(p.name for p in labels.iterdir()) == ["mic_0_autopick.star", "mic_0_autopick_correct.star"]
    (labeled,), bad = label_star_folder(labels, tmp_path / "labeled", negatives="all")
    assert not bad
    assert (labeled.n_positive, labeled.n_negative) == tuple((saved.picks["label"] == v).sum() for v in (1, -1))
    picks = picker("relion").pick_files(result.folder)  # labels are no second picks of the same micrographs
    assert [p.name for p in picks if p.name.startswith("mic_0")] == ["mic_0_autopick.star"]
    assert not (export("relion", [database.load(SCORED)], tmp_path / "plain").folder / "labels").exists()


def test_an_entry_that_changed_gets_a_journal_of_its_own(database: Database) -> None:
    review = review_of(database)
    review.act("ada", "w", label(0, 0, to=-1))
    picks = database.load(SCORED)
    database.add(picks.where(np.arange(len(picks)) > 0))
    assert review_of(database).revision == 0
    assert review.journal.path.exists()


def test_a_database_that_cannot_be_written_keeps_journals_with_the_user(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("os.access", lambda *_: False)
    review = review_of(database, OTHER)
    review.act("ada", "w", label(0, 0, to=-1))
    assert review.journal.path.is_relative_to(tmp_path / "state")
    assert json.loads(review.journal.path.read_text().splitlines()[0])["entry"] == OTHER
