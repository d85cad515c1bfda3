"""RELION projects of every generation: the right jobs, the right picks, right at the pixel."""

from __future__ import annotations

import os
import shutil
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relion_projects import write_relion_project

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.formats.star import read_blocks, read_table, write_star
from cryoflow.micrographs.image import read_micrograph
from cryoflow.picks import PickSet
from cryoflow.projects.crawl import crawl
from cryoflow.projects.found import Job, JobStatus
from cryoflow.projects.relion import find_jobs, read_job, recognize, with_counts
from cryoflow.projects.relion.coordinates import tail
from cryoflow.simulate.simulated_dataset import SimulatedDataset

GENERATIONS = ["2", "3.0", "3.1", "4", "5.0"]
REFINED = ["Select2D", "Select3D", "Refine3D"]


def jobs_of(folder: Path) -> dict[str, Job]:
    project = recognize(folder, os.listdir(folder))
    assert project is not None
    found = [job for job in find_jobs(project) if job.kind.value != "Other"]
    return {job.kind.value: job for job in found}


def truth(dataset: SimulatedDataset) -> dict[str, np.ndarray]:
    return {m.path.name: m.true_xy_px for m in dataset.micrographs}


def by_name(pickset: PickSet) -> dict[str, np.ndarray]:
    return {
        Path(pickset.micrographs["name"][i]).name: picks[["x_px", "y_px"]].to_numpy()
        for i, picks in pickset.by_micrograph()
    }


def in_order(xy: np.ndarray) -> np.ndarray:
    return xy[np.lexsort(xy.T)]


def assert_at(pickset: PickSet, expected: dict[str, np.ndarray], atol: float = 2e-5) -> None:
    found = by_name(pickset)
    assert found.keys() == expected.keys()
    for name, xy in expected.items():
        np.testing.assert_allclose(in_order(found[name]), in_order(xy), atol=atol)


@pytest.mark.parametrize("version", GENERATIONS)
def test_every_generation_gives_the_picks_that_were_put_in(tmp_path: Path, blots, version: str) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, version=version))
    all_picks = {m.path.name: m.picks_xy_px for m in blots.micrographs}
    for kind in ("AutoPick", "Extract"):
        (pickset,) = read_job(jobs[kind])
        assert_at(pickset, all_picks)
        assert len(pickset) == 66
        scores = np.concatenate([m.pick_scores for m in sorted(blots.micrographs, key=lambda m: str(m.path))])
        np.testing.assert_allclose(np.sort(pickset.picks["score"]), np.sort(scores), atol=1e-6)
        assert pickset.score_kind == "rlnAutopickFigureOfMerit"
    (manual,) = read_job(jobs["ManualPick"])
    first = dict(list(truth(blots).items())[:5])
    assert_at(manual, first | {"mic005.mrc": np.zeros((0, 2))})
    assert "score" not in manual.picks  # -999 is no score
    assert "psi_deg" not in manual.picks
    for kind in REFINED:
        (pickset,) = read_job(jobs[kind])
        assert_at(pickset, truth(blots))  # coordinate - origin / pixel size is the true center
        np.testing.assert_allclose(pickset.micrographs["pixel_size_A"], 2.5)
        assert pickset.box_px == 24
        assert dict(pickset.counts) == {}


@pytest.mark.parametrize("version", ["1", *GENERATIONS])
def test_pixels_under_the_picks_are_those_of_particles(tmp_path: Path, blots, version: str) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, version=version))
    (pickset,) = read_job(jobs["Refine3D"])
    values = []
    for i, picks in pickset.by_micrograph():
        image = read_micrograph(pickset.micrographs["path"][i])
        assert image.shape == (pickset.micrographs["ny"][i], pickset.micrographs["nx"][i])
        assert image.shape[0] < image.shape[1]
        x, y = picks["x_px"].round().astype(int), picks["y_px"].round().astype(int)
        values.append(image[y, x])
    assert len(np.concatenate(values)) == 48
    assert np.concatenate(values).max() < -1.5  # blots go down to -3, noise is 0.3


@pytest.mark.parametrize("version", GENERATIONS)
def test_shifts_and_optics_are_kept(tmp_path: Path, blots, version: str) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, version=version))
    (extracted,), (refined,) = read_job(jobs["Extract"]), read_job(jobs["Refine3D"])
    assert "shift_x_px" not in extracted.picks
    shifts = refined.picks[["shift_x_px", "shift_y_px"]].to_numpy()
    assert 1 < np.abs(shifts).max() < 3.01
    recorded = refined.centers_xy_px + shifts
    all_picks = np.concatenate([m.picks_xy_px[m.pick_is_right] for m in blots.micrographs])
    np.testing.assert_allclose(in_order(recorded), in_order(all_picks), atol=2e-5)
    row = refined.micrographs.set_index("name").loc["MotionCorr/job002/Movies/mic001.mrc"]
    assert row["voltage_kV"] == 300
    assert row["cs_mm"] == pytest.approx(2.7)
    assert row["amplitude_contrast"] == pytest.approx(0.1)
    assert row["defocus_u_A"] == pytest.approx(15_500, abs=150)  # the median of refined defoci
    assert row["defocus_angle_deg"] == pytest.approx(30)
    (picked,) = read_job(jobs["AutoPick"])
    assert picked.micrographs["defocus_u_A"].tolist() == [15_000.0 + 500 * i for i in (3, 0, 1, 2, 4, 5)]


@pytest.mark.parametrize("version", ["3.1", "5.0"])
@pytest.mark.parametrize(
    "quirks",
    [
        {"optics_last": True},
        {"optics_groups": 3},
        {"optics_groups": 2, "optics_last": True, "keeps_micrograph_pixel_size": True},
        {"dot_names": True},
        {"aliases": False, "nested_copies": False},
        {"pipeline": False},
        {"continued": True},
        {"first_job": 996},
        {"micrographs": "copy"},
    ],
    ids=str,
)
def test_quirks_change_nothing(tmp_path: Path, blots, version: str, quirks) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, version=version, **quirks))
    for kind in REFINED:
        (pickset,) = read_job(jobs[kind])
        assert_at(pickset, truth(blots))
        np.testing.assert_allclose(pickset.micrographs["pixel_size_A"], 2.5)
    (picked,) = read_job(jobs["AutoPick"])
    assert len(picked) == 66


def test_jobs_past_999_are_in_order_of_number(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, version="5.0", first_job=996)
    project = recognize(folder, os.listdir(folder))
    jobs = find_jobs(project)
    assert [j.job for j in jobs] == [f"job{n}" for n in range(996, 1007)]
    assert jobs[-1].kind.value == "Refine3D"


def test_each_particle_has_the_optics_of_its_group(tmp_path: Path, blots) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, version="4", optics_groups=2, optics_last=True))
    (pickset,) = read_job(jobs["Refine3D"])
    contrast = dict(zip(pickset.micrographs["name"], pickset.micrographs["amplitude_contrast"], strict=True))
    assert contrast["MotionCorr/job002/Movies/mic000.mrc"] == pytest.approx(0.10)
    assert contrast["MotionCorr/job002/Movies/mic001.mrc"] == pytest.approx(0.11)
    assert set(pickset.picks["optics_group"]) == {1, 2}


def test_a_refinement_that_has_not_converged_is_unfinished(tmp_path: Path, blots) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, converged=False))
    job = jobs["Refine3D"]
    assert job.status is JobStatus.UNFINISHED
    assert "not converged" in job.reason
    assert "run_it014_data.star" in job.reason
    with pytest.raises(BadInput, match="unfinished"):
        read_job(job)
    (pickset,) = read_job(job, include_unfinished=True)
    assert_at(pickset, truth(blots))


@pytest.mark.parametrize("version", ["3.0", "3.1", "5.0"])
@pytest.mark.parametrize(
    ("said", "status"),
    [("Running", JobStatus.STALE), ("Scheduled", JobStatus.UNFINISHED), ("Failed", JobStatus.FAILED)],
)
def test_how_a_job_ended_is_seen(tmp_path: Path, blots, version: str, said: str, status: JobStatus) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, version=version, status={"AutoPick": said}))
    assert jobs["AutoPick"].status is status
    assert jobs["AutoPick"].reason
    assert jobs["Refine3D"].status is JobStatus.USABLE


def test_a_running_job_is_unfinished_until_its_last_file_is_there_and_stale_then(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, version="3.0", status={"Refine3D": "Running"})
    job = jobs_of(folder)["Refine3D"]
    assert job.status is JobStatus.STALE
    assert "run_data.star is there" in job.reason
    with pytest.raises(BadInput, match="is stale"):
        read_job(job)
    (pickset,) = read_job(job, include_unfinished=True)
    assert_at(pickset, truth(blots))
    final = folder / "Refine3D/job011/run_data.star"
    os.utime(final, (1, 1))  # of a run before; it was continued, and writes iterations
    assert jobs_of(folder)["Refine3D"].status is JobStatus.UNFINISHED
    final.unlink()
    assert jobs_of(folder)["Refine3D"].status is JobStatus.UNFINISHED


@pytest.mark.parametrize("version", GENERATIONS)
def test_particles_that_were_handed_on_and_extracted_again_are_at_the_true_centers(
    tmp_path: Path, blots, version: str
) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, version=version, went_on=True)
    project = recognize(folder, os.listdir(folder))
    after = [job for job in find_jobs(project) if int(job.job.removeprefix("job")) > 11]
    assert [j.kind.value for j in after] == ["Curate", "Curate", "Extract", "Refine3D"]
    for job in after:
        (pickset,) = read_job(job)
        assert_at(pickset, truth(blots), atol=2e-4)
        np.testing.assert_allclose(pickset.micrographs["pixel_size_A"], 2.5)
        assert pickset.box_px == 24
    assert np.abs(pickset.picks["shift_x_px"]).max() <= 0.5  # only the rest is left to subtract


def test_a_job_that_hands_on_no_picks_of_its_own_says_so(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, went_on=True)
    for job, file, option, why in (
        ("Polish/job013", "shiny.star", "do_param_optim", "trains parameters"),
        ("Subtract/job020", "particles_subtracted.star", "do_center_mask", "recentered on a part"),
    ):
        (folder / job).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "Refine3D/job011/run_data.star", folder / job / file)
        values = {"rlnJobOptionVariable": ["other"], "rlnJobOptionValue": ["No"]}
        write_star(folder / job / "job.star", {"joboptions_values": values}, comment="")
        assert {j.job: j for j in listed(folder)}[job[-6:]].status is JobStatus.USABLE
        values = {"rlnJobOptionVariable": [option], "rlnJobOptionValue": ["Yes"]}
        write_star(folder / job / "job.star", {"joboptions_values": values}, comment="# again")
        found = {j.job: j for j in listed(folder)}[job[-6:]]
        assert found.status is JobStatus.NOT_OF_INTEREST
        assert why in found.reason


def listed(folder: Path) -> list[Job]:
    project = recognize(folder, os.listdir(folder))
    assert project is not None
    return find_jobs(project)


def test_the_exit_file_knows_better_than_the_pipeline(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, status={"Refine3D": "Running"})
    (folder / "Refine3D/job011/RELION_JOB_EXIT_SUCCESS").touch()
    assert jobs_of(folder)["Refine3D"].status is JobStatus.USABLE


@pytest.mark.parametrize("how", ["interactive", "class2dauto", "onvalue", "removeduplicates", "split"])
@pytest.mark.parametrize("version", ["3.1", "4"])
def test_selections_of_2d_classes_are_told_by_what_they_read(tmp_path: Path, blots, how: str, version: str) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, version=version, select2d=how)
    project = recognize(folder, os.listdir(folder))
    selections = [j for j in find_jobs(project) if j.job_type.startswith("relion.select")]
    kinds = [j.kind.value for j in selections]
    assert kinds == (["Select2D"] * (2 if how == "removeduplicates" else 1) + ["Select3D"])
    picksets = read_job(selections[-2])
    if how == "split":
        assert [p.provenance.entry_name for p in picksets] == ["Select2D_job008_split1", "Select2D_job008_split2"]
        assert sum(len(p) for p in picksets) == 48
    else:
        assert_at(picksets[0], truth(blots))


def test_classes_are_never_mixed(tmp_path: Path, blots) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots))
    picksets = read_job(jobs["Class3D"])
    assert [p.provenance.entry_name for p in picksets] == ["Class3D_job009_class1", "Class3D_job009_class2"]
    assert [len(p) for p in picksets] == [32, 16]
    for number, pickset in enumerate(picksets, 1):
        assert set(pickset.picks["class"]) == {number}
    (both,) = read_job(jobs["Class3D"], classes=[1, 2])
    assert both.provenance.entry_name == "Class3D_job009_class1+2"
    assert len(both) == 48
    assert jobs["Class2D"].status is JobStatus.NOT_OF_INTEREST
    with pytest.raises(BadInput, match="good and bad"):
        read_job(jobs["Class2D"])
    (good,) = read_job(jobs["Class2D"], classes=[1, 2])
    assert_at(good, truth(blots))


def test_classes_whose_number_nobody_knows_are_not_mixed_silently(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    (folder / "Class3D/job009/job.star").unlink()
    assert len(read_job(jobs_of(folder)["Class3D"])) == 2  # the model says it
    (folder / "Class3D/job009/run_it025_model.star").unlink()
    job = jobs_of(folder)["Class3D"]
    assert job.status is JobStatus.NOT_OF_INTEREST
    assert len(read_job(job, classes=[2])[0]) == 16


def test_jobs_can_be_counted(tmp_path: Path, blots) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots))
    assert [(o.n_picks, o.n_micrographs) for o in with_counts(jobs["Refine3D"]).outputs] == [(48, 6)]
    assert [o.n_picks for o in with_counts(jobs["Class3D"]).outputs] == [32, 16, 0]


def test_micrographs_without_picks_are_kept(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Refine3D/job011/run_data.star"
    optics, particles = read_blocks(path)["optics"], read_blocks(path)["particles"]
    write_star(path, {"optics": optics, "particles": particles[~particles["rlnMicrographName"].str.contains("mic002")]})
    (pickset,) = read_job(jobs_of(folder)["Refine3D"])
    assert len(pickset) == 40
    assert len(pickset.micrographs) == 6
    assert by_name(pickset)["mic002.mrc"].shape == (0, 2)


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_micrograph_without_a_name_has_no_tail(name: str) -> None:
    assert tail(name) == ""


@pytest.mark.parametrize("number", ["\N{SUPERSCRIPT TWO}", "1" * 5000])
def test_an_image_of_no_number_is_left_out_of_the_sample(tmp_path: Path, blots, number: str) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    whole = read_job(jobs_of(folder)["Extract"])[0]
    path = folder / "Extract/job006/particles.star"
    path.write_text(path.read_text().replace(" 000001@", f" {number}@", 1))
    (pickset,) = read_job(jobs_of(folder)["Extract"])
    assert pickset.centers_xy_px.tolist() == whole.centers_xy_px.tolist()


def test_missing_micrographs_keep_their_picks(tmp_path: Path, blots) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, micrographs="missing"))
    (pickset,) = read_job(jobs["Refine3D"])
    assert_at(pickset, truth(blots))
    assert set(pickset.micrographs["status"]) == {"missing"}
    assert pickset.micrographs["nx"].isna().all()
    moved = str(blots.micrographs[0].path.parent)
    (found,) = read_job(jobs["Refine3D"], remaps={"MotionCorr/job002/Movies": moved})
    assert set(found.micrographs["status"]) == {"found"}
    assert found.micrographs["name"].tolist() == pickset.micrographs["name"].tolist()


def remove(*names: str):
    def change(folder: Path) -> None:
        for name in names:
            for path in folder.glob(name):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def drop_column(file: str, block: str, *labels: str):
    def change(folder: Path) -> None:
        blocks = read_blocks(folder / file)
        blocks[block] = blocks[block].drop(columns=list(labels))
        write_star(folder / file, blocks)

    return change


MOTION, CTF = "MotionCorr/job002/corrected_micrographs.star", "CtfFind/job003/micrographs_ctf.star"


@pytest.mark.parametrize(
    ("changes", "note"),
    [
        ([remove(CTF)], ""),
        ([remove("CtfFind"), remove("Extract", "Class2D", "Class3D", "AutoPick")], ""),
        ([drop_column(CTF, "optics", "rlnMicrographPixelSize")], ""),
        ([remove(CTF), remove(MOTION)], "from their MRC headers"),
        ([remove(CTF), remove(MOTION), remove("MotionCorr/job002/Movies/*")], "the movies' times the binning"),
    ],
)
def test_the_pixel_size_is_recovered_along_the_documented_order(tmp_path: Path, blots, changes, note: str) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    for change in changes:
        change(folder)
    (pickset,) = read_job(jobs_of(folder)["Refine3D"])
    np.testing.assert_allclose(pickset.micrographs["pixel_size_A"], 2.5)
    assert_at(pickset, truth(blots))
    assert note in " ".join(pickset.notes)


def test_an_unknown_pixel_size_stays_unknown_and_nothing_is_shifted(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, version="3.0", micrographs="missing")
    remove(CTF, MOTION)(folder)
    (pickset,) = read_job(jobs_of(folder)["Refine3D"])
    assert pickset.micrographs["pixel_size_A"].isna().all()
    assert any("48 particles were not subtracted" in note for note in pickset.notes)
    recorded = {m.path.name: m.picks_xy_px[m.pick_is_right] for m in blots.micrographs}
    assert_at(pickset, recorded)


def test_tomography_is_skipped_with_a_reason(tmp_path: Path, blots) -> None:
    jobs = jobs_of(write_relion_project(tmp_path / "P1", blots, is_tomo=True))
    assert {j.status for j in jobs.values()} == {JobStatus.NOT_OF_INTEREST}
    assert "tomography" in jobs["Refine3D"].reason


def test_columns_of_tomography_are_seen(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Refine3D/job011/run_data.star"
    path.write_text(path.read_text().replace("_rlnClassNumber", "_rlnTomoName"))
    job = jobs_of(folder)["Refine3D"]
    assert job.status is JobStatus.NOT_OF_INTEREST
    assert "rlnTomoName" in job.reason


DAMAGE = {
    "git-lfs": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n"),
    "web page": lambda p: p.write_text("<!DOCTYPE html><html><body>404</body></html>"),
    "empty": lambda p: p.write_bytes(b""),
    "UTF-16": lambda p: p.write_bytes(p.read_text().encode("utf-16")),
    "words where its header": lambda p: p.write_bytes(p.read_bytes()[:-40]),
    "where numbers are expected": lambda p: p.write_text(p.read_text().replace(" 300.000000 ", " abc ", 1)),
    "no _rlnCoordinateX": lambda p: p.write_text(p.read_text().replace("_rlnCoordinateX", "_rlnSomethingX")),
    "no _rlnMicrographName": lambda p: p.write_text(p.read_text().replace("_rlnMicrographName", "_rlnOtherName")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_file_is_one_clear_error_and_other_jobs_go_on(tmp_path: Path, blots, what: str) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    DAMAGE[what](folder / "Refine3D/job011/run_data.star")
    jobs = jobs_of(folder)
    job = jobs["Refine3D"]
    if what == "where numbers are expected":
        read_job(job)  # optics that cannot be read are unknown; positions are there
    elif job.status is JobStatus.USABLE:
        with pytest.raises(BadInput, match=what):
            read_job(job)
    else:
        assert job.status is JobStatus.UNREADABLE
        assert what in job.reason
    assert len(read_job(jobs["Select3D"])[0]) == 48


def test_crlf_and_nan_are_read_and_counted(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Refine3D/job011/run_data.star"
    blocks = read_blocks(path)
    blocks["particles"].loc[0, "rlnCoordinateX"] = "nan"
    blocks["particles"].loc[1, "rlnCoordinateY"] = "-500.0"
    blocks["particles"] = blocks["particles"].iloc[[*range(48), 5, 5]]
    write_star(path, blocks)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (pickset,) = read_job(jobs_of(folder)["Refine3D"])
    assert dict(pickset.counts) == {"nan": 1, "outside": 1, "duplicate": 2}
    assert len(pickset) == 46


def test_empty_cleared_and_gone(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Select/job008/particles.star"
    path.write_text("data_particles\n\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnMicrographName\n")
    remove("Refine3D/job011/run*_data.star", "AutoPick/job005")(folder)
    jobs = jobs_of(folder)
    assert jobs["Select2D"].status is JobStatus.EMPTY
    assert jobs["Refine3D"].status is JobStatus.CLEARED
    assert jobs["AutoPick"].status is JobStatus.CLEARED
    assert all(jobs[kind].reason for kind in ("Select2D", "Refine3D", "AutoPick"))


def test_lost_coordinate_files_are_said(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    remove("AutoPick/job005/Movies/mic001_autopick.star")(folder)
    (pickset,) = read_job(jobs_of(folder)["AutoPick"])
    assert any("1 of 6 coordinate files are gone" in note for note in pickset.notes)
    assert len(pickset) == 55
    assert len(pickset.micrographs) == 5  # the other is not one without particles
    remove("AutoPick/job005/Movies")(folder)
    with pytest.raises(BadInput, match="none of its 6 coordinate files"):
        read_job(jobs_of(folder)["AutoPick"])


@pytest.mark.parametrize("listed", [True, False])
def test_a_damaged_coordinate_file_costs_its_micrograph_alone(tmp_path: Path, blots, listed: bool) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    if not listed:
        (folder / "AutoPick/job005/autopick.star").unlink()
    whole = read_job(jobs_of(folder)["AutoPick"])[0]
    damaged = folder / "AutoPick/job005/Movies/mic001_autopick.star"
    damaged.write_text(damaged.read_text().replace("_rlnCoordinateX", "_rlnOther"))
    (pickset,) = read_job(jobs_of(folder)["AutoPick"])
    (name,) = set(whole.micrographs["name"]) - set(pickset.micrographs["name"])
    assert PurePosixPath(name).stem == "mic001"
    assert len(pickset) == len(whole) - len(whole[name])
    (note,) = [note for note in pickset.notes if "cannot be read" in note]
    assert "1 of 6 coordinate files" in note
    assert str(damaged) in note
    for file in damaged.parent.glob("*_autopick.star"):
        file.write_bytes(damaged.read_bytes())
    with pytest.raises(BadInput, match="has no _rlnCoordinateX"):
        read_job(jobs_of(folder)["AutoPick"])


def test_segments_of_helices_are_flagged_and_their_ends_refused(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Refine3D/job011/run_data.star"
    blocks = read_blocks(path)
    blocks["particles"]["rlnHelicalTubeID"] = "1"
    write_star(path, blocks)
    job_star = folder / "ManualPick/job004/job.star"
    options = read_blocks(job_star)
    options["joboptions_values"].loc[2] = ["do_startend", "Yes"]
    write_star(job_star, options)
    jobs = jobs_of(folder)
    (pickset,) = read_job(jobs["Refine3D"])
    assert any("helices" in note for note in pickset.notes)
    assert jobs["ManualPick"].status is JobStatus.NOT_OF_INTEREST
    assert "start and end points" in jobs["ManualPick"].reason


def test_shifts_over_a_quarter_of_the_box_are_not_subtracted(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Refine3D/job011/run_data.star"
    blocks = read_blocks(path)
    blocks["particles"].loc[3, "rlnOriginXAngst"] = "40.0"  # 16 pixels of a box of 24
    write_star(path, blocks)
    (pickset,) = read_job(jobs_of(folder)["Refine3D"])
    assert any("1 particles, over a quarter" in note for note in pickset.notes)
    assert (pickset.picks["shift_x_px"] == 0).sum() == 1


@pytest.mark.parametrize("files", ["particles", "coordinates", "old coordinates"])
def test_import_and_external_jobs_give_what_they_hold(tmp_path: Path, blots, files: str) -> None:
    version = "3.1" if files == "old coordinates" else "5.0"
    folder = write_relion_project(tmp_path / "P1", blots, version=version)
    source = {"particles": "Extract/job006", "coordinates": "AutoPick/job005", "old coordinates": "AutoPick/job005"}
    job = folder / "External/job012"
    shutil.copytree(folder / source[files], job)
    for old in ("job.star", "job_pipeline.star", "default_pipeline.star"):
        (job / old).unlink()
    if files == "coordinates":
        table = read_table(job / "autopick.star", None, ["rlnMicrographName", "rlnMicrographCoordinates"])
        paths = [str(p).replace("AutoPick/job005", "External/job012") for p in table["rlnMicrographCoordinates"]]
        write_star(
            job / "autopick.star",
            {
                "coordinate_files": {
                    "rlnMicrographName": list(table["rlnMicrographName"]),
                    "rlnMicrographCoordinates": paths,
                }
            },
        )
    (pickset,) = read_job(jobs_of(folder)["External"])
    assert len(pickset) == 66
    assert_at(pickset, {m.path.name: m.picks_xy_px for m in blots.micrographs})


def test_a_further_table_of_an_external_job_may_be_named_like_a_class(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    job = folder / "External/job012"
    job.mkdir(parents=True)
    names = ("all.star", "class2.star", "classified.star")
    for name in names:
        shutil.copy(folder / "Class3D/job009/run_it025_data.star", job / name)
    found = jobs_of(folder)["External"]
    assert [output.group for output in found.outputs] == list(names)
    assert [output.n_picks for output in with_counts(found).outputs] == [48, 48, 48]
    picksets = read_job(found)
    assert [p.provenance.suffix for p in picksets] == ["", "class2", "classified"]
    for pickset in picksets:
        assert_at(pickset, truth(blots))


def test_relion_1_is_read_by_its_free_names(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "old", blots, version="1")
    jobs = jobs_of(folder)
    assert {(j.kind.value, j.job) for j in jobs.values()} == {("Class2D", "run1"), ("Refine3D", "run1")}
    (pickset,) = read_job(jobs["Refine3D"])
    assert pickset.provenance.entry_name == "Refine3D_run1"
    assert_at(pickset, truth(blots))


def test_copies_of_the_pipeline_trash_and_nodes_are_no_projects(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    shutil.copytree(folder / "Refine3D", folder / "Trash/Refine3D")
    for inside in ("Refine3D/job011", "Trash/Refine3D/job011", "Refine3D/final", ".Nodes", "Trash", "Refine3D"):
        assert recognize(folder / inside, os.listdir(folder / inside)) is None, inside
    result = crawl(tmp_path)
    assert [p.path for p in result.projects] == [folder]
    assert not result.unreadable


def test_other_folders_are_no_projects(tmp_path: Path) -> None:
    for names in ([], ["Class2D"], ["project.json", "J1"], ["Select", "Import"]):
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
        assert recognize(tmp_path, names) is None


def test_a_damaged_pipeline_does_not_hide_the_jobs(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    (folder / "default_pipeline.star").write_bytes(b"\0\0\0\0")
    project = recognize(folder, os.listdir(folder))
    assert "damaged" in project.notes[0]
    (pickset,) = read_job(jobs_of(folder)["Refine3D"])
    assert_at(pickset, truth(blots))


def test_nothing_in_the_project_is_touched(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)

    def state() -> list[tuple[str, int, int]]:
        return sorted((str(p), p.lstat().st_mtime_ns, p.lstat().st_size) for p in folder.rglob("*"))

    before = state()
    for job in jobs_of(folder).values():
        if job.status is JobStatus.USABLE:
            read_job(job)
    assert state() == before


def test_the_same_project_gives_the_same_picks(tmp_path: Path, blots) -> None:
    first, second = (
        read_job(jobs_of(write_relion_project(tmp_path / name, blots))["Refine3D"])[0] for name in ("a", "b")
    )
    assert first.picks.equals(second.picks)
    assert (tmp_path / "a/Refine3D/job011/run_data.star").read_bytes() == (
        tmp_path / "b/Refine3D/job011/run_data.star"
    ).read_bytes()


def test_the_real_pipeline_is_listed_for_what_it_is(realdata: Path) -> None:
    folder = realdata / "relion31_pipeline"
    project = recognize(folder, os.listdir(folder))
    assert project.program_version == "3.1"
    jobs = {j.job: j for j in find_jobs(project)}
    assert len(jobs) == 31
    kinds = {name: jobs[name].kind.value for name in ("job004", "job005", "job009", "job014", "job017", "job029")}
    assert kinds == {
        "job004": "ManualPick",
        "job005": "Select",
        "job009": "Select2D",
        "job014": "Select2D",
        "job017": "Select3D",
        "job029": "Refine3D",
    }
    assert jobs["job029"].alias == "shiny"
    assert jobs["job029"].status is JobStatus.CLEARED
    assert jobs["job005"].status is JobStatus.NOT_OF_INTEREST
    assert all(j.reason for j in jobs.values())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    noise=st.binary(max_size=80),
    at=st.floats(0, 1),
    cut=st.booleans(),
    which=st.sampled_from(
        [
            "default_pipeline.star",
            "Refine3D/job011/run_data.star",
            "AutoPick/job005/autopick.star",
            CTF,
            "Refine3D/job011/job.star",
            "AutoPick/job005/Movies/mic001_autopick.star",
        ]
    ),
)
def test_nothing_but_our_own_errors_comes_out_of_damaged_projects(damaged_project, noise, at, cut, which) -> None:
    path = damaged_project / which
    good = path.read_bytes()
    place = int(at * len(good))
    path.write_bytes(good[:place] + noise + (b"" if cut else good[place:]))
    try:
        project = recognize(damaged_project, os.listdir(damaged_project))
        for job in find_jobs(project) if project else []:
            if job.status is JobStatus.USABLE:
                try:
                    read_job(job)
                except CryoflowError:
                    pass
    finally:
        path.write_bytes(good)


@pytest.fixture(scope="module")
def damaged_project(tmp_path_factory: pytest.TempPathFactory, blots) -> Path:
    return write_relion_project(tmp_path_factory.mktemp("damaged") / "P1", blots, pipeline=True)


@pytest.mark.parametrize("version", ["3.0", "5.0"])
@pytest.mark.parametrize("number", ["1e308", "-1e308", "inf", "nan", "1e-320"])
def test_no_number_in_any_column_of_particles_makes_more_than_a_pick_that_is_counted(
    tmp_path: Path, blots, version: str, number: str
) -> None:
    folder = write_relion_project(tmp_path / "P1", blots, version=version)
    path = folder / "Refine3D/job011/run_data.star"
    lines = path.read_text().split("\n")
    at = next(i for i, line in enumerate(lines) if "@Extract" in line)
    words = lines[at].split()
    for column, word in enumerate(words):
        if word[0].isdigit() and "@" not in word:
            lines[at] = " ".join([*words[:column], number, *words[column + 1 :]])
            path.write_text("\n".join(lines))
            try:
                (pickset,) = read_job(jobs_of(folder)["Refine3D"])
            except CryoflowError:
                continue
            assert len(pickset) + sum(pickset.counts.values()) == 48


def test_a_job_whose_particles_name_no_micrograph_is_unreadable(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    path = folder / "Refine3D/job011/run_data.star"
    path.write_text(path.read_text().replace("_rlnMicrographName", "_rlnOther"))
    with pytest.raises(BadInput, match="which micrograph"):
        read_job(jobs_of(folder)["Refine3D"])
