"""Whatever lies in a project's files, only cryoflow's own errors come out, and memory stays bounded."""

import json
import os

import numpy as np
import pytest
from cryosparc_projects import write_cryosparc_project
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from projects_cryosparc_dataset import small_dataset

from cryoflow.errors import CryoflowError
from cryoflow.formats.cs import read_cs, read_cs_distinct, read_cs_header, write_cs
from cryoflow.projects import cryosparc
from cryoflow.projects.cryosparc.standalone import read_standalone
from cryoflow.projects.cryosparc.without_json import read_csg
from cryoflow.projects.found import JobStatus

MANY = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FEW = settings(MANY, max_examples=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    top = tmp_path_factory.mktemp("hostile")
    dataset = small_dataset(top / "raw", n_micrographs=2)
    made = {}
    for version, container in (("4.2", "npy"), ("5.0", "csdat")):
        made[version] = write_cryosparc_project(top / version, dataset, version=version, container=container)
    return made


@pytest.fixture(autouse=True)
def memory_is_bounded(grown_mb):
    yield
    assert grown_mb() < 400


def read_everything(folder):
    """All that a user can ask of a project; returns whether something was read."""
    try:
        project = cryosparc.recognize(folder, set(os.listdir(folder)))
        jobs = cryosparc.find_jobs(project) if project else []
    except CryoflowError:
        return
    for job in jobs:
        try:
            for picks in cryosparc.read_job(job, include_unfinished=True):
                assert len(picks) == len(picks.picks)
        except CryoflowError:
            continue


def try_dataset(path):
    for read in (
        read_cs_header,
        read_cs,
        read_standalone,
        lambda p: read_cs_distinct(p, (), read_cs_header(p).dtype.names),
    ):
        try:
            read(path)
        except CryoflowError as caught:
            error = caught
        else:
            continue
        assert str(path) in str(error)


@MANY
@given(st.binary(max_size=300), st.sampled_from([b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x03\x00", b"\x95CSDAT"]))
def test_random_bytes_are_no_dataset(tmp_path, content, magic):
    path = tmp_path / "a.cs"
    path.write_bytes(magic + content)
    try_dataset(path)


def mutated(content, edits, cut):
    changed = bytearray(content)
    for place, value in edits:
        changed[place % len(changed)] = value
    return bytes(changed[: len(changed) - cut % len(changed)]) if cut else bytes(changed)


EDITS = st.lists(st.tuples(st.integers(0, 2**20) | st.integers(0, 400), st.integers(0, 255)), max_size=6)


@MANY
@given(EDITS, st.sampled_from([0, 0, 0, 1, 7, 5000]), st.sampled_from(["4.2", "5.0"]))
def test_mutated_datasets_give_picks_or_an_error(tmp_path, projects, edits, cut, version):
    content = (projects[version] / "J4" / "picked_particles.cs").read_bytes()
    path = tmp_path / "a.cs"
    path.write_bytes(mutated(content, edits, cut))
    try_dataset(path)


@FEW
@given(EDITS, st.sampled_from([0, 0, 3]), st.sampled_from(["4.2", "5.0"]), st.sampled_from(["J6", "J9", "J10"]))
def test_mutated_jobs_give_picks_or_an_error(projects, edits, cut, version, job):
    folder = projects[version]
    path = next(iter(sorted((folder / job).glob("*_particles.cs"))))
    whole = path.read_bytes()
    try:
        path.write_bytes(mutated(whole, edits, cut))
        read_everything(folder)
    finally:
        path.write_bytes(whole)


@FEW
@given(JSON, st.integers(0, 10**6), st.sampled_from(["4.2", "5.0"]), st.sampled_from(["J4", "J9", "J10"]))
def test_any_json_in_any_place_of_job_json_is_survived(projects, value, seed, version, job):
    folder = projects[version]
    path = folder / job / "job.json"
    whole = path.read_text()
    content = json.loads(whole)
    places = []

    def walk(node):
        for key in list(node) if isinstance(node, dict) else range(len(node)):
            places.append((node, key))
            if isinstance(node[key], dict | list):
                walk(node[key])

    walk(content)
    node, key = places[seed % len(places)]
    node[key] = value
    try:
        path.write_text(json.dumps(content))
        read_everything(folder)
    finally:
        path.write_text(whole)


@FEW
@given(st.binary(max_size=200) | st.builds(lambda v: json.dumps(v).encode(), JSON))
def test_any_bytes_in_the_json_files_are_survived(projects, content):
    folder = projects["4.2"]
    paths = [folder / "J10" / "job.json", folder / "project.json", folder / "job_manifest.json"]
    whole = [path.read_bytes() for path in paths]
    try:
        for path in paths:
            path.write_bytes(content)
        read_everything(folder)
    finally:
        for path, old in zip(paths, whole, strict=True):
            path.write_bytes(old)


@MANY
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode(errors="replace")), EDITS)
def test_group_files_are_read_or_refused(tmp_path, projects, content, edits):
    whole = (projects["4.2"] / "J10" / "J10_particles.csg").read_bytes()
    for text in (content, mutated(whole, edits, 0)):
        path = tmp_path / "a.csg"
        path.write_bytes(text)
        for read in (read_csg, read_standalone):
            try:
                read(path)
            except CryoflowError:
                continue


def test_real_files_mutated_are_read_or_refused(tmp_path, realdata):
    content = (realdata / "cryosparc_files" / "4k_dataset.cs").read_bytes()
    path = tmp_path / "a.cs"
    for place in range(0, len(content), max(1, len(content) // 200)):
        path.write_bytes(mutated(content, [(place, 7)], 0))
        try_dataset(path)


@pytest.mark.parametrize(
    ("name", "job"),
    [
        ("J2/exposures_ctf_estimated.cs", "J4"),
        ("J4/picked_particles.cs", "J4"),
        ("J6/J6_020_particles.cs", "J6"),
        ("J6/J6_passthrough_particles.cs", "J6"),
        ("J13/expanded_particles.cs", "J13"),
    ],
)
def test_no_number_in_any_column_makes_anything_but_picks_or_an_error(tmp_path, name, job):
    dataset = small_dataset(tmp_path / "raw", n_micrographs=1)
    folder = write_cryosparc_project(tmp_path / "P", dataset, symmetry_copies=2)
    jobs = cryosparc.find_jobs(cryosparc.recognize(folder, {p.name for p in folder.iterdir()}))
    (job,) = (j for j in jobs if j.job == job)
    assert job.status is JobStatus.USABLE
    columns = read_cs(folder / name)
    for column, values in columns.items():
        if values.dtype.kind not in "fu":
            continue
        is_real = values.dtype.kind == "f"
        for odd in (3e38, -3e38, np.inf, np.nan, 1e-40) if is_real else (np.iinfo(values.dtype).max, 0):
            changed = values.copy()
            changed[:2] = odd
            write_cs(folder / name, {**columns, column: changed})
            try:
                cryosparc.read_job(job)
            except CryoflowError:
                continue
