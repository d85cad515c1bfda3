"""Inputs on which readers once failed (../shared/cases/readers): each gives what its command.txt says is right."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from relion_projects import write_relion_project

from cryoflow.cli.main import launch
from cryoflow.database import Database, select_best
from cryoflow.errors import BadInput
from cryoflow.ingest import ingest
from cryoflow.micrographs.image import write_mrc
from cryoflow.projects.tables import read_table_of_picks, read_tables


@pytest.fixture(scope="session")
def readers(cases: Path) -> Path:
    return cases / "readers"


def centers(pickset) -> list[list[float]]:
    return pickset.centers_xy_px.round(3).tolist()


def test_every_case_has_a_test(readers: Path) -> None:
    tested = {name.removeprefix("test_case_") for name in globals() if name.startswith("test_case_")}
    assert tested == {folder.name for folder in readers.iterdir() if folder.is_dir()}


def test_case_autopick_without_list(readers: Path, tmp_path: Path, blots) -> None:
    project = write_relion_project(tmp_path / "P1", blots)
    before = {e.name: (e.n_picks, e.n_micrographs) for e in entries(project, tmp_path / "DB1")}
    (project / "AutoPick/job005/autopick.star").unlink()
    after = {e.name: (e.n_picks, e.n_micrographs) for e in entries(project, tmp_path / "DB2")}
    assert after == before
    assert any("AutoPick" in name for name in after)


def entries(root: Path, database: Path):
    report = ingest(root, database, check_orientation=False)
    assert not [line.reason for line in report.lines if line.status == "failed"]
    return Database(database).entries()


def test_case_box_of_size_zero(readers: Path) -> None:
    pickset = read_table_of_picks(readers / "box_of_size_zero" / "2d_center.box")
    assert centers(pickset) == [[24, 40], [36, 62], [78, 51]]
    assert any("taken for centers" in note for note in pickset.notes)


def test_case_cbox_filament_vertices(readers: Path) -> None:
    pickset = read_table_of_picks(readers / "cbox_filament_vertices" / "micA.cbox")
    assert centers(pickset) == [[1648.989, 1167.069], [1531.212, 1088.294], [1413.435, 1009.518]]
    assert any("data_filament_vertices was not read (2 rows)" in note for note in pickset.notes)


def test_case_cross_program_match(readers: Path, tmp_path: Path) -> None:
    folder = tmp_path / "relion" / "MotionCorr" / "job002" / "Movies"
    folder.mkdir(parents=True)
    write_mrc(folder / "D_fractions.mrc", np.zeros((480, 640), np.float32), 1.0)
    pickset = read_table_of_picks(readers / "cross_program_match" / "picked.cs", tmp_path / "relion")
    assert pickset.micrographs["status"].tolist() == ["found"]
    (note,) = [note for note in pickset.notes if "under another name" in note]
    assert note.startswith("1 micrograph was found under another name: D_fractions.mrc")
    assert "not used for training" in note


@pytest.mark.parametrize("given", [".", "P12_J11_passthrough_particles.cs", "cryosparc_P12_J11_004_particles.cs"])
def test_case_cs_pair_without_csg(readers: Path, given: str) -> None:
    pickset = read_table_of_picks(readers / "cs_pair_without_csg" / given)
    assert len(pickset) == 4
    assert [592.82, 134.65] in centers(pickset)
    assert any("joined by uid" in note for note in pickset.notes)


def test_case_cs_reference_select_2D(readers: Path, tmp_path: Path) -> None:
    found = entries(readers / "cs_reference_select_2D" / "CS-demo", tmp_path / "DB")
    assert {e.name for e in found} == {
        "CS-demo/ManualPick_J3",
        "CS-demo/Select2D_J20",
        "CS-demo/Select2D_J20_excluded",
    }
    database = Database(tmp_path / "DB")
    excluded = database.load(database.entry("CS-demo/Select2D_J20_excluded"))
    assert set(excluded.picks["label"]) == {-1}
    (best,) = select_best(database)
    assert best.entry is not None
    assert best.entry.name == "CS-demo/Select2D_J20"


def test_case_eman1_fifth_column(readers: Path) -> None:
    pickset = read_table_of_picks(readers / "eman1_fifth_column" / "micA.box")
    assert centers(pickset) == [[150, 250], [350, 450]]
    assert "score" not in pickset.picks


def test_case_eman1_helix_box(readers: Path, tmp_path: Path) -> None:
    write_mrc(tmp_path / "micA.mrc", np.zeros((300, 400), np.float32), 1.0)
    pickset = read_table_of_picks(readers / "eman1_helix_box" / "micA.box", tmp_path)
    assert len(pickset) == 21
    assert not pickset.counts
    assert any("segments of helices" in note for note in pickset.notes)
    assert pickset.micrographs["status"].tolist() == ["found"]


def test_case_eman2_json_message(readers: Path) -> None:
    pickset = read_table_of_picks(readers / "eman2_json_message" / "micA_info.json")
    assert centers(pickset) == [[1500, 1230], [100.5, 200.5]]
    assert pickset.micrographs["name"].tolist() == ["micA"]


def test_case_gautomatch_suffix(readers: Path, tmp_path: Path) -> None:
    (tmp_path / "mics").mkdir()
    write_mrc(tmp_path / "mics" / "micA.mrc", np.zeros((1500, 1500), np.float32), 1.0)
    picks, rejected = read_tables(readers / "gautomatch_suffix" / "picks", tmp_path / "mics").picksets
    assert centers(picks) == [[100, 200], [500, 600]]
    assert picks.micrographs["name"].tolist() == ["micA.mrc"]
    assert centers(rejected) == [[1000, 200]]
    assert set(rejected.picks["label"]) == {-1}
    assert rejected.provenance.suffix == "rejected"


def test_no_micrograph_found_is_a_warning_and_exit_code_3(readers: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mics").mkdir()
    for name in ("other_1.mrc", "other_2.mrc", "other_3.mrc", "other_4.mrc"):
        write_mrc(tmp_path / "mics" / name, np.zeros((64, 64), np.float32), 1.0)
    argv = ["ingest", str(readers / "gautomatch_suffix" / "picks"), "--micrographs", str(tmp_path / "mics")]
    assert launch([*argv, "--database", str(tmp_path / "DB"), "--no-check-orientation"]) == 3
    told = capsys.readouterr().err
    assert "warning:" in told
    assert "looked for micA" in told
    assert "other_1.mrc, other_2.mrc, other_3.mrc" in told
    assert "other_4" not in told


@pytest.mark.parametrize("name", ["with.star", "without.star"])
def test_case_optics_one_group_no_column(readers: Path, name: str) -> None:
    pickset = read_table_of_picks(readers / "optics_one_group_no_column" / name)
    assert centers(pickset) == [[286, 364], [396, 259]]
    assert pickset.micrographs["pixel_size_A"].tolist() == [0.84, 0.84]
    assert pickset.micrographs["voltage_kV"].tolist() == [300, 300]


def test_case_relion31_import_coordinates(readers: Path, tmp_path: Path) -> None:
    found = entries(readers / "relion31_import_coordinates" / "proj", tmp_path / "DB")
    assert {e.name: (e.n_picks, e.n_micrographs) for e in found} == {
        "proj/Import_job020": (6, 3),
        "proj/Import_job021": (6, 3),
    }
    database = Database(tmp_path / "DB")
    boxes = database.load(database.entry("proj/Import_job021"))
    assert [151, 200] in centers(boxes)
    assert boxes.micrographs["pixel_size_A"].tolist() == [1.5] * 3  # as the project's CTF table says


def test_case_star_messages(readers: Path) -> None:
    with pytest.raises(BadInput, match="name with blanks that is not in quotes"):
        read_table_of_picks(readers / "star_messages" / "c_blank_in_name.star")
    with pytest.raises(BadInput, match="a column is empty in all rows"):
        read_table_of_picks(readers / "star_messages" / "g_warp221.star")


def test_case_two_particle_blocks(readers: Path) -> None:
    pickset = read_table_of_picks(readers / "two_particle_blocks" / "two.star")
    assert centers(pickset) == [[100, 200], [110, 210]]
    assert any("2 blocks with positions were read" in note for note in pickset.notes)


def test_a_job_that_is_named_is_read_alone(readers: Path, tmp_path: Path) -> None:
    shutil.copytree(readers / "relion31_import_coordinates" / "proj", tmp_path / "proj")
    report = ingest(tmp_path / "proj" / "Import" / "job021", tmp_path / "DB", check_orientation=False)
    assert [line.job for line in report.lines] == ["job021"]
    assert [e.name for e in Database(tmp_path / "DB").entries()] == ["proj/Import_job021"]
