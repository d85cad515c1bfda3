"""A CryoSPARC dataset or group file by itself, without the project around it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.cs import read_cs_header
from cryoflow.micrographs.find import Finder
from cryoflow.picks import Kind, PickSet
from cryoflow.projects.cryosparc.job_json import Group, JobFile, Slot
from cryoflow.projects.cryosparc.job_types import Role
from cryoflow.projects.cryosparc.outputs import ProjectIndex, Record, resolved
from cryoflow.projects.cryosparc.read import Context, read_output
from cryoflow.projects.cryosparc.without_json import read_csg
from cryoflow.projects.flip import NO_FLIP, Flip
from cryoflow.projects.found import Job, JobStatus, lone_job
from cryoflow.storage.files import is_file


def read_lone(path: Path, finder: Finder | None = None, flip: Flip = NO_FLIP) -> PickSet:
    """The picks in a `.cs` file, or in the datasets that a `.csg` file names.

    Parameters
    ----------
    path
        The file.
    finder
        Finds the micrographs; by default in the project that the file lies in, and beside the file.
    flip
        As for `read_job`.

    Raises
    ------
    BadInput
        Where a dataset is damaged, missing or none.
    MissingMetadata
        Where nothing says where the particles lie.
    """
    group = read_csg(path) if path.suffix == ".csg" else _group_of(path)
    if group.item_type == "exposure":
        raise MissingMetadata(path, "describes micrographs, not particles.", "Name a group of particles.")
    (output,) = resolved((group,))
    if output.problems:
        raise output.problems[0]
    if output.lost:
        raise BadInput(path, f"names datasets for {', '.join(output.lost)} that are not there.", "Copy them beside it.")
    if "location" not in output.slots:
        raise MissingMetadata(
            path,
            "has no location columns, so it does not say where its particles lie.",
            "Name an output that has them: they are in the passthrough dataset of the same job or of one before it."
            if path.suffix == ".csg"
            else "They are in the passthrough dataset of the same job: name the job's .csg file, which joins both.",
        )
    job = Job(
        program="cryosparc",
        project=path.parent,
        project_name=path.parent.name or "file",
        job=lone_job(path),
        folder=path.parent,
        kind=Kind.IMPORT,
        job_type="CryoSPARC group" if path.suffix == ".csg" else "CryoSPARC dataset",
        status=JobStatus.USABLE,
        detail={"is_helical": "filament" in output.slots},
    )
    record = Record(JobFile(job.job, groups=(group,)), path.parent, (output,))
    context = Context(job, ProjectIndex(path.parent), record, finder or _finder(path), None, flip, "file")
    pickset = read_output(context, output, Role())
    return replace(pickset, provenance=replace(pickset.provenance, output_group=path.name))


def _finder(path: Path) -> Finder:
    """Names are relative to the project, from which an export lies a few folders deep, or to the export itself."""
    project = next((folder for folder in path.parents if is_file(folder / "project.json")), path.parent)
    return Finder(project, search=[path.parent])


def _group_of(path: Path) -> Group:
    header = read_cs_header(path)
    prefixes = dict.fromkeys(name.partition("/")[0] for name in header.dtype.names or () if "/" in name)
    slots = tuple(Slot(prefix, (path.name,), header.n_rows) for prefix in prefixes)
    return Group(path.stem, "particle", slots, path.parent, header.n_rows)
