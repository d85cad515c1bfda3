"""The jobs of a project: what each is, whether its picks can be used and why not, and which files hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.star_words import whole_number
from cryoflow.picks import Kind
from cryoflow.projects.found import Job, JobStatus, Output, Project
from cryoflow.projects.relion import relion1
from cryoflow.projects.relion.coordinates import stamp_of_coordinates
from cryoflow.projects.relion.job_graph import Pipeline, Process, load_pipeline
from cryoflow.projects.relion.job_options import is_yes, job_options
from cryoflow.projects.relion.job_types import job_type
from cryoflow.projects.relion.lineage import micrograph_stars, select_kind
from cryoflow.projects.relion.outputs import FoundTable, FoundTables, find_outputs
from cryoflow.projects.relion.sniff import sniff
from cryoflow.projects.relion.usable import why_unusable
from cryoflow.storage.files import is_file

_ITERATION = re.compile(r"run(_ct\d+)?_it\d+_")
SUCCESS, FAILURE, ABORTED = "RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"


@dataclass(frozen=True)
class _Verdict:
    status: JobStatus
    reason: str = ""


def find_jobs(project: Project) -> list[Job]:
    """Return every job of a project, sorted by number, with its status and the reason for it.

    Reads the pipeline, and of each job that can hold picks: its folder's listing, its options, and the first part of
    the files that hold them. No table is read through.

    Raises
    ------
    OSError
        Where the project's folder may not be read.
    """
    os.listdir(project.path)
    if project.program_version == "1":
        return relion1.find_jobs(project)
    pipeline = load_pipeline(project.path)
    ordered = sorted(pipeline.processes.values(), key=lambda p: (_number(p.job), p.name))
    return [_job(project, pipeline, process) for process in ordered]


def _number(job: str) -> int:
    digits = re.search(r"[0-9]+$", job)
    return (digits and whole_number(digits.group())) or 0


def _job(project: Project, pipeline: Pipeline, process: Process) -> Job:
    folder = pipeline.folder(process.name)
    known = job_type(process.type_label)
    kind, found = known.kind, FoundTables()
    names = _names(folder)
    if known.useless:
        verdict = _Verdict(JobStatus.NOT_OF_INTEREST, known.useless)
    elif names is None:
        verdict = _Verdict(JobStatus.CLEARED, "its folder is gone")
    elif isinstance(names, OSError):
        verdict = _Verdict(JobStatus.UNREADABLE, f"its folder cannot be read: {names.strerror}")
    elif is_yes(job_options(folder).get("rlnJobIsTomo", "")):
        verdict = _Verdict(JobStatus.NOT_OF_INTEREST, "tomography: picks in three dimensions are not read")
    else:
        found = find_outputs(pipeline, process, kind, names)
        verdict = _verdict(pipeline, process, names, found)
    if kind is Kind.SELECT:
        kind = select_kind(pipeline, process.name, names if isinstance(names, set) else set())
        if names is None and not any(n.endswith("particles.star") for n in pipeline.edges_out.get(process.name, ())):
            verdict = _Verdict(JobStatus.NOT_OF_INTEREST, "selects micrographs, not particles")
    context = tuple(pipeline.project / node for node in micrograph_stars(pipeline, process.name))
    return Job(
        program="relion",
        project=project.path,
        project_name=project.name,
        job=process.job,
        folder=folder,
        kind=kind,
        job_type=process.type_label,
        status=verdict.status,
        reason=verdict.reason,
        alias=process.alias.rpartition("/")[2],
        outputs=tuple(_output(project.path, table, folder, context, names) for table in found.stars),
        detail={"process": process.name, "program_version": project.program_version},
    )


def _names(folder: Path) -> set[str] | OSError | None:
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error


def _output(
    project: Path, table: FoundTable, folder: Path, context: tuple[Path, ...], names: set[str] | OSError | None
) -> Output:
    path = table.path
    files = [path, *(p for p in context if is_file(p))]
    if isinstance(names, set) and SUCCESS in names:
        files.append(folder / SUCCESS)  # rewritten by each run
    try:
        n_picks = sniff(path).n_rows
    except BadInput:
        n_picks = None
    is_list = _is_list(path)
    return Output(
        os.path.relpath(path, folder),
        table.suffix,
        tuple(files),
        small_files=stamp_of_coordinates(project, path) if is_list else "",
        n_picks=None if is_list or table.class_number is not None else n_picks,
        n_micrographs=n_picks if is_list else None,
        class_number=table.class_number,
    )


def _is_list(path: Path) -> bool:
    try:
        content = sniff(path)
    except BadInput:
        return path.name.startswith("coords_suffix")
    return content.is_coordinate_list


def _verdict(pipeline: Pipeline, process: Process, names: set[str], found: FoundTables) -> _Verdict:
    """Return the status of a job whose folder is there: the first rule that applies."""
    ended = _ended(pipeline.folder(process.name), process, names)
    if found.useless and (ended is None or found.is_certain):
        return _Verdict(JobStatus.NOT_OF_INTEREST, found.useless)
    if ended is not None:
        last = _written_last(pipeline.folder(process.name), names, found)
        if process.status == "Running" and ended.status is JobStatus.UNFINISHED and last:
            return _Verdict(
                JobStatus.STALE,
                f"default_pipeline.star says Running, but {last} is there, which is written at the end: RELION was "
                "most likely closed before; read it with --include-unfinished, or open the project in RELION once",
            )
        return ended
    if not found.stars:
        if not names - {"note.txt", "run.out", "run.err", "job.star", "run.job", "job_pipeline.star", SUCCESS}:
            return _Verdict(JobStatus.CLEARED, "its folder holds no output")
        return _Verdict(JobStatus.CLEARED, f"its output is gone ({found.expected})")
    if problem := _problem(pipeline, process, found):
        return problem
    if found.unfinished:
        return _Verdict(JobStatus.UNFINISHED, found.unfinished)
    if found.mixes_classes:
        return _Verdict(
            JobStatus.NOT_OF_INTEREST, "holds all its particles, good and bad: use its Select job, or name classes"
        )
    return _Verdict(JobStatus.USABLE)


def _problem(pipeline: Pipeline, process: Process, found: FoundTables) -> _Verdict | None:
    """Return why none of the files can be used; None where one of them can."""
    paths = dict.fromkeys(table.path for table in found.stars)
    reasons = [why_unusable(pipeline, process.name, path) for path in paths]
    if not reasons or any(reason is None for reason in reasons):
        return None
    first = reasons[0]
    assert first is not None
    path = found.stars[0].path
    return _Verdict(first.status, f"{path.name} {first.error.reason.rstrip('.')}")


def _ended(folder: Path, process: Process, names: Collection[str]) -> _Verdict | None:
    """Return why a job has not ended well, None where it has: by its exit file, else by the pipeline.

    `job_pipeline.star` in the job's folder stays at Running, and is not read.
    """
    marks = [name for name in (SUCCESS, FAILURE, ABORTED) if name in names]
    if marks:
        newest = max(marks, key=lambda name: _mtime_ns(folder / name))
        if newest == FAILURE:
            return _Verdict(JobStatus.FAILED, "ended with an error (RELION_JOB_EXIT_FAILURE)")
        if newest == ABORTED:
            return _Verdict(JobStatus.FAILED, "was aborted (RELION_JOB_EXIT_ABORTED)")
        return None
    return {
        "Running": _Verdict(JobStatus.UNFINISHED, "is running, or was never marked as finished"),
        "Scheduled": _Verdict(JobStatus.UNFINISHED, "is scheduled"),
        "Failed": _Verdict(JobStatus.FAILED, "ended with an error, says default_pipeline.star"),
        "Aborted": _Verdict(JobStatus.FAILED, "was aborted, says default_pipeline.star"),
    }.get(process.status)


def _written_last(folder: Path, names: Collection[str], found: FoundTables) -> str:
    """Return the name of the file that a job of this type writes at its end, where it is there and nothing was written
    since.

    Classifications have none: their last iteration is no more than the last so far.
    """
    if found.unfinished or not found.stars or _ITERATION.match(found.stars[0].path.name):
        return ""
    last = found.stars[0].path
    later = max((_mtime_ns(folder / n) for n in names if _ITERATION.match(n)), default=0)
    return last.name if is_file(last) and _mtime_ns(last) >= later else ""


def _mtime_ns(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
