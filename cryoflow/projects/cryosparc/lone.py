"""A dataset or a group file of CryoSPARC that somebody names by hand, wherever it lies."""

from __future__ import annotations

import re
from pathlib import Path

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.files import safe_name
from cryoflow.formats.cs import read_cs_header
from cryoflow.micrographs.find import Finder
from cryoflow.picks import Kind, PickSet
from cryoflow.projects.cryosparc.job_json import Group, JobFile, Slot
from cryoflow.projects.cryosparc.job_types import Role
from cryoflow.projects.cryosparc.outputs import ProjectIndex, Record, _resolved
from cryoflow.projects.cryosparc.read import _Context, _read_output
from cryoflow.projects.cryosparc.without_json import read_csg
from cryoflow.projects.found import Job, JobStatus

_JOB_FOLDER = re.compile(r"J\d+")


def read_lone(path: Path, finder: Finder | None = None) -> PickSet:
    """The picks of a `.cs` or `.csg` file. Where it lies in a job's folder, the project tells what the file does not.

    Parameters
    ----------
    finder
        Where micrographs are; by default in the file's project or folder.

    Raises
    ------
    BadInput
        Where it is no such file, or holds no positions of particles.
    """
    path = path.absolute()
    in_job = bool(_JOB_FOLDER.fullmatch(path.parent.name))
    project = path.parent.parent if in_job else path.parent
    group = read_csg(path) if path.suffix == ".csg" else _group_of_dataset(path)
    if group.item_type != "particle":
        raise BadInput(path, f"is a group of type {group.item_type or 'unknown'}, not of particles.")
    output = _resolved((group,))[0]
    if "location" not in output.slots and not in_job:
        raise MissingMetadata(
            path,
            "has no location/..., so that nobody knows where its particles are.",
            "Name the .csg file, or the passthrough dataset of the same job.",
        )
    index = ProjectIndex(project)
    record = index.record(path.parent.name) if in_job else Record(JobFile(path.stem), path.parent)
    name = safe_name(path.stem)
    job = Job(
        program="cryosparc",
        project=project,
        project_name=project.name,
        job=f"{path.parent.name}_{name}" if in_job else name,
        folder=path.parent,
        kind=Kind.IMPORT,
        job_type="",
        status=JobStatus.USABLE,
    )
    return _read_output(_Context(job, index, record, finder or Finder(project), None), output, Role())


def _group_of_dataset(path: Path) -> Group:
    """Every part `<slot>/...` of a dataset's columns as a slot."""
    header = read_cs_header(path)
    slots = sorted({name.split("/")[0] for name in header.dtype.names or () if "/" in name})
    return Group("", "particle", tuple(Slot(slot, (path.name,), None, False) for slot in slots), path.parent)
