"""Where projects are: found from above, at and from within; never twice, never in what cannot hold one."""

import json
import os
import re
import shutil

import pytest
from cryosparc_projects import write_cryosparc_project
from projects_cryosparc_dataset import small_dataset
from relion_projects import write_relion_project

from cryoflow.errors import BadInput
from cryoflow.projects import crawl as crawling
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.projects.found import JobStatus


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """Two projects of one name, two folders deep, among folders that hold none."""
    top = tmp_path_factory.mktemp("storage")
    dataset = small_dataset(top / "raw", n_micrographs=1)
    for lab in ("a", "b"):
        write_cryosparc_project(top / lab / "2024" / "P12", dataset)
    (top / "empty" / "deep").mkdir(parents=True)
    return top


def names(result):
    return [str(project.path) for project in result.projects]


def test_projects_below_a_root_are_found_in_order_with_ids_of_their_own(storage):
    found = crawl([storage])
    assert names(found) == [str(storage / lab / "2024" / "P12") for lab in ("a", "b")]
    assert len({project.uid for project in found.projects}) == 2
    assert found.unreadable == []


def test_a_root_may_be_a_project_or_a_folder_inside_one(storage):
    project = storage / "a" / "2024" / "P12"
    for root in (project, project / "J10", project / "J1" / "imported"):
        assert names(crawl(root)) == [str(project)]
    assert crawl(storage / "empty").projects == []


def test_overlapping_roots_list_a_project_once(storage):
    assert len(crawl([storage / "a", storage, storage / "a" / "2024" / "P12"]).projects) == 2


def test_the_id_of_a_project_does_not_depend_on_the_root(storage):
    assert crawl(storage).projects[0].uid == crawl(storage / "a" / "2024" / "P12" / "J3").projects[0].uid


def test_a_root_that_does_not_exist_is_one_clear_error(tmp_path):
    with pytest.raises(BadInput, match="does not exist"):
        crawl([tmp_path / "none"])
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        crawl([tmp_path / "file"])


def test_a_link_to_a_project_counts_and_is_the_same_project(storage, tmp_path):
    (tmp_path / "link").symlink_to(storage / "a" / "2024" / "P12")
    assert names(crawl(tmp_path)) == [str(tmp_path / "link")]
    assert len(crawl([tmp_path, storage]).projects) == 2


def test_loops_of_links_end(tmp_path, storage):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "up").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to("self")
    assert crawl(tmp_path).projects == []


@pytest.mark.parametrize("name", ["Trash", ".Nodes", ".snapshot", "snapshots", "J7", ".hidden"])
def test_folders_that_hold_no_projects_are_not_entered(tmp_path, name):
    write_cryosparc_project(tmp_path / name / "P1", small_dataset(tmp_path / "raw", n_micrographs=1))
    assert crawl(tmp_path).projects == []


def test_found_projects_are_not_entered(tmp_path, monkeypatch):
    write_cryosparc_project(tmp_path / "P1", small_dataset(tmp_path / "raw", n_micrographs=1))
    listed = []
    scandir = os.scandir
    monkeypatch.setattr(crawling.os, "scandir", lambda folder: listed.append(str(folder)) or scandir(folder))
    crawl(tmp_path)
    assert listed == [str(tmp_path), str(tmp_path / "P1")]


def test_a_project_hides_no_other_that_lies_in_it(storage):
    lab = storage / "a"
    shutil.copytree(storage / "b" / "2024" / "P12", lab / "relion" / "with blanks" / "P3", symlinks=True)
    write_relion_project(lab / "2024" / "P12" / "relion", small_dataset(storage / "raw", n_micrographs=1))
    (lab / "default_pipeline.star").write_text("data_pipeline_general\n\n_rlnPipeLineJobCounter 1\n")  # a slip
    (lab / "2024" / "P12" / "again").symlink_to(".")
    (lab / "2024" / "P12" / "good").symlink_to("J7")
    exported = lab / "2024" / "P12" / "exports" / "jobs" / "P12_J7_select_2D"
    shutil.copytree(lab / "2024" / "P12" / "J7", exported / "J7")
    unknown = lab / "2024" / "P12" / "relion" / "PickedTomograms"
    (unknown / "job099").mkdir(parents=True)
    shutil.copy(lab / "2024" / "P12" / "relion" / "default_pipeline.star", unknown / "job099")
    (unknown / "alias").symlink_to("job099")
    try:
        assert names(crawl(storage)) == [
            str(lab),
            str(lab / "2024" / "P12"),
            str(lab / "2024" / "P12" / "relion"),
            str(lab / "relion" / "with blanks" / "P3"),
            str(storage / "b" / "2024" / "P12"),
        ]
    finally:
        (lab / "default_pipeline.star").unlink()
        shutil.rmtree(lab / "relion")
        for name in ("relion", "exports"):
            shutil.rmtree(lab / "2024" / "P12" / name)
        for name in ("again", "good"):
            (lab / "2024" / "P12" / name).unlink()


def test_live_sessions_say_where_their_particles_are(tmp_path):
    project = write_cryosparc_project(tmp_path / "P1", small_dataset(tmp_path / "raw", n_micrographs=1))
    for name in ("S10", "S2"):
        (project / name / "motioncorrected").mkdir(parents=True)
        (project / name / "exposures.bson").touch()
    jobs = jobs_of(crawl(project).projects, count=True).jobs
    assert [job.job for job in jobs] == [*(f"J{i}" for i in range(1, 13)), "S2", "S10"]
    assert {job.status.value for job in jobs[-2:]} == {"not of interest"}
    assert all("Live session" in job.reason for job in jobs[-2:])


def test_folders_that_may_not_be_read_are_reported_and_the_rest_goes_on(storage, monkeypatch):
    scandir = os.scandir
    closed = str(storage / "a" / "2024")

    def guarded(folder):
        if str(folder) == closed:
            raise PermissionError(13, "Permission denied", closed)
        return scandir(folder)

    monkeypatch.setattr(crawling.os, "scandir", guarded)
    found = crawl(storage)
    assert names(found) == [str(storage / "b" / "2024" / "P12")]
    assert [str(error.path) for error in found.unreadable] == [closed]
    assert "Permission denied" in str(found.unreadable[0])


def test_jobs_of_several_projects_come_in_order_whoever_is_read_first(storage, monkeypatch):
    projects = crawl(storage).projects
    many = jobs_of(projects)
    monkeypatch.setattr("cryoflow.projects.crawl.N_READING", 1)
    one = jobs_of(projects)
    assert one.jobs == many.jobs
    assert [job.job for job in one.jobs] == [f"J{i}" for i in range(1, 13)] * 2


def test_a_project_that_vanishes_between_crawl_and_listing_is_reported(tmp_path):
    import shutil

    folder = write_cryosparc_project(tmp_path / "P1", small_dataset(tmp_path / "raw", n_micrographs=1))
    projects = crawl(tmp_path).projects
    shutil.rmtree(folder)
    result = jobs_of(projects)
    assert result.jobs == []
    assert "cannot be listed" in str(result.unreadable[0])


def test_a_defect_in_one_project_leaves_the_jobs_of_the_others(storage, monkeypatch):
    odd, good = crawl(storage).projects
    whole = jobs_of([good], count=True).jobs
    find_jobs, with_counts = crawling.find_jobs, crawling.with_counts

    def find(project):
        if project == odd:
            raise ValueError("invalid literal\nof a file")
        return find_jobs(project)

    monkeypatch.setattr(crawling, "find_jobs", find)
    result = jobs_of([odd, good], count=True)
    assert result.jobs == whole
    (error,) = result.unreadable
    assert error.path == odd.path
    assert "a defect of cryoflow (ValueError: invalid literal)" in str(error)

    def count(job):
        if job.project == odd.path:
            raise IndexError("index 0")
        return with_counts(job)

    monkeypatch.setattr(crawling, "find_jobs", find_jobs)
    monkeypatch.setattr(crawling, "with_counts", count)
    jobs = jobs_of([odd, good], count=True).jobs
    assert jobs[len(whole) :] == whole
    failed = [job for job in jobs if "a defect of cryoflow (IndexError: index 0)" in job.reason]
    assert {job.project for job in failed} == {odd.path}
    assert {job.status for job in failed} == {JobStatus.UNREADABLE}


def test_a_lack_of_memory_is_not_taken_for_a_defect_of_one_project(storage, monkeypatch):
    def fails(project):
        raise MemoryError

    monkeypatch.setattr(crawling, "find_jobs", fails)
    with pytest.raises(MemoryError):
        jobs_of(crawl(storage).projects)


@pytest.mark.parametrize("number", ["--8", "\N{SUPERSCRIPT TWO}", "8" * 5000])
def test_numbers_that_are_none_hide_no_job(tmp_path, number):
    dataset = small_dataset(tmp_path / "raw", n_micrographs=1)
    cryosparc = write_cryosparc_project(tmp_path / "P1", dataset)
    relion = write_relion_project(tmp_path / "P2", dataset)
    n_jobs = len(jobs_of(crawl(tmp_path).projects).jobs)
    (cryosparc / "job_manifest.json").write_text(json.dumps({"jobs": ["J1", f"J{number}"]}))
    rows = f"Import/job001/ None {number} {number}\nExtract/job{number}/ None {number} {number}\n"
    labels = ("Name", "Alias", "Type", "Status")
    processes = "".join(f"_rlnPipeLineProcess{label}\n" for label in labels)
    nodes = f"_rlnPipeLineNodeName\n_rlnPipeLineNodeType\nImport/job001/movies.star {number}\n"
    text = f"data_pipeline_processes\n\nloop_\n{processes}{rows}\ndata_pipeline_nodes\n\nloop_\n{nodes}"
    (relion / "default_pipeline.star").write_text(text)
    (options,) = (relion / "Class3D").glob("job*/job.star")
    text, n_changed = re.subn(r"(nr_classes\s+)\d+", rf"\g<1>{number}", options.read_text())
    options.write_text(text)
    assert n_changed == 1
    listed = jobs_of(crawl(tmp_path).projects, count=True)
    assert listed.unreadable == []
    assert len(listed.jobs) == n_jobs + 1  # the job of that number
    assert not any("defect" in job.reason for job in listed.jobs)


def test_hostile_folder_names_are_crawled(tmp_path, hostile_name):
    write_cryosparc_project(tmp_path / hostile_name / "P1", small_dataset(tmp_path / "raw", n_micrographs=1))
    assert len(crawl(tmp_path).projects) == 1
