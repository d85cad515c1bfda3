"""Entries that cryoflow makes itself, diameters that other jobs know, and where labels come from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.database.add_entry import add_if_changed
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.database.record import read_record
from cryoflow.database.record_keeper import RecordKeeper
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.unpicker.label_sources import label_sources


def _picks(
    tmp_path: Path, kind: Kind, job: str, *, n: int = 5, suffix: str = "", diameter_A: float | None = None
) -> PickSet:
    rng = np.random.default_rng(n)
    table = micrograph_table(
        {"name": ["a.mrc", "b.mrc"], "ny": [300, 300], "nx": [400, 400], "pixel_size_A": [2.0, 2.0]}
    )
    columns = {
        "micrograph": np.arange(n) % 2,
        "x_px": rng.uniform(0, 399, n),
        "y_px": rng.uniform(0, 299, n),
        "score": rng.uniform(0, 1, n),
    }
    who = Provenance("relion", tmp_path / "P1", "P1", job, kind, suffix=suffix)
    return PickSet.build(who, table, pd.DataFrame(columns), diameter_A=diameter_A)


def _when_written(database: Database) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in database.root.rglob("data.txt")}


def test_the_same_picks_are_not_written_again(tmp_path: Path) -> None:
    database = Database(tmp_path / "DB")
    picks = _picks(tmp_path, Kind.UNPICKED, "job005")
    first = add_if_changed(database, picks)
    before = _when_written(database)
    assert add_if_changed(database, picks).name == first.name
    assert _when_written(database) == before
    folder = first.folder.parent.parent
    record = read_record(folder)
    assert record is not None
    # killed between the write of the entry and the end of the turn
    killed = replace(record, entries={}, pending=record.entries)
    RecordKeeper(database.root).write_record(folder, killed)
    add_if_changed(Database(database.root), picks)
    assert read_record(folder) == record


def test_other_scores_other_notes_and_damage_are_written(tmp_path: Path) -> None:
    database = Database(tmp_path / "DB")
    picks = _picks(tmp_path, Kind.UNPICKED, "job005")
    entry = add_if_changed(database, picks)
    shifted = picks.picks.assign(score=picks.picks["score"] + 0.001)
    for changed in (replace(picks, picks=shifted), replace(picks, notes=("another",)), replace(picks, diameter_A=90.0)):
        before = _when_written(database)
        add_if_changed(database, changed)
        assert _when_written(database) != before
    (entry.folder / "data.txt").write_text("garbage")
    add_if_changed(database, picks)
    assert len(database.load(entry.name)) == len(picks)


def test_a_diameter_that_a_job_does_not_say_is_that_of_the_newest_job_that_does(tmp_path: Path) -> None:
    database = Database(tmp_path / "DB")
    refined = database.add(_picks(tmp_path, Kind.REFINE_3D, "job011"))
    assert load_with_diameter(database, refined.name).diameter_A is None
    database.add(_picks(tmp_path, Kind.MANUAL_PICK, "job004", diameter_A=150.0))
    database.add(_picks(tmp_path, Kind.AUTO_PICK, "job010", diameter_A=160.0))
    found = load_with_diameter(database, refined.name)
    assert found.diameter_A == 160.0
    assert "160 A" in found.notes[-1]
    assert load_with_diameter(database, "P1/ManualPick_job004").diameter_A == 150.0


@pytest.mark.parametrize(("given", "diameter_A"), [((), 160.0), (("--diameter", "200"), 200.0)])
def test_the_command_that_labels_takes_the_diameter_given_or_else_the_projects(
    given: tuple[str, ...], diameter_A: float, tmp_path: Path
) -> None:
    database = Database(tmp_path / "DB")
    positives = database.add(_picks(tmp_path, Kind.REFINE_3D, "job011")).name
    candidates = database.add(_picks(tmp_path, Kind.AUTO_PICK, "job010")).name
    database.add(_picks(tmp_path, Kind.MANUAL_PICK, "job004", diameter_A=160.0))
    argv = ["--database", str(database.root), "--positives", positives, "--candidates", candidates, *given]
    assert launch(["unpicker", "label", *argv]) == 0
    assert database.load(f"{candidates}_labelled").diameter_A == diameter_A


def test_labels_come_from_the_best_job_all_picks_and_what_was_excluded(tmp_path: Path) -> None:
    database = Database(tmp_path / "DB")
    for kind, job, n, suffix in (
        (Kind.AUTO_PICK, "job005", 50, ""),
        (Kind.AUTO_PICK, "job020", 60, ""),
        (Kind.AUTO_PICK, "job020", 60, "labelled"),
        (Kind.SELECT_2D, "job008", 20, ""),
        (Kind.SELECT_2D, "job008", 30, "excluded"),
        (Kind.REFINE_3D, "job011", 18, ""),
    ):
        database.add(_picks(tmp_path, kind, job, n=n, suffix=suffix))
    (source,), without = label_sources(database.entries())
    assert without == []
    assert source.positives.name == "P1/Refine3D_job011"
    assert source.candidates.name == "P1/AutoPick_job020"
    assert source.excluded is not None
    assert source.excluded.name == "P1/Select2D_job008_excluded"


def test_a_project_that_cannot_be_labeled_says_what_it_lacks(tmp_path: Path) -> None:
    database = Database(tmp_path / "DB")
    database.add(_picks(tmp_path, Kind.REFINE_3D, "job011"))
    assert label_sources(database.entries()) == (
        [],
        ["P1: there is no entry of an autopick job, so that its picks cannot be labeled"],
    )
    assert label_sources(database.entries(), ["P2"])[1] == [
        "P2: there is no entry of a refinement, a selection or manual picks, so that its picks cannot be labeled"
    ]
