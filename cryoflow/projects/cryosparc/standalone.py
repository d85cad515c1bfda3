"""CryoSPARC datasets and group files by themselves, without the project around them.

A dataset and the passthrough of the same job belong together: what one lacks the other has. They are joined by uid
where they lie beside each other, as their names say.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.picks import Kind, PickSet, Provenance
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention
from cryoflow.projects.cryosparc.job_json import Group, JobFile, Slot
from cryoflow.projects.cryosparc.job_types import Role, role_of
from cryoflow.projects.cryosparc.outputs import ProjectIndex, Record, resolved
from cryoflow.projects.cryosparc.read import Context, read_output
from cryoflow.projects.cryosparc.without_json import from_names, job_of_name, project_of_name, read_csg
from cryoflow.projects.found import Job, JobStatus, standalone_job
from cryoflow.storage.files import is_file

_MOST_BESIDE = 10_000


def read_standalone(path: Path, finder: Finder | None = None, flip: AxisConvention = AS_STORED) -> PickSet:
    """Return the picks in a `.cs` file and its passthrough, or in the datasets that a `.csg` file names.

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
    group, notes = (read_csg(path), ()) if path.suffix.lower() == ".csg" else _group_of(path)
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
            else "They are in the passthrough dataset of the same job: name the job's .csg file, which joins both, or "
            "copy the passthrough beside it.",
        )
    role = role_of(group.name, (group.name, "particles"))
    role = Role(role.suffix if role.label == -1 else "", label=role.label)
    job = Job(
        program="cryosparc",
        project=path.parent,
        project_name=path.parent.name or "file",
        job=standalone_job(path),
        folder=path.parent,
        kind=Kind.IMPORT,
        job_type="CryoSPARC group" if path.suffix == ".csg" else "CryoSPARC dataset",
        status=JobStatus.USABLE,
        detail={"is_helical": "filament" in output.slots},
    )
    record = Record(JobFile(job.job, groups=(group,)), path.parent, (output,))
    context = Context(job, ProjectIndex(path.parent), record, finder or _finder(path), None, flip, "file")
    pickset = read_output(context, output, role)
    who: Provenance = replace(pickset.provenance, output_group=path.name)
    return replace(pickset, provenance=who, notes=(*notes, *pickset.notes))


def _finder(path: Path) -> Finder:
    """Return names are relative to the project, from which an export lies a few folders deep, or to the export
    itself."""
    project = next((folder for folder in path.parents if is_file(folder / "project.json")), path.parent)
    return Finder(project, search=[path.parent])


def _group_of(path: Path) -> tuple[Group, tuple[str, ...]]:
    """Return the output group that a dataset is of, with its partner where that lies beside it, and notes."""
    job, project = job_of_name(path.name), project_of_name(path.name)
    alone = _alone(path)
    try:
        names = os.listdir(path.parent)
    except OSError:
        names = []
    if not job and "passthrough" not in path.name:  # `particles_selected.cs` beside `J20_passthrough_...`
        jobs = {found for name in names if "passthrough" in name and (found := job_of_name(name))}
        job = jobs.pop() if len(jobs) == 1 else ""
    passthrough = "passthrough" in path.name
    if job and len(names) <= _MOST_BESIDE:
        of_job = [name for name in names if job_of_name(name) in ("", job) and project_of_name(name) in ("", project)]
        by_names = from_names(path.parent, job, of_job)
        for group in by_names.groups if by_names else ():
            files = {file for slot in group.slots for file in slot.files}
            if path.name not in files or len(files) < 2:
                continue
            others = ", ".join(sorted(files - {path.name}))
            return group, (f"joined by uid with {others}, of the same job and output",)
    if not passthrough and "location" not in {slot.name for slot in alone.slots} and (partner := partner_of(path)):
        slots = (*alone.slots, *(replace(slot, is_passthrough=True) for slot in _alone(partner).slots))
        return replace(alone, slots=slots), (f"joined by uid with {partner.name}, which holds all its particles",)
    if passthrough:
        what = f" of {job}" if job else ""
        note = f"this is the passthrough{what}: what the job itself decided (shifts, classes) is in another dataset"
        return alone, (note,)
    return alone, ()


def _alone(path: Path) -> Group:
    header = read_cs_header(path)
    prefixes = dict.fromkeys(name.partition("/")[0] for name in header.dtype.names or () if "/" in name)
    slots = tuple(Slot(prefix, (str(path),), header.n_rows) for prefix in prefixes)
    return Group(path.stem, "particle", slots, path.parent, header.n_rows)


_MOST_FILES = 100
_MOST_FOLDERS = 50


def partner_of(path: Path) -> Path | None:
    """Return the dataset with positions that has all uids of `path`; None where none or several could be meant.

    Datasets beside it count, and passthroughs of its job in folders beside its folder. Of several that have all uids, a
    passthrough goes first, then what is named after the same job.
    """
    wanted = _uids(path)
    if wanted is None or not len(wanted):
        return None
    found = [other for other in _candidates(path) if _has_positions(other, len(wanted)) and _holds(other, wanted)]
    for is_better in (
        lambda other: "passthrough" in other.name.lower(),
        lambda other: _same(path, other) == 2,
        lambda other: other.parent == path.parent,
    ):
        found = [other for other in found if is_better(other)] or found
    return found[0] if len(found) == 1 else None


def _candidates(path: Path) -> Iterator[Path]:
    names = [path.parent / name for name in _listed(path.parent)]
    beside = [path.parent.parent / name for name in _listed(path.parent.parent)[:_MOST_FOLDERS]]
    for folder in beside:
        if folder != path.parent:
            names += [folder / name for name in _listed(folder) if "passthrough" in name.lower()]
    those = [other for other in names if other.suffix.lower() == ".cs" and other.name[0] != "." and other != path]
    needed = {True: 1, False: 2}  # in another folder, both names must tell the same job
    yield from [other for other in those if _same(path, other) >= needed[other.parent == path.parent]][:_MOST_FILES]


def _same(path: Path, other: Path) -> int:
    """Return 2 where both names contain the same job, 1 where they do not contradict each other, else 0."""
    of_job = {job for name in (path.name, other.name) if (job := job_of_name(name))}
    of_project = {project for name in (path.name, other.name) if (project := project_of_name(name))}
    if len(of_job) > 1 or len(of_project) > 1:
        return 0
    return 2 if job_of_name(path.name) and job_of_name(path.name) == job_of_name(other.name) else 1


def _has_positions(path: Path, at_least: int) -> bool:
    try:
        header = read_cs_header(path)
    except BadInput:
        return False
    names = header.dtype.names or ()
    return header.n_rows >= at_least and any(name.startswith("location/center_x") for name in names)


def _holds(path: Path, wanted: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> bool:
    uids = _uids(path)
    return uids is not None and bool(np.isin(wanted, uids).all())


def _uids(path: Path) -> np.ndarray[tuple[int], np.dtype[np.uint64]] | None:
    try:
        return np.asarray(read_cs(path, ["uid"])["uid"], np.uint64)
    except BadInput:
        return None


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
