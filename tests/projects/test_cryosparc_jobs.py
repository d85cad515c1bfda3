"""The status of every CryoSPARC job, with a reason a user can act on, and what stands in where job.json fails."""

import json
import os
import shutil

import pytest
from cryosparc_projects import write_cryosparc_project
from projects_cryosparc_dataset import small_dataset

from cryoflow.errors import BadInput
from cryoflow.picks import Kind
from cryoflow.projects import cryosparc
from cryoflow.projects.cryosparc.job_types import kind_of, role_of
from cryoflow.projects.found import JobStatus

VERSIONS = ("2.15", "4.2", "5.0")


def jobs_of(folder):
    project = cryosparc.recognize(folder, set(os.listdir(folder)))
    return {job.job: job for job in cryosparc.find_jobs(project)}


def picks_of(job, **options):
    return {p.provenance.entry_name: p for p in cryosparc.read_job(job, **options)}


@pytest.fixture
def dataset(tmp_path):
    return small_dataset(tmp_path / "raw")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("said", "status"),
    [
        ("running", JobStatus.UNFINISHED),
        ("building", JobStatus.UNFINISHED),
        ("waiting", JobStatus.UNFINISHED),
        ("queued", JobStatus.UNFINISHED),
        ("failed", JobStatus.FAILED),
        ("killed", JobStatus.FAILED),
    ],
)
def test_jobs_that_did_not_finish_are_not_read_unless_asked_for(tmp_path, dataset, version, said, status):
    folder = write_cryosparc_project(
        tmp_path / "P", dataset, version=version, statuses={"J10": said}, without_csg=["J10"]
    )
    job = jobs_of(folder)["J10"]
    assert job.status is status
    assert said in job.reason
    with pytest.raises(BadInput, match=said):
        cryosparc.read_job(job)
    assert len(picks_of(job, include_unfinished=True)["Homo_J10"]) > 0


def test_a_running_job_whose_group_files_are_younger_is_stale(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, statuses={"J10": "running"})
    os.utime(folder / "J10" / "job.json", ns=(1, 1))
    job = jobs_of(folder)["J10"]
    assert job.status is JobStatus.STALE
    assert "include-unfinished" in job.reason
    assert len(picks_of(job, include_unfinished=True)["Homo_J10"]) > 0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cleared_job_says_so(tmp_path, dataset, version):
    job = jobs_of(write_cryosparc_project(tmp_path / "P", dataset, version=version, cleared=["J10"]))["J10"]
    assert job.status is JobStatus.CLEARED
    assert job.outputs == ()


def test_deleted_and_empty_folders_are_cleared(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    shutil.rmtree(folder / "J9")
    shutil.rmtree(folder / "J11")
    (folder / "J11").mkdir()
    jobs = jobs_of(folder)
    assert jobs["J9"].status is JobStatus.CLEARED
    assert "gone" in jobs["J9"].reason
    assert jobs["J11"].status is JobStatus.CLEARED
    assert len(jobs) == 12


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fallback", ["csg", "names"])
@pytest.mark.parametrize("is_broken", [False, True])
def test_without_job_json_the_outputs_are_found_all_the_same(tmp_path, dataset, version, fallback, is_broken):
    everything = [f"J{i}" for i in range(1, 13)]
    whole = write_cryosparc_project(tmp_path / "whole", dataset, version=version)
    folder = write_cryosparc_project(
        tmp_path / "P",
        dataset,
        version=version,
        without_job_json=everything,
        without_csg=everything if fallback == "names" else (),
    )
    if is_broken:
        for job in everything:
            (folder / job / "job.json").write_text('{"uid": "J1", "outp')
    jobs, expected = jobs_of(folder), jobs_of(whole)
    for name in ("J4", "J5", "J7", "J9", "J10"):
        assert jobs[name].status is JobStatus.USABLE, jobs[name].reason
        assert "job.json" in jobs[name].reason
        found, wanted = picks_of(jobs[name]), picks_of(expected[name])
        assert [len(p) for p in found.values()] == [len(p) for p in wanted.values()]
        for one, other in zip(found.values(), wanted.values(), strict=True):
            assert sorted(one.picks["uid"]) == sorted(other.picks["uid"])
            assert one.provenance.suffix == other.provenance.suffix
    assert jobs["J7"].kind is Kind.SELECT_2D
    assert jobs["J9"].kind is Kind.HETERO
    assert jobs["J10"].kind is Kind.OTHER


def test_a_stale_job_json_that_names_other_files_is_helped_by_the_group_file(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    path = folder / "J10" / "job.json"
    path.write_text(path.read_text().replace("J10_004_particles", "J10_001_particles"))
    job = jobs_of(folder)["J10"]
    assert job.status is JobStatus.USABLE
    assert ".csg" in job.reason
    assert "shift_x_px" in picks_of(job)["Homo_J10"].picks


def test_a_stale_job_json_that_nothing_helps_is_stale(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_csg=["J4"])
    (folder / "J4" / "picked_particles.cs").rename(folder / "J4" / "renamed.cs")
    assert jobs_of(folder)["J4"].status is JobStatus.STALE


def test_the_last_iteration_that_exists_counts(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_csg=["J10"])
    content = json.loads((folder / "J10" / "job.json").read_text())
    for result in content["output_results"]:
        if not result["passthrough"]:
            result["metafiles"] += ["J10/J10_005_particles.cs"]
            result["versions"] += [5]
    (folder / "J10" / "job.json").write_text(json.dumps(content))
    assert "J10_004_particles.cs" in {path.name for path in jobs_of(folder)["J10"].outputs[0].files}


def test_a_slot_without_files_is_left_out(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_csg=["J10"])
    content = json.loads((folder / "J10" / "job.json").read_text())
    for result in content["output_results"]:
        if result["name"] == "pick_stats":
            result["metafiles"] = []
    (folder / "J10" / "job.json").write_text(json.dumps(content))
    assert "score" not in picks_of(jobs_of(folder)["J10"])["Homo_J10"].picks


BAD_CONTENT = {
    "git-lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 1\n",
    "web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "truncated": None,
    "is empty": b"",
}


@pytest.mark.parametrize("reason", BAD_CONTENT)
def test_damaged_datasets_make_a_job_unreadable_and_the_others_go_on(tmp_path, dataset, reason):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    path = folder / "J4" / "picked_particles.cs"
    content = BAD_CONTENT[reason]
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    jobs = jobs_of(folder)
    assert jobs["J4"].status is JobStatus.UNREADABLE
    assert reason in jobs["J4"].reason
    assert jobs["J10"].status is JobStatus.USABLE
    with pytest.raises(BadInput, match=reason):
        cryosparc.read_job(jobs["J4"])


def test_what_a_job_decided_is_not_taken_from_what_was_only_handed_on_to_it(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    (folder / "J11" / "J11_004_particles.cs").write_bytes(b"<html>")  # its shifts; positions are in the passthrough
    (folder / "J9" / "J9_class_00_00062_particles.cs").write_bytes(b"<html>")
    (folder / "J7" / "J7_passthrough_particles_selected.cs").write_bytes(b"<html>")
    jobs = jobs_of(folder)
    assert jobs["J11"].status is JobStatus.UNREADABLE
    assert jobs["J11"].outputs == ()
    for job, file in (("J9", "J9_class_00_00062_particles.cs"), ("J7", "J7_passthrough_particles_selected.cs")):
        assert jobs[job].status is JobStatus.USABLE
        assert "a part of it is damaged" in jobs[job].reason
        assert file in jobs[job].reason
        picksets = cryosparc.read_job(jobs[job])
        assert all(any(file in note for note in pickset.notes) for pickset in picksets)
    assert len(cryosparc.read_job(jobs["J7"])[0]) > 0
    assert {output.suffix for output in jobs["J9"].outputs} == {"class0", "class1"}
    assert {output.group for output in jobs["J9"].outputs} == {"particles_all_classes", "particles_class_1"}


def test_an_unreadable_job_json_without_datasets_is_unreadable(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    (folder / "J12" / "job.json").write_text("{")
    assert jobs_of(folder)["J12"].status is JobStatus.UNREADABLE


def test_a_job_without_particles_is_empty(tmp_path):
    dataset = small_dataset(tmp_path / "raw", n_micrographs=1)
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    from cryoflow.formats.cs import read_cs, write_cs

    path = folder / "J4" / "picked_particles.cs"
    write_cs(path, {name: values[:0] for name, values in read_cs(path).items()})
    assert jobs_of(folder)["J4"].status is JobStatus.EMPTY


def test_exports_stand_in_for_a_cleared_job(tmp_path, dataset):
    for keeps_folder in (True, False):
        folder = write_cryosparc_project(tmp_path / f"P{keeps_folder}", dataset, export="J10", cleared=["J10"])
        expected = picks_of(jobs_of(write_cryosparc_project(tmp_path / "whole", dataset))["J10"])["Homo_J10"]
        if not keeps_folder:
            shutil.rmtree(folder / "J10")
        job = jobs_of(folder)["J10"]
        assert job.status is JobStatus.USABLE
        assert "exports" in job.reason
        (found,) = picks_of(job).values()
        assert sorted(found.picks["uid"]) == sorted(expected.picks["uid"])
        assert all(name.startswith("J1/imported/") for name in found.micrographs["name"])


def test_a_project_whose_own_files_were_lost_is_recognized_by_its_jobs(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset, without_project_json=True)
    project = cryosparc.recognize(folder, set(os.listdir(folder)))
    assert project is not None
    assert "project.json is missing" in project.notes[0]


def test_folders_of_other_programs_are_no_projects(tmp_path):
    (tmp_path / "project.json").write_text("{}")
    assert cryosparc.recognize(tmp_path, {"project.json", "src", "package.json"}) is None
    assert cryosparc.recognize(tmp_path, {"J1", "J2"}) is None


def test_unknown_job_types_with_positions_are_other(tmp_path, dataset):
    folder = write_cryosparc_project(tmp_path / "P", dataset)
    path = folder / "J10" / "job.json"
    path.write_text(path.read_text().replace("homo_refine_new", "brand_new_thing"))
    job = jobs_of(folder)["J10"]
    assert (job.kind, job.status) == (Kind.OTHER, JobStatus.USABLE)
    assert list(picks_of(job)) == ["Other_J10"]


@pytest.mark.parametrize(
    ("job_type", "kind"),
    [
        ("homo_refine", Kind.HOMO), ("homo_refine_new", Kind.HOMO), ("nonuniform_refine", Kind.NON_UNIFORM),
        ("nonuniform_refine_new", Kind.NON_UNIFORM), ("new_local_refine", Kind.LOCAL), ("naive_local_refine", Kind.LOCAL),  # noqa: E501
        ("helix_refine_new", Kind.HELIX), ("hetero_refine", Kind.HETERO), ("homo_abinit", Kind.AB_INITIO),
        ("class_3D", Kind.CLASS_3D), ("class_2D_streaming", Kind.CLASS_2D), ("select_2D", Kind.SELECT_2D),
        ("manual_picker_v2", Kind.MANUAL_PICK), ("template_picker_gpu", Kind.AUTO_PICK), ("topaz_extract", Kind.AUTO_PICK),  # noqa: E501
        ("inspect_picks_v2", Kind.INSPECT), ("extract_micrographs_cpu_parallel", Kind.EXTRACT),
        ("remove_duplicate_particles", Kind.CURATE), ("import_particles", Kind.IMPORT), ("snowflake", Kind.EXTERNAL),
        ("select_2D_v2", Kind.SELECT_2D), ("patch_motion_correction_multi", Kind.OTHER), ("", Kind.OTHER),
    ],
)  # fmt: skip
def test_kinds_of_job_types(job_type, kind):
    assert kind_of(job_type) is kind


def test_roles_of_output_groups():
    groups = ("particles_class_0", "particles_class_12", "particles_all_classes", "particles_unused")
    roles = [role_of(name, groups) for name in groups]
    assert [r.suffix for r in roles] == ["class0", "class12", "", "unused"]
    assert roles[2].is_all_classes
    for name in ("particles_excluded", "particles_rejected", "particles_junk", "particles_not_selected"):
        assert role_of(name, ("particles_selected", name)).label == -1
        assert role_of(name, (name,)).suffix  # it never is the main output
    assert role_of("particles_unused", ("particles", "particles_unused")).label is None
    assert "/" not in role_of("../../etc", ("particles", "../../etc")).suffix
