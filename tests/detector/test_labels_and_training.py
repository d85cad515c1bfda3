"""Labels from finished projects, and training on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from written_files import written_files

from cryoflow.database import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN
from cryoflow.detector.labels import MicrographLabels, best_entries, micrograph_labels, project_labels
from cryoflow.detector.train import train
from cryoflow.detector.training_data import TrainingOptions
from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

PIXEL_A, DIAMETER_A = 4.0, 160.0  # 40 pixels a diameter
SHAPE_YX = (320, 480)
NAMES = ("a.mrc", "b.mrc", "c.mrc")


def picks(folder: Path, kind: Kind, job: str, rows: list[tuple[int, float, float]], suffix: str = "") -> PickSet:
    table = micrograph_table(
        {
            "name": list(NAMES),
            "path": [str(folder / n) for n in NAMES],
            "status": ["found"] * 3,
            "ny": [SHAPE_YX[0]] * 3,
            "nx": [SHAPE_YX[1]] * 3,
            "pixel_size_A": [PIXEL_A] * 3,
        }
    )
    where = Provenance("relion", folder, "P1", job, kind, suffix=suffix)
    found = pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px"])
    return PickSet.build(where, table, found, diameter_A=DIAMETER_A)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    rng = np.random.default_rng(0)
    y, x = np.indices(SHAPE_YX)
    for name in NAMES:
        image = rng.normal(50, 5, SHAPE_YX)
        for cx, cy in ((100, 100), (200, 200), (300, 100)):
            image -= 20 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / 10**2)
        write_mrc(tmp_path / name, image.astype(np.float32), PIXEL_A)
    made = Database(tmp_path / "db")
    made.add(picks(tmp_path, Kind.REFINE_3D, "job010", [(0, 100, 100), (1, 100, 100)]))
    made.add(picks(tmp_path, Kind.AUTO_PICK, "job003", [(0, 102, 101), (0, 200, 200), (1, 100, 100), (2, 300, 100)]))
    made.add(picks(tmp_path, Kind.AUTO_PICK, "job005", [(0, 300, 100), (0, 400, 250), (1, 200, 200)]))
    made.add(picks(tmp_path, Kind.SELECT_2D, "job008", [(0, 400, 251), (0, 101, 100)], "excluded"))
    return made


def labels_of(database: Database) -> dict[str, MicrographLabels]:
    (entry,), _ = best_entries(database, ())
    return {m.name: m for m in micrograph_labels(project_labels(database, entry))}


def at(labels: MicrographLabels, x: float, y: float) -> int | None:
    distance = np.linalg.norm(labels.xy_px - (x, y), axis=1)
    return int(labels.kind[np.argmin(distance)]) if distance.min() < 3 else None


def test_what_survived_is_positive_what_was_dropped_unknown_what_was_excluded_negative(database: Database) -> None:
    a = labels_of(database)["a.mrc"]
    assert at(a, 100, 100) == POSITIVE
    assert (a.kind == POSITIVE).sum() == 1  # its candidate and its excluded double are the particle itself
    assert at(a, 200, 200) == UNKNOWN
    assert at(a, 300, 100) == UNKNOWN  # another picking job's candidate counts as well
    assert at(a, 400, 251) == NEGATIVE
    assert len(a.kind) == 4


def test_a_searched_micrograph_without_survivors_has_unknown_candidates_only(database: Database) -> None:
    c = labels_of(database)["c.mrc"]
    assert c.background
    assert c.kind.tolist() == [UNKNOWN]


def test_without_a_picking_job_the_background_is_not_known(database: Database, tmp_path: Path) -> None:
    alone = Database(tmp_path / "alone")
    alone.add(picks(tmp_path, Kind.REFINE_3D, "job010", [(0, 100, 100)]))
    assert not labels_of(alone)["a.mrc"].background
    assert labels_of(database)["a.mrc"].background


def test_a_selection_alone_weighs_less_than_a_refinement(tmp_path: Path) -> None:
    made = Database(tmp_path / "other")
    made.add(picks(tmp_path, Kind.SELECT_2D, "job010", [(0, 100, 100)]))
    made.add(picks(tmp_path, Kind.AUTO_PICK, "job003", [(0, 100, 100)]))
    assert labels_of(made)["a.mrc"].weight.tolist() == [pytest.approx(0.7)]


def test_a_review_trains_from_its_labels_and_on_its_micrographs_alone(database: Database) -> None:
    source = database.load("P1/AutoPick_job003")
    labels = np.array([1, -1, 0, 1], np.int8)
    reviewed = PickSet.build(
        replace(source.provenance, suffix="reviewed"),
        source.micrographs.iloc[:2].reset_index(drop=True),
        source.picks.assign(label=labels).iloc[:3],
        diameter_A=DIAMETER_A,
    )
    entry = database.add(reviewed)
    found = {m.name: m for m in micrograph_labels(project_labels(database, entry))}
    assert set(found) == {"a.mrc", "b.mrc"}  # c.mrc is marked as bad, or nobody looked at it
    assert at(found["a.mrc"], 102, 101) == POSITIVE
    assert at(found["a.mrc"], 200, 200) == NEGATIVE
    assert at(found["b.mrc"], 100, 100) == UNKNOWN
    assert found["a.mrc"].background


def test_a_diameter_must_be_known(tmp_path: Path) -> None:
    made = Database(tmp_path / "other")
    made.add(replace(picks(tmp_path, Kind.REFINE_3D, "job010", [(0, 100, 100)]), diameter_A=None))
    (entry,), _ = best_entries(made, ())
    with pytest.raises(BadInput, match="no particle diameter"):
        project_labels(made, entry)


@pytest.mark.slow
def test_a_diameter_that_only_manual_picks_know_is_that_of_the_project(tmp_path: Path) -> None:
    made = Database(tmp_path / "picks")
    refined = made.add(replace(picks(tmp_path, Kind.REFINE_3D, "job010", [(0, 100, 100)]), diameter_A=None))
    made.add(picks(tmp_path, Kind.MANUAL_PICK, "job002", [(0, 100, 100)]))
    assert project_labels(made, refined).diameter_A == DIAMETER_A


@pytest.mark.slow
def test_a_database_trains_a_detector_that_is_found_again(database: Database, tmp_path: Path) -> None:
    options = TrainingOptions(rounds=1, steps=2, batch=1, crop_px=128, validation=0.34)
    said: list[str] = []
    detector, prepared = train(database, (), tmp_path / "model", options, say=said.append)
    assert len(prepared.training) + len(prepared.validation) == 3
    assert detector.diameter_A == DIAMETER_A
    assert 0 <= prepared.training[0].class_prior <= 1
    assert any("step 2 of 2" in line for line in said)
    loaded = Detector.load(tmp_path / "model")
    assert loaded.recipe["entries"] == ["P1/Refine3D_job010"]
    assert (tmp_path / "model" / "learning_curves.png").is_file()
    before = written_files(tmp_path / "model")
    again, _ = train(database, (), tmp_path / "model", options, say=said.append)
    assert again.fingerprint == detector.fingerprint
    assert written_files(tmp_path / "model") == before
    with pytest.raises(BadInput, match="holds another detector"):
        train(database, (), tmp_path / "model", replace(options, seed=2))
    with pytest.raises(BadInput, match="no entry to train from"):
        train(Database(tmp_path / "empty"), (), tmp_path / "none", options)


def test_entries_to_learn_from_may_be_patterns(database: Database) -> None:
    chosen, notes = best_entries(database, ("*/AutoPick_*",))
    assert ([e.job for e in chosen], notes) == (["job003", "job005"], [])
