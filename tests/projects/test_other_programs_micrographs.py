"""Picks on another program's micrographs are noted, and train only after the orientation check confirms them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow import read
from cryoflow.cli.main import launch
from cryoflow.database import Database, select_best
from cryoflow.database.info import OrientationRecord
from cryoflow.detector.labels import project_labels
from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.pickers.comparing.consensus import consensus
from cryoflow.pickers.training_sets.export import cut_export, export
from cryoflow.picks import NEEDS_CONFIRMATION, Kind, PickSet
from cryoflow.projects.tables import read_table_of_picks
from cryoflow.simulate.relion_project import write_relion_project
from cryoflow.unpicker.label import label_from_database
from cryoflow.unpicker.labeled import LabeledSet


def micrograph(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, np.zeros((300, 400), np.float32), 1.0)
    return path


def test_picks_on_another_programs_micrographs_are_trained_on_only_when_confirmed(tmp_path: Path) -> None:
    mic = micrograph(tmp_path / "mics" / "x.mrc")
    (tmp_path / "p.csv").write_text("x,y,filename\n10,20,x_patch_aligned_doseweighted.mrc\n")
    pickset: PickSet = read_table_of_picks(tmp_path / "p.csv", mic.parent)
    who = pickset.provenance
    pickset = pickset.where(np.ones(1, bool), provenance=type(who)(**{**vars(who), "kind": Kind.SELECT_2D}))
    for verdict, taken in (("undecided", False), ("confirmed", True), ("contradicted", False)):
        database = Database(tmp_path / f"DB-{verdict}")
        database.add(pickset, orientation=OrientationRecord(verdict))
        (best,) = select_best(database)
        assert (best.entry is not None) == taken, verdict
        assert bool(best.passed_over) != taken


def crossed_entry(folder: Path, verdict: str) -> tuple[Database, str]:
    """A database with one entry whose picks lie on another program's micrograph, and the entry's name."""
    mic = micrograph(folder / "mics" / "x.mrc")
    rng = np.random.default_rng(1)
    rows = "".join(f"{x},{y},x_patch_aligned_doseweighted.mrc\n" for x, y in rng.uniform(40, 260, (20, 2)))
    (folder / "p.csv").write_text("x,y,filename\n" + rows)
    pickset = read_table_of_picks(folder / "p.csv", mic.parent)
    who = pickset.provenance
    pickset = pickset.where(np.ones(20, bool), provenance=type(who)(**{**vars(who), "kind": Kind.SELECT_2D}))
    database = Database(folder / "DB")
    return database, database.add(pickset, orientation=OrientationRecord(verdict)).name


@pytest.mark.parametrize(("verdict", "taken"), [("undecided", False), ("not checked", False), ("confirmed", True)])
def test_unconfirmed_picks_that_are_named_are_not_exported_for_training(
    tmp_path: Path, verdict: str, taken: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    database, name = crossed_entry(tmp_path, verdict)
    argv = ["export", "topaz", name, "--db", str(database.root), "--diameter", "40", "-o", str(tmp_path / "out")]
    assert (launch(argv) == 0) == taken
    assert (tmp_path / "out").exists() == taken
    if not taken:
        assert "is not for training" in " ".join(capsys.readouterr().err.split())
        assert launch([*argv, "--force"]) == 0


def test_unconfirmed_picks_go_back_to_relion(tmp_path: Path) -> None:
    database, name = crossed_entry(tmp_path, "undecided")
    assert launch(["export", "relion", name, "--db", str(database.root), "-o", str(tmp_path / "out")]) == 0


def test_unconfirmed_picks_label_nothing_for_detector_and_unpicker(tmp_path: Path) -> None:
    database, name = crossed_entry(tmp_path, "undecided")
    picks = database.load(name)
    with pytest.raises(BadInput, match="not for training"):
        project_labels(database, database.entry(name), diameter_A=40.0)
    with pytest.raises(BadInput, match="not for training"):
        label_from_database(picks, picks, diameter_A=40.0)
    with pytest.raises(BadInput, match="not for training"):
        LabeledSet.from_picks(labeled(picks), diameter_A=40.0)
    argv = ["unpicker", "label", "--db", str(database.root), "--positives", name, "--candidates", name]
    assert launch(argv) != 0
    assert len(database.entries()) == 1


def labeled(picks: PickSet) -> PickSet:
    return replace(picks, picks=picks.picks.assign(label=np.ones(len(picks), np.int8)))


def cleaned(picks: PickSet) -> PickSet:
    return replace(picks, provenance=replace(picks.provenance, kind=Kind.UNPICKED, suffix="clean"))


def agreed(picks: PickSet) -> PickSet:
    other = replace(picks, provenance=replace(picks.provenance, job="other"))
    return consensus([other, picks], diameter_A=40.0)


DERIVED = {"as read": lambda picks: picks, "cleaned": cleaned, "labeled": labeled, "consensus": agreed}


@pytest.mark.parametrize("stored", [False, True], ids=["set of picks", "entry"])
@pytest.mark.parametrize("derived", DERIVED)
def test_what_is_made_of_unconfirmed_picks_is_not_exported_for_training(
    tmp_path: Path, derived: str, stored: bool
) -> None:
    database, name = crossed_entry(tmp_path, "undecided")
    picks = DERIVED[derived](database.load(name))
    if stored:
        picks = database.load(database.add(picks).name)
    with pytest.raises(BadInput, match="not for training"):
        export("topaz", [picks], tmp_path / "out", diameter_A=40.0)
    with pytest.raises(BadInput, match="not for training"):
        cut_export("topaz", [picks], tmp_path / "out", 1, diameter_A=40.0)
    assert not (tmp_path / "out").exists()
    written = export("topaz", [picks], tmp_path / "out", diameter_A=40.0, force=True)
    assert any("exported although" in note for note in written.notes)


@pytest.mark.parametrize("derived", DERIVED)
def test_what_is_made_of_confirmed_picks_is_exported(tmp_path: Path, derived: str) -> None:
    database, name = crossed_entry(tmp_path, "confirmed")
    picks = DERIVED[derived](database.load(name))
    assert any("the orientation check confirms the picks" in note for note in database.load(name).notes)
    entry = database.add(picks)
    assert export("topaz", [database.load(entry.name)], tmp_path / "out", diameter_A=40.0).n_picks > 0


def test_pixels_that_confirm_the_picks_let_them_pass(tmp_path: Path, blots) -> None:
    project = write_relion_project(tmp_path / "P1", blots)
    picks = read(project)
    unconfirmed = replace(picks, notes=(f"found under another name: {NEEDS_CONFIRMATION}",))
    assert export("topaz", [unconfirmed], tmp_path / "out", diameter_A=blots.diameter_A).n_picks == len(picks)


def test_a_name_of_the_same_program_is_no_other_program(tmp_path: Path) -> None:
    micrograph(tmp_path / "000000000000000000007_x_patch_aligned.mrc")
    (tmp_path / "p.csv").write_text("x,y,filename\n10,20,x_patch_aligned.mrc\n")
    assert not any("another name" in note for note in read_table_of_picks(tmp_path / "p.csv").notes)
