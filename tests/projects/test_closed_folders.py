"""Folders that belong to others: a job that may not be looked into costs that job, never its project, and is told."""

import ctypes
import os

import numpy as np
import pytest
from cryosparc_projects import write_cryosparc_project
from relion_projects import write_relion_project

from cryoflow.database import Database, verify
from cryoflow.ingest import ingest_tables
from cryoflow.micrographs.image import write_mrc
from cryoflow.projects import cryosparc, relion
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.projects.found import JobStatus

CLOSED = {"nothing allowed": 0o000, "listing alone": 0o444}
_OVERRIDES = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root reads what is closed to its owner
_CAPABILITY_VERSION_3 = 0x20080522


@pytest.fixture
def as_a_user():
    """Root, too, may read only what its modes allow while a test runs; threads that it starts are held to it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    less = (ctypes.c_uint32 * 6)(*before)
    less[0] &= ~_OVERRIDES  # of the first 32 capabilities, those in effect
    assert libc.capset(header, less) == 0
    yield
    assert libc.capset(header, before) == 0


@pytest.fixture(scope="module")
def storage(tmp_path_factory, blots):
    top = tmp_path_factory.mktemp("storage")
    write_cryosparc_project(top / "P12", blots)
    write_relion_project(top / "relion", blots, version="4")
    return top


def listed(storage):
    found = crawl(storage)
    jobs = jobs_of(found.projects)
    assert (len(found.projects), found.unreadable, jobs.unreadable) == (2, [], [])
    return {(job.program, job.job): job for job in jobs.jobs}


@pytest.mark.parametrize("mode", CLOSED.values(), ids=CLOSED)
def test_a_closed_job_is_unreadable_and_all_others_are_listed_as_before(storage, as_a_user, mode):
    before = listed(storage)
    n_unreadable = 0
    for job in before.values():
        old = job.folder.stat().st_mode
        job.folder.chmod(mode)
        try:
            with pytest.raises(PermissionError):
                os.stat(job.folder / "job.star")
            after = listed(storage)
        finally:
            job.folder.chmod(old)
        its = after.pop((job.program, job.job))
        assert its.status in (JobStatus.UNREADABLE, JobStatus.NOT_OF_INTEREST)
        assert its.status is job.status or "cannot be read: Permission denied" in its.reason
        n_unreadable += its.status is JobStatus.UNREADABLE
        for who, other in after.items():
            assert (other.status, other.reason) == (before[who].status, before[who].reason)
    assert n_unreadable >= 15


def test_picks_are_read_where_the_jobs_of_their_micrographs_are_closed(storage, as_a_user):
    refined = {"cryosparc": ("J10", "J1", cryosparc), "relion": ("job011", "job003", relion)}
    before = listed(storage)
    for program, (name, closed, reader) in refined.items():
        (whole,) = reader.read_job(before[program, name])
        folder = before[program, closed].folder
        old = folder.stat().st_mode
        folder.chmod(0)
        try:
            (pickset,) = reader.read_job(listed(storage)[program, name])
        finally:
            folder.chmod(old)
        assert len(pickset) == len(whole) > 0


def test_a_closed_folder_of_micrographs_ends_neither_verify_nor_loading(tmp_path, as_a_user):
    folders = {"a": tmp_path / "empty", "b": tmp_path / "micrographs"}  # the first table does not find its micrograph
    for name, folder in folders.items():
        folder.mkdir()
        (tmp_path / f"{name}.csv").write_text("micrograph,x,y\nmic1.mrc,25,15\n")
    write_mrc(folders["b"] / "mic1.mrc", np.zeros((20, 30), np.float32), 1.5)
    database = Database(tmp_path / "DB")
    for name, folder in folders.items():
        ingest_tables([tmp_path / f"{name}.csv"], database, micrographs=folder, check_orientation=False)
    folders["b"].chmod(0)
    try:
        (finding,) = verify(database)
        status = [database.load(entry.name).micrographs["status"].tolist() for entry in database.entries()]
    finally:
        folders["b"].chmod(0o755)
    assert (finding.severity, "closed to you" in finding.what) == ("notice", True)
    assert status == [["missing"], ["found"]]
    assert verify(database) == []
