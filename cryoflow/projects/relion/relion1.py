"""Projects of RELION 1: no pipeline, names as their users chose them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.picks import Kind
from cryoflow.projects.found import Job, JobStatus, Output, Project
from cryoflow.projects.relion.sniff import sniff

_DATA = re.compile(r"(?P<run>\w+?)(?:_ct(?P<start>\d+))?(?:_it(?P<iteration>\d+))?_data\.star")
_KINDS = {"Refine3D": Kind.REFINE_3D, "Class3D": Kind.CLASS_3D, "Class2D": Kind.CLASS_2D}


def find_jobs(project: Project) -> list[Job]:
    """Return one job a run: `Refine3D/run1_data.star` is job `run1` of kind Refine3D. Only the last iteration
    counts."""
    jobs = []
    for folder, kind in sorted(_KINDS.items()):
        try:
            names = os.listdir(project.path / folder)
        except OSError:
            continue
        runs: dict[str, list[tuple[bool, int, int, str]]] = defaultdict(list)
        for name in names:
            if match := _DATA.fullmatch(name):
                final = match["iteration"] is None
                rank = (final, int(match["iteration"] or 0), int(match["start"] or -1), name)
                runs[match["run"]].append(rank)
        for run in sorted(runs):
            final, _, _, name = max(runs[run])
            jobs.append(_job(project, project.path / folder / name, kind, run, final))
    return jobs


def _job(project: Project, path: Path, kind: Kind, run: str, is_final: bool) -> Job:
    status, reason = JobStatus.USABLE, ""
    try:
        content = sniff(path)
    except BadInput as error:
        content = None
        status, reason = JobStatus.UNREADABLE, f"{path.name} {error.reason}"
    if content is not None and not content.has_coordinates:
        status, reason = JobStatus.UNREADABLE, f"{path.name} has no _rlnCoordinateX and _rlnCoordinateY"
    elif content is not None and content.n_rows == 0:
        status, reason = JobStatus.EMPTY, f"{path.name} has no rows"
    elif content is not None and kind in (Kind.CLASS_2D, Kind.CLASS_3D):
        status, reason = JobStatus.NOT_OF_INTEREST, "holds all its particles, good and bad: name classes to use it"
    elif content is not None and kind is Kind.REFINE_3D and not is_final:
        status, reason = JobStatus.UNFINISHED, f"has not converged: the last it wrote is {path.name}"
    return Job(
        program="relion",
        project=project.path,
        project_name=project.name,
        job=run,
        folder=path.parent,
        kind=kind,
        job_type=f"relion.{path.parent.name.lower()}",
        status=status,
        reason=reason,
        outputs=(Output(path.name, "", (path,), n_picks=content.n_rows if content else None),),
        detail={"process": "", "program_version": "1"},
    )
