"""CryoSPARC jobs to picks: every generation, and every quirk that moves, loses or repeats a pick."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryosparc_projects import write_cryosparc_project
from projects_cryosparc_dataset import small_dataset

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.cs import read_cs, write_cs
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.projects import cryosparc
from cryoflow.projects.cryosparc.join import join
from cryoflow.projects.cryosparc.standalone import read_standalone
from cryoflow.projects.found import JobStatus

VERSIONS = ("2.15", "3.3", "4.2", "4.5", "5.0")


def project_of(folder):
    project = cryosparc.recognize(folder, set(os.listdir(folder)))
    assert project is not None
    return project


def jobs_of(folder):
    return {job.job: job for job in cryosparc.find_jobs(project_of(folder))}


def entries(folder, job, **options):
    return {p.provenance.entry_name: p for p in cryosparc.read_job(jobs_of(folder)[job], **options)}


def by_micrograph(pickset, dataset):
    """Picks and the simulated micrograph they lie on."""
    for i, picks in pickset.by_micrograph():
        name = pickset.micrographs["name"][i]
        yield picks, next(m for m in dataset.micrographs if name.endswith(m.path.name))


def distance_px(pickset, dataset):
    """Distance of each pick to the nearest true center."""
    found = [np.zeros(0)]
    for picks, micrograph in by_micrograph(pickset, dataset):
        xy = picks[["x_px", "y_px"]].to_numpy()
        found.append(np.sqrt(np.square(xy[:, None] - micrograph.true_xy_px[None]).sum(2)).min(1, initial=np.inf))
    return np.concatenate(found)


@pytest.fixture
def dataset(tmp_path):
    return small_dataset(tmp_path / "raw")


@pytest.mark.parametrize("container", ["npy", "csdat"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_generation_is_read_at_the_true_centers(tmp_path, dataset, version, container):
    folder = write_cryosparc_project(tmp_path / "P", dataset, version=version, container=container)
    jobs = jobs_of(folder)
    assert [jobs[f"J{i}"].status for i in range(1, 13)] == [
        *[JobStatus.NOT_OF_INTEREST] * 2,
        *[JobStatus.USABLE] * 9,
        JobStatus.NOT_OF_INTEREST,
    ]
    found = {}
    for job in jobs.values():
        if job.status is JobStatus.USABLE:
            found |= {p.provenance.entry_name: p for p in cryosparc.read_job(job)}
    assert sorted(found) == sorted(
        [
            "ManualPick_J3", "AutoPick_J4", "Extract_J5", "Class2D_J6", "Select2D_J7", "Select2D_J7_excluded",
            "AbInitio_J8_class0", "AbInitio_J8_class1", "Hetero_J9_class0", "Hetero_J9_class1",
            "Homo_J10", "NonUniform_J11",
        ]
    )  # fmt: skip
    for name in ("Homo_J10", "NonUniform_J11", "Hetero_J9_class1", "AbInitio_J8_class0", "ManualPick_J3"):
        assert len(found[name]) > 0
        assert distance_px(found[name], dataset).max() < 0.01, name
    assert len(found["AutoPick_J4"]) == 100
    assert len(found["Select2D_J7"]) == 60
    assert found["Homo_J10"].provenance.program_version == version
    assert found["Homo_J10"].counts == {}


def test_a_picks_y_counts_from_the_first_row_and_x_along_the_columns(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    (picks,) = entries(folder, "J4").values()
    for table, micrograph in by_micrograph(picks, dataset):
        np.testing.assert_allclose(table[["x_px", "y_px"]].to_numpy(), micrograph.picks_xy_px, atol=1e-3)
        np.testing.assert_allclose(table["score"], micrograph.pick_scores, atol=1e-6)
    assert set(picks.micrographs["ny"]) == {400}
    assert set(picks.micrographs["nx"]) == {560}
    assert picks.score_kind == "pick_stats/ncc_score"


def test_the_pixels_under_the_picks_are_the_particles(tmp_path, blots):
    folder = write_cryosparc_project(tmp_path / "P", blots)
    (picks,) = entries(folder, "J10").values()
    for i, table in picks.by_micrograph():
        image = read_micrograph(picks.micrographs["path"][i])
        x, y = (np.rint(table[c].to_numpy()).astype(int) for c in ("x_px", "y_px"))
        under = image[y, x].mean()
        flipped = image[image.shape[0] - 1 - y, x].mean()
        assert under < image.mean() - 2 * image.std() / np.sqrt(len(x))
        assert under < flipped


def test_shifts_are_subtracted_in_micrograph_pixels(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, binning=3)
    picked, refined = next(iter(entries(folder, "J4").values())), next(iter(entries(folder, "J10").values()))
    before = picked.picks.set_index("uid").loc[refined.picks["uid"]].reset_index()
    np.testing.assert_allclose(before["x_px"] - refined.picks["shift_x_px"], refined.picks["x_px"], atol=1e-6)
    np.testing.assert_allclose(before["y_px"] - refined.picks["shift_y_px"], refined.picks["y_px"], atol=1e-6)
    assert np.abs(refined.picks["shift_x_px"]).mean() > 1


def test_a_location_that_was_extracted_again_gets_only_its_own_rest_shift(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, reextract_after_refinement=True)
    (picks,) = entries(folder, "J14").values()
    assert distance_px(picks, dataset).max() < 0.02
    assert np.abs(picks.picks["shift_x_px"]).max() <= 0.501


@pytest.mark.parametrize("quirk", [{}, {"superset_passthrough": True}])
@pytest.mark.parametrize("container", ["npy", "csdat"])
def test_passthrough_rows_are_joined_by_uid(tmp_path, dataset, quirk, container):
    plain = write_cryosparc_project(tmp_path / "plain", dataset, container=container)
    odd = write_cryosparc_project(tmp_path / "odd", dataset, container=container, shuffle_passthrough=True, **quirk)
    for job in ("J6", "J7", "J9", "J10"):
        first, second = entries(plain, job), entries(odd, job)
        assert list(first) == list(second)
        for name in first:
            assert len(first[name]) == len(second[name])
            assert first[name].picks.equals(second[name].picks), name


def test_classes_stay_apart_with_class_and_posterior(tmp_path, dataset):
    for version in ("4.2", "4.5"):
        folder = write_cryosparc_project(tmp_path / version, dataset, version=version)
        found = entries(folder, "J9")
        assert set(found["Hetero_J9_class0"].picks["class"]) == {0}
        assert set(found["Hetero_J9_class1"].picks["class"]) == {1}
        for picks in found.values():
            assert picks.picks["class_posterior"].between(0.7, 1.0).all()
        assert set(found["Hetero_J9_class0"].picks["uid"]).isdisjoint(found["Hetero_J9_class1"].picks["uid"])
        assert list(entries(folder, "J9", classes=[1])) == ["Hetero_J9_class1"]


@pytest.mark.parametrize("without", [(), (0, 1)])
def test_alignments_of_all_classes_in_one_array_are_told_apart(tmp_path, dataset, without):
    folder = write_cryosparc_project(tmp_path / "P", dataset, only_multi_alignments=True)
    for k in without:  # only the table of all classes is left
        for file in (folder / "J9").glob(f"*class_{k:02d}*"):
            file.unlink()
        for file in (folder / "J9").glob(f"*class_{k}*"):
            file.unlink()
    plain = write_cryosparc_project(tmp_path / "plain", dataset)
    found, wanted = entries(folder, "J9"), entries(plain, "J9")
    assert found.keys() == wanted.keys() == {"Hetero_J9_class0", "Hetero_J9_class1"}
    for name, picks in found.items():
        assert set(picks.picks["class"]) == {int(name[-1])}
        assert picks.picks["class_posterior"].min() > 0.65
        assert distance_px(picks, dataset).max() < 0.01
        np.testing.assert_allclose(picks.picks["x_px"], wanted[name].picks["x_px"], atol=1e-3)


def test_in_plane_angles_of_2d_classes_are_kept(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    (picks,) = entries(folder, "J6").values()
    expected = np.concatenate([m.pick_psi_deg for m in sorted(dataset.micrographs, key=lambda m: str(m.path))])
    np.testing.assert_allclose(np.sort(picks.picks["psi_deg"]), np.sort(expected), atol=1e-3)
    assert "psi_deg" in entries(folder, "J7")["Select2D_J7"].picks
    assert "psi_deg" not in entries(folder, "J10")["Homo_J10"].picks  # that of an older job


def test_flips_before_extraction_are_said_and_left_to_the_pixels(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, extract_flips=["y"])
    for job in ("J5", "J7", "J11"):
        for picks in entries(folder, job).values():
            assert [n for n in picks.notes if "flipped micrographs in y" in n and "--flip-y" in n]
    (picked,) = entries(folder, "J4").values()
    assert not any("flipped" in note for note in picked.notes)


def test_classes_passed_on_by_an_older_job_are_not_taken_for_the_jobs_own(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, version="4.2")
    names = read_cs(folder / "J10" / "J10_passthrough_particles.cs")
    assert "alignments_class_0/class" in names
    (picks,) = entries(folder, "J10").values()
    assert "class" not in picks.picks


def test_single_classes_are_recovered_from_all_classes_where_their_files_are_gone(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    expected = entries(folder, "J9")
    for file in (folder / "J9").glob("*class_0[01]*"):
        file.unlink()
    for file in (folder / "J9").glob("*class_[01]*"):
        file.unlink()
    found = entries(folder, "J9")
    assert list(found) == list(expected)
    for name in found:
        assert set(found[name].picks["uid"]) == set(expected[name].picks["uid"])


def test_2d_classes_can_be_chosen(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    (everything,), (some,) = entries(folder, "J6").values(), entries(folder, "J6", classes=[1, 2]).values()
    assert set(everything.picks["class"]) == {0, 1, 2, 3}
    assert set(some.picks["class"]) == {1, 2}
    assert some.counts["other_class"] == len(everything) - len(some)


def test_excluded_particles_are_hard_negatives(tmp_path, dataset):
    found = entries(write_cryosparc_project(tmp_path / "P", dataset), "J7")
    assert set(found["Select2D_J7_excluded"].picks["label"]) == {-1}
    assert "label" not in found["Select2D_J7"].picks
    assert len(found["Select2D_J7_excluded"]) == 40


def test_a_missing_location_is_fetched_from_an_ancestor_without_foreign_shifts(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_location=["J10", "J9", "J8", "J7"])
    (picks,) = entries(folder, "J10").values()
    (classified,) = entries(folder, "J6").values()
    expected = classified.picks.set_index("uid").loc[picks.picks["uid"]]
    np.testing.assert_allclose(picks.picks["x_px"], expected["x_px"])
    assert any("J6" in note for note in picks.notes)
    assert any(path.name.startswith("J6_passthrough") for path in jobs_of(folder)["J10"].outputs[0].files)


def test_a_dataset_of_an_ancestor_without_rows_is_passed_over(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_location=["J10", "J9", "J8"])
    (expected,) = entries(folder, "J10").values()
    (emptied,) = (path for path in jobs_of(folder)["J10"].outputs[0].files if path.name.startswith("J7"))
    write_cs(emptied, {name: values[:0] for name, values in read_cs(emptied).items()})
    (picks,) = entries(folder, "J10").values()
    np.testing.assert_allclose(picks.centers_xy_px, expected.centers_xy_px)
    assert emptied not in jobs_of(folder)["J10"].outputs[0].files


def test_a_dataset_without_rows_joins_unknown_values(tmp_path):
    uids = {"uid": np.array([1, 2], np.uint64)}
    location = {"location/micrograph_uid": np.array([7, 8], np.uint64)}
    nothing = {"uid": np.zeros(0, np.uint64), "alignments3D/shift": np.zeros((0, 2), np.float32)}
    write_cs(tmp_path / "own.cs", {**uids, **location})
    write_cs(tmp_path / "empty.cs", {**nothing, "location/micrograph_uid": np.zeros(0, np.uint64)})
    wanted = {tmp_path / "empty.cs": ["alignments3D/shift"]}
    joined = join(tmp_path / "own.cs", wanted, (tmp_path / "own.cs", list(location)))
    np.testing.assert_array_equal(joined.columns["alignments3D/shift"], np.full((2, 2), np.nan))
    with pytest.raises(BadInput, match=r"empty\.cs: has no rows"):
        join(tmp_path / "own.cs", {}, (tmp_path / "empty.cs", list(location)))


def test_empty_micrograph_paths_are_looked_up_by_uid(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_micrograph_paths=True)
    (picks,) = entries(folder, "J10").values()
    assert distance_px(picks, dataset).max() < 0.01
    assert all(name.startswith("J1/imported/") for name in picks.micrographs["name"])


@pytest.mark.parametrize("is_in_location", [True, False])
def test_the_pixel_size_is_the_micrographs_not_the_boxes(tmp_path, dataset, is_in_location):
    folder = write_cryosparc_project(tmp_path / "P", dataset, binning=2, pixel_size_in_location=is_in_location)
    (picks,) = entries(folder, "J10").values()
    np.testing.assert_allclose(picks.micrographs["pixel_size_A"], 1.5)
    assert picks.box_px == pytest.approx(128)


def test_an_unknown_pixel_size_is_unknown_and_no_shift_is_guessed(tmp_path, dataset):
    folder = write_cryosparc_project(
        tmp_path / "P", dataset, pixel_size_in_location=False, binning=2, cleared=["J1", "J2", "J4"]
    )
    (picks,) = entries(folder, "J10").values()
    assert picks.micrographs["pixel_size_A"].isna().all()
    assert picks.box_px is None
    assert (picks.picks["shift_x_px"] == 0).all()
    assert any("shifts were not applied" in note for note in picks.notes)


def test_boxes_that_were_not_resampled_tell_the_pixel_size(tmp_path, dataset):
    folder = write_cryosparc_project(
        tmp_path / "P", dataset, pixel_size_in_location=False, binning=1, cleared=["J1", "J2", "J4"]
    )
    (picks,) = entries(folder, "J10").values()
    np.testing.assert_allclose(picks.micrographs["pixel_size_A"], 1.5)
    assert distance_px(picks, dataset).max() < 0.01


def test_optics_come_from_exposures_and_else_from_the_particles(tmp_path, dataset):
    for cleared in ((), ("J1", "J2", "J4")):
        folder = write_cryosparc_project(tmp_path / f"P{len(cleared)}", dataset, cleared=cleared)
        (picks,) = entries(folder, "J10").values()
        table = picks.micrographs
        assert set(table["voltage_kV"]) == {300.0}
        np.testing.assert_allclose(table["cs_mm"], 2.7)
        np.testing.assert_allclose(table["amplitude_contrast"], 0.1)
        expected = [m.defocus_u_A for name in table["name"] for m in dataset.micrographs if m.path.name in name]
        np.testing.assert_allclose(table["defocus_u_A"], expected)
        np.testing.assert_allclose(table["defocus_angle_deg"], 30.0, atol=1e-3)


def test_negative_stain_and_phase_plates_are_said(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    assert not any("micrographs were" in note for note in entries(folder, "J10")["Homo_J10"].notes)
    for path in folder.glob("J*/*.cs"):
        table = read_cs(path)
        if "mscope_params/accel_kv" in table:
            n = len(table["uid"])
            table["mscope_params/neg_stain"] = np.ones(n, np.uint32)
            table["mscope_params/phase_plate"] = (np.arange(n) == 0).astype(np.uint32)
            write_cs(path, table)
    for job, entry in (("J4", "AutoPick_J4"), ("J10", "Homo_J10")):
        notes = entries(folder, job)[entry].notes
        assert "4 of 4 micrographs were stained negatively" in notes
        assert "1 of 4 micrographs were taken with a phase plate" in notes


def test_symmetry_copies_are_folded_back_and_counted(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, symmetry_copies=4)
    (refined,), (expanded,) = entries(folder, "J10").values(), entries(folder, "J13").values()
    assert len(expanded) == len(refined)
    assert expanded.counts["symmetry_copies"] == 3 * len(refined)
    np.testing.assert_allclose(expanded.picks["x_px"], refined.picks["x_px"])


def test_repeated_rows_and_nan_are_dropped_and_counted(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, repeated_rows=7, nan_rows=3)
    (picks,) = entries(folder, "J4").values()
    assert picks.counts["nan"] == 3
    assert picks.counts["duplicate"] == 7
    assert len(picks) == 97
    assert picks.picks["uid"].is_unique


def test_one_uid_at_two_places_stays_two_picks(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    path = folder / "J4" / "picked_particles.cs"
    columns = read_cs(path)
    columns["uid"] = columns["uid"].copy()
    columns["uid"][1] = columns["uid"][0]
    write_cs(path, columns)
    (picks,) = entries(folder, "J4").values()
    assert len(picks) == 100
    assert any("share their uid" in note for note in picks.notes)


def test_insane_shifts_are_not_applied(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    path = folder / "J10" / "J10_004_particles.cs"
    columns = read_cs(path)
    columns["alignments3D/shift"][:2] = [[500, 0], [np.nan, 0]]
    write_cs(path, columns)
    (picks,) = entries(folder, "J10").values()
    assert "2 shifts were not applied" in " ".join(picks.notes)
    assert (distance_px(picks, dataset) > 0.01).sum() == 2
    assert np.isfinite(picks.centers_xy_px).all()


def test_helical_jobs_say_so(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, is_helical=True)
    assert jobs_of(folder)["J4"].detail["is_helical"]
    (picks,) = entries(folder, "J4").values()
    assert any("helical" in note for note in picks.notes)


def with_an_empty_micrograph(dataset):
    """The dataset without the picks of its last micrograph."""
    none = np.zeros(0)
    empty = replace(
        dataset.micrographs[-1],
        picks_xy_px=np.zeros((0, 2)),
        pick_scores=none,
        pick_is_right=none.astype(bool),
        pick_psi_deg=none,
        pick_class=none.astype(np.int32),
    )
    return replace(dataset, micrographs=(*dataset.micrographs[:-1], empty))


def bin_by_2(folder, header_A):
    """Replace the project's micrographs by binned copies, whose headers have this pixel size."""
    for link in (folder / "J1" / "imported").iterdir():
        image = read_micrograph(link)
        link.unlink()
        write_mrc(link, image.reshape(image.shape[0] // 2, 2, image.shape[1] // 2, 2).mean((1, 3)), header_A)


def test_micrographs_without_picks_are_kept_where_they_were_searched(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", with_an_empty_micrograph(dataset))
    assert len(next(iter(entries(folder, "J4").values())).micrographs) == 4
    assert len(next(iter(entries(folder, "J10").values())).micrographs) == 3


def test_dangling_links_are_missing_and_their_picks_are_kept(tmp_path, blots):
    folder = write_cryosparc_project(tmp_path / "P", blots)
    links = sorted((folder / "J1" / "imported").iterdir())
    links[0].unlink()
    links[0].symlink_to(tmp_path / "gone.mrc")
    (picks,) = entries(folder, "J4").values()
    status = dict(zip(picks.micrographs["name"], picks.micrographs["status"], strict=True))
    assert status.pop(f"J1/imported/{links[0].name}") == "missing"
    assert set(status.values()) == {"found"}
    assert len(picks) == sum(len(m.picks_xy_px) for m in blots.micrographs)


def test_picks_are_scaled_to_binned_copies_of_their_micrographs(tmp_path, blots):
    folder = write_cryosparc_project(tmp_path / "P", blots)
    (full,) = entries(folder, "J10").values()
    bin_by_2(folder, 5.0)
    (half,) = entries(folder, "J10").values()
    np.testing.assert_allclose(half.centers_xy_px, full.centers_xy_px / 2, atol=1e-4)
    np.testing.assert_allclose(half.micrographs["pixel_size_A"], 5.0)
    assert any("binned copies" in note for note in half.notes)


def test_binned_copies_without_picks_have_the_shape_and_the_pixel_size_of_their_files(tmp_path, blots):
    folder = write_cryosparc_project(tmp_path / "P", with_an_empty_micrograph(blots))
    bin_by_2(folder, 5.0)
    (half,) = entries(folder, "J4").values()
    assert set(half.picks["micrograph"]) == set(range(5))
    assert half.micrographs["status"].tolist() == ["found"] * 6
    assert half.micrographs[["ny", "nx", "pixel_size_A"]].to_numpy(float).tolist() == [[95, 155, 5.0]] * 6


def test_the_pixel_size_of_boxes_is_scaled_to_binned_copies(tmp_path, blots):
    folder = write_cryosparc_project(
        tmp_path / "P", blots, pixel_size_in_location=False, binning=1, cleared=["J1", "J2", "J4"]
    )
    whole = write_cryosparc_project(tmp_path / "whole", blots)
    bin_by_2(whole, 0.0)
    shutil.copytree(whole / "J1" / "imported", folder / "J1" / "imported")
    (half,) = entries(folder, "J10").values()
    np.testing.assert_allclose(half.micrographs["pixel_size_A"], 5.0)
    assert any("boxes that were not resampled" in note for note in half.notes)
    for picks, micrograph in by_micrograph(half, blots):
        xy = picks[["x_px", "y_px"]].to_numpy()
        assert np.linalg.norm(xy[:, None] - micrograph.true_xy_px[None] / 2, axis=2).min(1).max() < 0.01


def test_a_few_binned_copies_among_whole_micrographs_are_scaled_each(tmp_path, blots):
    folder = write_cryosparc_project(tmp_path / "P", blots)
    (whole,) = entries(folder, "J4").values()
    binned = sorted((folder / "J1" / "imported").iterdir())[1::2]
    for link in binned:
        image = read_micrograph(link)
        ny, nx = (2 * (n // 2) for n in image.shape)
        link.unlink()
        write_mrc(link, image[:ny:2, :nx:2], 2 * blots.micrographs[0].pixel_size_A)
    (picks,) = entries(folder, "J4").values()
    assert len(picks) == len(whole)
    for i, rows in picks.by_micrograph():
        _, wanted = list(whole.by_micrograph())[i]
        scale = 0.5 if Path(picks.micrographs["path"][i]) in binned else 1.0
        np.testing.assert_allclose(rows["x_px"], wanted["x_px"] * scale, atol=0.6)
        assert picks.micrographs["pixel_size_A"][i] == pytest.approx(whole.micrographs["pixel_size_A"][i] / scale)


def test_a_group_file_by_itself_is_read(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    picks = read_standalone(folder / "J10" / "J10_particles.csg")
    assert picks.provenance.program == "file"
    assert distance_px(picks, dataset).max() < 0.01
    assert len(read_standalone(folder / "J4" / "picked_particles.cs")) == 100
    joined = read_standalone(folder / "J10" / "J10_004_particles.cs")  # with the passthrough beside it
    np.testing.assert_allclose(joined.centers_xy_px, picks.centers_xy_px)
    shutil.copy(folder / "J10" / "J10_004_particles.cs", tmp_path)
    with pytest.raises(MissingMetadata, match="passthrough"):
        read_standalone(tmp_path / "J10_004_particles.cs")


def test_the_micrographs_of_an_export_are_found_in_its_project_and_beside_it(tmp_path, blots):
    folder = write_cryosparc_project(tmp_path / "P", blots, export="J10")
    (exported,) = folder.glob("exports/groups/*/*.csg")
    inside = read_standalone(exported)
    assert set(inside.micrographs["status"]) == {"found"}
    assert inside.micrographs["path"].str.startswith(str(folder / "J1")).all()
    away = tmp_path / "elsewhere" / "J10"
    (away / "J1" / "imported").mkdir(parents=True)
    for file in exported.parent.iterdir():
        (away / file.name).write_bytes(file.read_bytes())
    for link in (folder / "J1" / "imported").iterdir():
        (away / "J1" / "imported" / link.name).symlink_to(link.resolve())
    outside = read_standalone(away / exported.name)
    assert set(outside.micrographs["status"]) == {"found"}
    assert outside.picks.equals(inside.picks)


def test_a_group_file_that_has_no_positions_says_what_to_name_instead(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    with pytest.raises(MissingMetadata, match="describes micrographs, not particles"):
        read_standalone(folder / "J1" / "J1_imported_micrographs.csg")
    shutil.copy(folder / "J7" / "particles_selected.cs", tmp_path)
    with pytest.raises(MissingMetadata, match=r"name the job's \.csg file"):
        read_standalone(tmp_path / "particles_selected.cs")


@pytest.mark.parametrize("times", [1, 2, 9])
def test_a_dataset_that_changes_while_it_is_read_is_read_again_and_at_last_refused(
    tmp_path, dataset, monkeypatch, times
):
    from cryoflow.projects.cryosparc import read

    folder = write_cryosparc_project(tmp_path / "P", dataset)
    job = jobs_of(folder)["J4"]
    join, reads = read.join, []

    def slow_join(primary, *rest):
        found = join(primary, *rest)
        reads.append(primary)
        if len(reads) <= times:
            os.utime(primary, ns=(len(reads), len(reads)))
        return found

    monkeypatch.setattr(read, "join", slow_join)
    if times < 3:
        (pickset,) = cryosparc.read_job(job)
        assert (len(pickset), len(reads)) == (100, times + 1)
        return
    with pytest.raises(BadInput, match="changed each of 3 times"):
        cryosparc.read_job(job)


def test_hostile_folder_names_do_no_harm(tmp_path, dataset, hostile_name):
    folder = write_cryosparc_project(tmp_path / hostile_name, dataset)
    assert len(next(iter(entries(folder, "J10").values()))) > 0


def test_the_same_project_is_read_to_the_same_picks(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    first, second = entries(folder, "J9"), entries(folder, "J9")
    for name in first:
        assert first[name].picks.equals(second[name].picks)
        assert first[name].micrographs.equals(second[name].micrographs)


def test_reading_writes_nothing_into_the_project(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    before = {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(folder.rglob("*"))}
    for job in jobs_of(folder).values():
        if job.status is JobStatus.USABLE:
            cryosparc.read_job(job)
    assert before == {p: (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(folder.rglob("*"))}


def test_positions_that_lack_any_micrograph_are_one_clear_error(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_micrograph_paths=True, cleared=["J1", "J2", "J4"])
    with pytest.raises(CryoflowError, match="names no micrograph"):
        entries(folder, "J5")
