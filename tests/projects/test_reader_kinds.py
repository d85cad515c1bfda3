"""Kinds of faults that public reports showed, each with variants of its own: see also test_reader_cases.py."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from relion_projects import write_relion_project

from cryoflow.database import Database, select_best
from cryoflow.errors import BadInput
from cryoflow.formats.cs import write_cs
from cryoflow.formats.pick_tables import read_file
from cryoflow.ingest import ingest, ingest_tables
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind
from cryoflow.projects import find_jobs, read_job
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.projects.cryosparc.job_types import kind_of
from cryoflow.projects.found import JobStatus
from cryoflow.projects.tables import read_table_of_picks, read_tables
from cryoflow.simulate.cryosparc_files import JobWriter, SimulatedJob, SimulatedOutput, write_project_files

OPTICS = "\ndata_optics\n\nloop_\n_rlnOpticsGroup\n_rlnOpticsGroupName\n_rlnVoltage\n_rlnMicrographPixelSize\n"


def star(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def micrograph(path: Path, shape_yx: tuple[int, int] = (300, 400), pixel_size_A: float = 1.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_mrc(path, np.zeros(shape_yx, np.float32), pixel_size_A)
    return path


def block(name: str, rows: str, labels: str = "rlnMicrographName rlnCoordinateX rlnCoordinateY") -> str:
    return f"\ndata_{name}\n\nloop_\n" + "".join(f"_{label}\n" for label in labels.split()) + rows + "\n"


# Kind 2: blocks are chosen by name, and what is not read is told.


def test_blocks_of_positions_are_all_read_but_rejected_ones(tmp_path: Path) -> None:
    text = (
        block("particles", "a.mrc 10 20") + block("more", "b.mrc 30 40") + block("rejected", "a.mrc 50 60\na.mrc 1 2")
    )
    pickset = read_table_of_picks(star(tmp_path / "p.star", text))
    assert pickset.centers_xy_px.tolist() == [[10, 20], [30, 40]]
    assert any("data_rejected was not read (2 rows)" in note for note in pickset.notes)


def test_a_block_without_positions_is_a_note_with_its_rows(tmp_path: Path) -> None:
    text = block("particles", "a.mrc 10 20") + block("extra", "1 2\n3 4\n5 6", "rlnFoo rlnBar")
    assert any(
        "data_extra was not read (3 rows)" in n for n in read_table_of_picks(star(tmp_path / "a.star", text)).notes
    )


def test_a_cbox_without_boxes_says_that_it_holds_ends_of_filaments(tmp_path: Path) -> None:
    labels = "CoordinateX CoordinateY filamentid Width Height"
    with pytest.raises(BadInput, match="ends of filaments"):
        read_file(star(tmp_path / "a.cbox", block("filament_vertices", "1 2 0 5 5", labels)))
    both = block("cryolo", "1 2 0 6 6", labels) + block("filament_vertices", "1 2 0 5 5", labels)
    found = read_file(star(tmp_path / "b.cbox", both))
    assert (found.x_px[0], found.y_px[0]) == (4, 5)
    assert found.is_helical


def test_the_two_blocks_of_an_xmipp_file_are_read_and_what_is_disabled_is_counted(tmp_path: Path) -> None:
    text = "# XMIPP_STAR_1 *\n#\n" + block("header", "Manual", "pickingMicrographState")
    text += block("particles", "1 10 20\n-1 30 40", "enabled xcoor ycoor")
    text += block("particles_auto", "1 50 60 0.5", "enabled xcoor ycoor cost")
    found = read_file(star(tmp_path / "a.pos", text))
    assert list(zip(found.x_px, found.y_px, strict=True)) == [(10, 20), (50, 60)]
    assert found.counts == {"switched_off": 1}
    assert np.isnan(found.score[0])
    assert found.score[1] == 0.5


# Kind 3: what a group of particles is follows from its name and from words of its job's type.


@pytest.mark.parametrize(
    ("job_type", "kind"),
    [
        *(("reference_select_2D", Kind.SELECT_2D), ("reference_select_2D_v2", Kind.SELECT_2D)),
        *(("reference_select_3D", Kind.SELECT_3D), ("reference_motion_correction", Kind.EXTRACT)),
        *(("local_motion_correction_multi", Kind.EXTRACT), ("curate_exposures_v2", Kind.CURATE)),
        *(("junk_detector_v1", Kind.CURATE), ("junk_detector_v2", Kind.CURATE), ("rebalance_3D", Kind.CURATE)),
        *(("hetero_reconstruct_new", Kind.HETERO), ("regroup_3D_new", Kind.CLASS_3D), ("var_3D_disp", Kind.CLASS_3D)),
        *(
            ("ctf_refine_local", Kind.CURATE),
            ("subset_particles_by_statistic", Kind.CURATE),
            ("align_3D_new", Kind.CURATE),
        ),
        *(("patch_motion_correction_multi", Kind.OTHER), ("something_new", Kind.OTHER), ("", Kind.OTHER)),
    ],
)
def test_job_types_have_their_kind(job_type: str, kind: Kind) -> None:
    assert kind_of(job_type) is kind


@pytest.mark.parametrize(
    "group", ["particles_excluded", "particles_rejected", "junk_particles", "particles_not_selected"]
)
@pytest.mark.parametrize("job_type", ["reference_select_2D", "junk_detector_v1", "something_new"])
def test_rejected_particles_of_any_job_are_negatives(cases: Path, tmp_path: Path, job_type: str, group: str) -> None:
    project = tmp_path / "CS-demo"
    shutil.copytree(cases / "readers" / "cs_reference_select_2D" / "CS-demo", project)
    text = (project / "J20" / "job.json").read_text().replace("reference_select_2D", job_type)
    (project / "J20" / "job.json").write_text(text.replace('particles_excluded"', f'{group}"'))
    labels = {}
    for job in jobs_of(crawl(project).projects).jobs:
        for pickset in read_job(job) if job.status is JobStatus.USABLE else ():
            labels[pickset.provenance.output_group] = set(pickset.picks.get("label", []))
    assert labels[group] == {-1}
    assert labels["particles_selected"] == set()


def test_an_unknown_job_type_is_noted_and_passed_over_by_name(cases: Path, tmp_path: Path) -> None:
    project = tmp_path / "CS-demo"
    shutil.copytree(cases / "readers" / "cs_reference_select_2D" / "CS-demo", project)
    job_json = project / "J20" / "job.json"
    job_json.write_text(job_json.read_text().replace("reference_select_2D", "something_new"))
    ingest(project, tmp_path / "DB", check_orientation=False)
    database = Database(tmp_path / "DB")
    assert any("something_new, is not known" in note for note in database.entry("CS-demo/Other_J20").notes)
    (best,) = select_best(database)
    assert best.entry is not None
    assert best.entry.name == "CS-demo/ManualPick_J3"
    assert any("Other_J20: its job type, something_new, is not known" in text for text in best.passed_over)


@pytest.mark.parametrize("group", ["particles_not_selected", "junk_particles", "particles_bad"])
def test_negatives_are_not_selected_even_where_they_are_the_only_output(
    cases: Path, tmp_path: Path, group: str
) -> None:
    project = tmp_path / "CS-demo"
    shutil.copytree(cases / "readers" / "cs_reference_select_2D" / "CS-demo", project)
    job_json = project / "J20" / "job.json"
    text = job_json.read_text().replace('particles_excluded"', f'{group}"').replace('particles_selected"', 'gone_1"')
    job_json.write_text(text)
    ingest(project, tmp_path / "DB", check_orientation=False)
    database = Database(tmp_path / "DB")
    for entry in [e for e in database.entries() if e.job == "J20" and not e.name.endswith("_J20")]:
        assert set(database.load(entry).picks["label"]) == {-1}
    (best,) = select_best(database)
    assert best.entry is not None
    assert "label" not in database.load(best.entry).picks


def test_a_reviewed_entry_outlives_ingest_and_is_not_selected_in_place_of_its_source(
    cases: Path, tmp_path: Path
) -> None:
    project = tmp_path / "CS-demo"
    shutil.copytree(cases / "readers" / "cs_reference_select_2D" / "CS-demo", project)
    ingest(project, tmp_path / "DB", check_orientation=False)
    database = Database(tmp_path / "DB")
    for name in ("Select2D_J20", "Select2D_J20_excluded"):
        source = database.load(f"CS-demo/{name}")
        suffix = f"{source.provenance.suffix}_reviewed".lstrip("_")
        who = replace(source.provenance, program="cryoflow", job_type="cryoflow.view", suffix=suffix, sources=())
        database.add(replace(source, picks=source.picks.assign(label=np.int8(1)), provenance=who))
    ingest(project, tmp_path / "DB", check_orientation=False, reread=True)
    (best,) = select_best(database)
    assert best.entry is not None
    assert best.entry.name == "CS-demo/Select2D_J20"
    shutil.rmtree(project / "J20")
    ingest(project, tmp_path / "DB", check_orientation=False)
    status = {e.name: e.status for e in database.entries() if e.job == "J20"}
    assert status == {
        "CS-demo/Select2D_J20": "cleared",
        "CS-demo/Select2D_J20_excluded": "cleared",
        "CS-demo/Select2D_J20_excluded_reviewed": "current",
        "CS-demo/Select2D_J20_reviewed": "current",
    }
    (best,) = select_best(database)
    assert best.entry is not None
    assert best.entry.name == "CS-demo/Select2D_J20_reviewed"


# Kind 4: crawl and ingest answer alike.


def broken_projects(folder: Path, blots) -> list[Path]:
    """Projects of RELION with what people do to them."""
    projects = []

    def variant(name: str) -> Path:
        projects.append(write_relion_project(folder / name, blots))
        return projects[-1]

    variant("whole")
    (variant("no_list") / "AutoPick/job005/autopick.star").unlink()
    shutil.rmtree(next((variant("no_files") / "AutoPick/job005").glob("*/")))
    table = variant("no_names") / "Refine3D/job011/run_data.star"
    table.write_text(table.read_text().replace("_rlnMicrographName", "_rlnOtherName"))
    listed = variant("list_is_cut") / "AutoPick/job005/autopick.star"
    listed.write_text(listed.read_text().replace("_rlnMicrographCoordinates", "_rlnOther"))
    (variant("empty_table") / "Select/job008/particles.star").write_bytes(b"")
    return projects


def test_what_crawl_calls_usable_is_read_and_nothing_else(tmp_path: Path, blots, cases: Path) -> None:
    projects = broken_projects(tmp_path, blots)
    shutil.copytree(cases / "readers" / "relion31_import_coordinates" / "proj", tmp_path / "relion31")
    shutil.copytree(cases / "readers" / "cs_reference_select_2D" / "CS-demo", tmp_path / "CS-demo")
    for root in [*projects, tmp_path / "relion31", tmp_path / "CS-demo"]:
        listed = jobs_of(crawl(root).projects, count=True).jobs
        usable = {job.job for job in listed if job.status is JobStatus.USABLE}
        report = ingest(root, tmp_path / f"DB-{root.name}", check_orientation=False)
        read = {line.job for line in report.lines if line.status == "read"}
        assert read == usable, root.name
        failed = {line.job for line in report.lines if line.status == "failed"}
        assert failed == {job.job for job in listed if job.status is JobStatus.UNREADABLE}, root.name


DAMAGES = {
    "deleted": None,
    "emptied": lambda content: b"",
    "halved": lambda content: content[: len(content) // 2],
    "cut short": lambda content: content[:-7],
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("case", ["relion31_import_coordinates/proj", "cs_reference_select_2D/CS-demo"])
def test_crawl_and_ingest_agree_whichever_file_is_damaged(tmp_path: Path, cases: Path, case: str, damage: str) -> None:
    whole = cases / "readers" / case
    for i, file in enumerate(sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())):
        root = tmp_path / str(i) / whole.name
        shutil.copytree(whole, root)
        if change := DAMAGES[damage]:
            (root / file).write_bytes(change((root / file).read_bytes()))
        else:
            (root / file).unlink()
        usable = {job.job for job in jobs_of(crawl(root).projects, count=True).jobs if job.status is JobStatus.USABLE}
        report = ingest(root, tmp_path / f"DB{i}", check_orientation=False)
        assert {line.job for line in report.lines if line.status == "read"} == usable, (file, damage)


# Kind 5: a missing join key keeps what is unambiguous.

ROWS = "a.mrc 100 50 8 -4"
LABELS = "rlnMicrographName rlnCoordinateX rlnCoordinateY rlnOriginXAngst rlnOriginYAngst"


@pytest.mark.parametrize(
    ("optics", "kV", "pixel_A"),
    [
        ("1 one 300 2.0\n", 300, 2.0),
        ("1 one 300 2.0\n2 two 300 2.0\n", 300, 2.0),
        ("1 one 300 2.0\n2 two 200 2.0\n", np.nan, 2.0),
        ("1 one 300 2.0\n2 two 300 1.0\n", 300, np.nan),
    ],
)
def test_groups_that_agree_say_it_for_rows_that_name_none(
    tmp_path: Path, optics: str, kV: float, pixel_A: float
) -> None:
    pickset = read_table_of_picks(star(tmp_path / "a.star", OPTICS + optics + block("particles", ROWS, LABELS)))
    np.testing.assert_equal(pickset.micrographs["voltage_kV"].tolist(), [kV])
    np.testing.assert_equal(pickset.micrographs["pixel_size_A"].tolist(), [pixel_A])
    assert pickset.centers_xy_px.tolist() == ([[96, 52]] if pixel_A == 2 else [[100, 50]])


@pytest.mark.parametrize("n_exposures", [1, 2])
def test_picks_without_the_uid_of_their_micrograph_find_its_exposure_by_path(tmp_path: Path, n_exposures: int) -> None:
    project = tmp_path / "P1"
    project.mkdir()
    paths = [f"J1/imported/m{i}.mrc".encode() for i in range(n_exposures)]
    exposures = {
        "uid": np.arange(1, n_exposures + 1, dtype=np.uint64),
        "micrograph_blob/path": np.array(paths),
        "micrograph_blob/shape": np.tile(np.array([300, 400], np.uint32), (n_exposures, 1)),
        "micrograph_blob/psize_A": np.linspace(1.5, 2.5, n_exposures).astype(np.float32),
        "ctf/accel_kv": np.full(n_exposures, 300, np.float32),
    }
    picks = {
        "uid": np.array([7], np.uint64),
        "location/micrograph_path": np.array([b"elsewhere/m0.mrc" if n_exposures == 1 else paths[1]]),
        "location/micrograph_shape": np.array([[300, 400]], np.uint32),
        "location/center_x_frac": np.array([0.5], np.float32),
        "location/center_y_frac": np.array([0.5], np.float32),
    }
    writer = JobWriter(project, "4.5", "npy")
    own = SimulatedOutput("imported_micrographs", exposures, item_type="exposure", own_file="imported_micrographs.cs")
    writer.write(SimulatedJob("J1", "import_micrographs", [own]))
    output = SimulatedOutput("particles", picks, own_file="picked_particles.cs")
    writer.write(SimulatedJob("J2", "manual_picker_v2", [output], [("J1", "imported_micrographs")]))
    write_project_files(project, "4.5", ["J1", "J2"], "test")
    (job,) = [job for job in jobs_of(crawl(project).projects).jobs if job.job == "J2"]
    (pickset,) = read_job(job)
    assert pickset.micrographs["pixel_size_A"].tolist() == [1.5 if n_exposures == 1 else 2.5]
    assert pickset.micrographs["voltage_kV"].tolist() == [300]


# Kind 6: micrographs are found by their own names; equal names are told apart; Windows.


@pytest.mark.parametrize("appended", ["", "_automatch", "_applepick", "_my-own.words", "-picked", ".v2"])
def test_a_picker_may_append_anything_to_the_name(tmp_path: Path, appended: str) -> None:
    for name in ("mic_1.mrc", "mic_10.mrc", "mic_1_0.mrc"):
        micrograph(tmp_path / "mics" / name)
    (tmp_path / f"mic_1{appended}.txt").write_text("10 20\n")
    pickset = read_table_of_picks(tmp_path / f"mic_1{appended}.txt", tmp_path / "mics")
    assert pickset.micrographs["name"].tolist() == ["mic_1.mrc"]
    assert pickset.micrographs["status"].tolist() == ["found"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("grid2/a.mrc", "grid2/a.mrc"),
        ("/lost/disk/grid1/a.mrc", "grid1/a.mrc"),
        ("D:\\data\\grid2\\a.mrc", "grid2/a.mrc"),
        ("grid2\\b.mrc", "grid2/b.mrc"),
        ("grid3/a.mrc", None),
        ("a.mrc", None),
    ],
)
def test_the_end_of_a_path_tells_equal_names_apart(tmp_path: Path, name: str, found: str | None) -> None:
    for place in ("grid1/a.mrc", "grid2/a.mrc", "grid2/b.mrc"):
        micrograph(tmp_path / "all" / place)
    assert Finder(tmp_path).find(name) == (None if found is None else tmp_path / "all" / found)


def test_a_part_of_the_micrographs_found_is_no_failure(tmp_path: Path) -> None:
    micrograph(tmp_path / "mics" / "a.mrc")
    (tmp_path / "p.csv").write_text("xcoord,ycoord,filename\n10,20,a.mrc\n10,20,b.mrc\n")
    assert ingest_tables([tmp_path / "p.csv"], tmp_path / "DB", micrographs=tmp_path / "mics").exit_code == 0
    (tmp_path / "q.csv").write_text("xcoord,ycoord,filename\n10,20,c.mrc\n")
    report = ingest_tables([tmp_path / "q.csv"], tmp_path / "DB", micrographs=tmp_path / "mics")
    assert report.exit_code == 3
    assert "looked for c.mrc; there is a.mrc" in report.lines[0].warning


@pytest.mark.parametrize("rejected", ["a-rejected.box", "a.rejected.box", "a_REJECTED.box", "a_not_selected.box"])
def test_rejected_picks_are_kept_apart_whatever_separates_the_word(tmp_path: Path, rejected: str) -> None:
    micrograph(tmp_path / "mics" / "a.mrc")
    (tmp_path / "picks").mkdir()
    (tmp_path / "picks" / "a.box").write_text("10 20 4 4\n")
    (tmp_path / "picks" / rejected).write_text("50 60 4 4\n")
    picks, negative = read_tables(tmp_path / "picks", tmp_path / "mics").picksets
    assert picks.centers_xy_px.tolist() == [[12, 22]]
    assert negative.centers_xy_px.tolist() == [[52, 62]]
    assert set(negative.picks["label"]) == {-1}
    assert negative.micrographs["name"].tolist() == ["a.mrc"]


@pytest.mark.parametrize(
    "name",
    ["\\\\host\\disk\\grid2\\a.mrc", "../grid2/a.mrc", "/gone/grid2/a.mrc", "/gone/grid2/a", "pictures\\grid2\\a.png"],
)
def test_tables_name_micrographs_by_the_end_of_a_path(tmp_path: Path, name: str) -> None:
    for grid in ("grid1", "grid2"):
        micrograph(tmp_path / "mics" / grid / "a.mrc")
    (tmp_path / "p.csv").write_text(f"x,y,filename\r\n10,20,{name}\r\n")
    pickset = read_table_of_picks(tmp_path / "p.csv", tmp_path / "mics")
    assert pickset.micrographs["path"].tolist() == [str(tmp_path / "mics" / "grid2" / "a.mrc")]


# Kind 7: datasets that belong together are joined.


def dataset(path: Path, names: str, uids: list[int]) -> None:
    n = len(uids)
    columns: dict[str, np.ndarray] = {"uid": np.array(uids, np.uint64)}
    if "location" in names:
        columns["location/micrograph_path"] = np.full(n, b"J1/imported/a.mrc", "S20")
        columns["location/micrograph_shape"] = np.tile(np.array([300, 400], np.uint32), (n, 1))
        columns["location/center_x_frac"] = (np.array(uids) / 400).astype(np.float32)
        columns["location/center_y_frac"] = np.full(n, 0.5, np.float32)
        columns["location/micrograph_psize_A"] = np.full(n, 2.0, np.float32)
    if "alignments3D" in names:
        columns["alignments3D/shift"] = np.tile(np.array([2, 0], np.float32), (n, 1))
        columns["alignments3D/psize_A"] = np.full(n, 2.0, np.float32)
    write_cs(path, columns)


@pytest.mark.parametrize(
    ("own", "passed"),
    [
        ("J7_010_particles.cs", "J7_passthrough_particles.cs"),
        ("cryosparc_P1_J7_class_01_00100_particles.cs", "P1_J7_passthrough_particles_class_1.cs"),
        ("particles_selected.cs", "J7_passthrough_particles_selected.cs"),
    ],
)
def test_a_dataset_and_its_passthrough_are_joined_by_name(tmp_path: Path, own: str, passed: str) -> None:
    dataset(tmp_path / own, "alignments3D", [10, 20])
    dataset(tmp_path / passed, "location", [30, 20, 10])
    for given in (own, passed):
        pickset = read_table_of_picks(tmp_path / given)
        assert sorted(pickset.centers_xy_px[:, 0].round(3).tolist()) == [8, 18]
    dataset(tmp_path / "J8_passthrough_particles.cs", "location", [40])
    whole = read_tables(tmp_path)
    assert sorted(len(pickset) for pickset in whole.picksets) == [1, 2]


@pytest.mark.parametrize(
    ("own", "passed", "given"),
    [
        ("cryosparc_P12_J11_004_particles (1).cs", "P12_J11_passthrough_particles (1).cs", "."),
        ("J11_004_particles.CS", "J11_passthrough_particles.cs", "."),
        ("J11-004-particles.cs", "J11-passthrough-particles.cs", "."),
        ("own/J11_004_particles.cs", "passthrough/J11_passthrough_particles.cs", "own"),
        ("refined.cs", "picks of before.cs", "refined.cs"),
    ],
)
def test_a_dataset_and_its_passthrough_are_joined_by_their_uids(
    tmp_path: Path, own: str, passed: str, given: str
) -> None:
    for name, columns, uids in ((own, "alignments3D", [10, 20]), (passed, "location", [30, 20, 10])):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        dataset(tmp_path / name, columns, uids)
    (pickset,) = read_tables(tmp_path / given).picksets
    assert pickset.centers_xy_px[:, 0].round(3).tolist() == [8, 18]
    assert any(f"joined by uid with {Path(passed).name}" in note for note in pickset.notes)


def test_datasets_of_two_projects_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    for project, uids in (("P1", [10]), ("P2", [50])):
        dataset(tmp_path / f"cryosparc_{project}_J11_004_particles.cs", "alignments3D", uids)
        dataset(tmp_path / f"{project}_J11_passthrough_particles.cs", "location", uids)
    reading = read_tables(tmp_path)
    assert [p.centers_xy_px[:, 0].round(3).tolist() for p in reading.picksets] == [[8], [48]]


def test_earlier_iterations_of_a_folder_are_left_out_and_read_where_they_are_named(tmp_path: Path) -> None:
    for name in ("J11_001_particles.cs", "J11_004_particles.cs"):
        dataset(tmp_path / name, "alignments3D", [10, 20])
    dataset(tmp_path / "J11_passthrough_particles.cs", "location", [10, 20])
    (pickset,) = read_tables(tmp_path).picksets
    assert pickset.provenance.output_group == "J11_004_particles.cs"
    assert any("left out, of earlier iterations (J11_001_particles.cs" in note for note in pickset.notes)
    assert len(read_table_of_picks(tmp_path / "J11_001_particles.cs")) == 2


def test_datasets_without_a_common_particle_are_not_joined(tmp_path: Path) -> None:
    dataset(tmp_path / "J11_004_particles.cs", "alignments3D", [1, 2])
    dataset(tmp_path / "J11_passthrough_particles.cs", "location", [10, 20])
    with pytest.raises(BadInput, match="no uid is in both datasets"):
        read_table_of_picks(tmp_path / "J11_004_particles.cs")


def test_a_passthrough_alone_says_that_it_is_one(tmp_path: Path) -> None:
    dataset(tmp_path / "J9_passthrough_particles.cs", "location", [10])
    (note,) = [n for n in read_table_of_picks(tmp_path / "J9_passthrough_particles.cs").notes if "passthrough" in n]
    assert "passthrough of J9" in note


def test_a_column_of_unicode_text_is_read(tmp_path: Path) -> None:
    table = np.zeros(1, [("uid", "<u8"), ("location/micrograph_path", "<U20"), ("location/micrograph_shape", "<u4", 2),
                         ("location/center_x_frac", "<f4"), ("location/center_y_frac", "<f4")])  # fmt: skip
    table[0] = (1, "mics/ä.mrc", (300, 400), 0.5, 0.25)
    with (tmp_path / "a.cs").open("wb") as file:
        np.lib.format.write_array(file, table)
    pickset = read_table_of_picks(tmp_path / "a.cs")
    assert pickset.micrographs["name"].tolist() == ["mics/ä.mrc"]
    assert pickset.centers_xy_px.tolist() == [[200, 75]]


# Kind 8: marks and comments carry meaning.


@pytest.mark.parametrize(
    ("rows", "n", "counts", "scored"),
    [
        ("1 2 4 4 -3\n3 4 4 4 -3\n", 2, {}, False),
        ("1 2 4 4 -1\n9 9 4 4 -2\n3 4 4 4 -3\n", 1, {"helix_end": 2}, False),
        ("1 2 4 4 0.5\n3 4 4 4 -3\n", 2, {}, True),
        ("1 2 4 4\n3 4 4 4\n", 2, {}, False),
    ],
)
def test_marks_of_boxes_are_no_scores(tmp_path: Path, rows: str, n: int, counts: dict[str, int], scored: bool) -> None:
    found = read_file(star(tmp_path / "a.box", rows))
    assert len(found) == n
    assert found.counts == counts
    assert (found.score is not None) == scored


def test_segments_of_helices_in_two_columns_are_centers_and_not_folded(tmp_path: Path) -> None:
    lines = "".join(f"{50 + 3 * i} 50\n" for i in range(20))
    head = "#micrograph: real_name.mrc\n#segment length: 100\n#helix: (50, 50),(107, 50),100\n"
    pickset = read_table_of_picks(star(tmp_path / "a.txt", head + lines))
    assert len(pickset) == 20
    assert pickset.micrographs["name"].tolist() == ["real_name.mrc"]


@pytest.mark.parametrize("off", ["0", "-1", "0.000000"])
def test_rows_that_are_switched_off_are_counted(tmp_path: Path, off: str) -> None:
    labels = "rlnEnabled rlnCoordinateX rlnCoordinateY rlnMicrographName"
    text = block("Particles", f"1 10 20 a.mrc\n{off} 30 40 a.mrc", labels)
    pickset = read_table_of_picks(star(tmp_path / "a.star", text))
    assert pickset.centers_xy_px.tolist() == [[10, 20]]
    assert pickset.counts == {"switched_off": 1}


@pytest.mark.parametrize(
    ("labels", "row"),
    [
        ("rlnMicrographName rlnCoordinateX rlnCoordinateY", "TS_01.tomostar 1 2"),
        ("rlnTomoParticleId rlnCoordinateX rlnCoordinateY", "1 1 2"),
        ("wrpCoordinateX1 wrpCoordinateY1 wrpCoordinateZ1 rlnCoordinateX rlnCoordinateY", "1 2 3 4 5"),
    ],
)
def test_tilt_series_are_tomography(tmp_path: Path, labels: str, row: str) -> None:
    with pytest.raises(BadInput, match="tomography"):
        read_table_of_picks(star(tmp_path / "a.star", block("particles", row, labels)))


@pytest.mark.parametrize("name", ["NA", "nan", "None", "001"])
def test_a_micrograph_keeps_its_name_whatever_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / "p.txt").write_text(f"image_name\tx_coord\ty_coord\tscore\n{name}\t1\t2\t0.5\n")
    assert read_file(tmp_path / "p.txt").micrographs.tolist() == [name]


# Kind 10, and formats that were refused.


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a b.mrc 1 2\nc.mrc 3 4", "blanks that is not in quotes"),
        ("1 2\n3 4", "a column is empty in all rows"),
        ("a.mrc 1 2\nb.mrc 3", "cut short"),
    ],
)
def test_messages_of_rows_name_the_cause(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_table_of_picks(star(tmp_path / "a.star", block("particles", rows)))


def test_tilt_pairs_and_bad_boxes_of_eman2_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "a_info.json"
    path.write_text(json.dumps({"boxes_rct": [[1, 2, "tilted"], [3, 4, "tilted"]]}))
    assert read_file(path).notes == ("a micrograph of a tilt pair: 2 tilted",)
    path.write_text(json.dumps({"boxes": [[1, 2, "manual"], [3, 4, "bad"]], "boxes_rct": [[5, 6, "untilted"]]}))
    found = read_file(path)
    assert len(found) == 1
    assert found.counts == {"marked_bad": 1}
    assert "boxes_rct was not read" in found.notes[0]
    path.write_text(json.dumps({"boxes_3d": [[1, 2, 3]]}))
    with pytest.raises(BadInput, match="tomography"):
        read_file(path)


def test_a_tree_of_cryoppp_gives_labels_and_false_positives(tmp_path: Path) -> None:
    top = tmp_path / "10017"
    micrograph(top / "micrographs" / "m.mrc", (300, 400))
    for folder, name, row in (
        ("particle_coordinates", "m.csv", "10,20,50"),
        ("false_positives", "m_false_positives.csv", "30,40,50"),
    ):
        (top / "ground_truth" / folder).mkdir(parents=True)
        (top / "ground_truth" / folder / name).write_text(f"X-Coordinate,Y-Coordinate,Diameter\n{row}\n")
    true, false = read_tables(top).picksets
    assert true.centers_xy_px.tolist() == [[10, 279]]
    assert false.centers_xy_px.tolist() == [[30, 259]]
    assert set(false.picks["label"]) == {-1}
    assert "label" not in true.picks
    assert true.micrographs["status"].tolist() == ["found"]


def test_a_file_of_a_folder_that_cannot_be_read_is_told_and_the_rest_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "picks"
    folder.mkdir()
    (folder / "a.box").write_text("1 2 4 4\n")
    (folder / "b.box").write_text("1 2 4 4\n1 2\n")
    (folder / "readme.txt").write_text("Dear colleague, the picks are here.\n")
    report = ingest_tables([folder], tmp_path / "DB", check_orientation=False)
    assert report.exit_code == 3
    assert "b.box: has lines of 2 and of 4 words" in report.lines[0].warning
    (entry,) = Database(tmp_path / "DB").entries()
    assert entry.n_picks == 1
    assert any("readme.txt" in note for note in entry.notes)


@pytest.mark.parametrize("name", ["bad_micrographs.txt", "excluded.txt", "notes.txt"])
def test_a_list_of_names_among_the_tables_of_a_folder_is_a_note(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.box").write_text("10 20 4 4\n")
    (tmp_path / "b.box").write_text("30 50 4 4\n")
    (tmp_path / name).write_text("c.mrc\nd.mrc\n")
    reading = read_tables(tmp_path)
    (pickset,) = reading.picksets
    assert pickset.centers_xy_px.tolist() == [[12, 22], [32, 52]]
    assert reading.failures == ()
    assert any(name in note for note in pickset.notes)
    with pytest.raises(BadInput, match="no columns of x and y"):
        read_tables(tmp_path / name)


def test_damaged_rejected_picks_are_a_failure_and_never_stand_for_the_main_set(tmp_path: Path) -> None:
    (tmp_path / "a.box").write_text("10 20 4 4\n")
    (tmp_path / "a_rejected.box").write_text("1 2 4 4\n1 2\n")
    reading = read_tables(tmp_path)
    assert [p.centers_xy_px.tolist() for p in reading.picksets] == [[[12, 22]]]
    assert ["a_rejected.box" in failure for failure in reading.failures] == [True]
    (tmp_path / "a.box").rename(tmp_path / "b_rejected.box")
    (tmp_path / "a_rejected.box").rename(tmp_path / "a.box")
    with pytest.raises(BadInput, match=r"a\.box: has lines of 2 and of 4 words"):
        read_tables(tmp_path)


def test_a_project_is_never_taken_for_a_folder_of_tables(tmp_path: Path, blots) -> None:
    from cryoflow.ingest.roots import split_roots

    project = write_relion_project(tmp_path / "P1", blots)
    (project / "notes.txt").write_text("1 2\n")
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "a.box").write_text("1 2 4 4\n")
    table, folder = tmp_path / "tables", project
    assert split_roots([folder, table, project / "AutoPick" / "job005"]) == (
        [table],
        [folder, project / "AutoPick/job005"],
    )
    assert [job.job for job in find_jobs(crawl(project).projects[0])]
