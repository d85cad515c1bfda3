"""CryoSPARC projects and their jobs: recognizing them, and whether each job's picks can be used."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.picks import Kind
from cryoflow.projects.cryosparc import outputs as on_disk
from cryoflow.projects.cryosparc.job_json import program_version, read_json
from cryoflow.projects.cryosparc.job_types import Role, role_of
from cryoflow.projects.found import Job, JobStatus, Output, Project
from cryoflow.storage.files import is_file
from cryoflow.storage.safe_names import short_hash

_N_THREADS = 8
_OWN_FOLDER = re.compile(r"[JS]\d+|exports")
_SESSION = re.compile(r"S\d+")
_UNFINISHED = frozenset({"building", "queued", "launched", "started", "running", "waiting"})


def recognize(folder: Path, names: Collection[str]) -> Project | None:
    """Return the CryoSPARC project that a folder is.

    A project has `project.json` beside `workspaces.json`, `job_manifest.json`, `cs.lock` or job folders, or, where
    `project.json` was lost, at least one `J<number>/job.json`.

    Parameters
    ----------
    folder
        The folder.
    names
        Names of all that is in it.
    """
    has_json = "project.json" in names
    jobs = sorted((n for n in names if n[:1] == "J" and on_disk.JOB_NAME.fullmatch(n)), key=lambda n: (int(n[1:]), n))
    if has_json:
        if not (jobs or any(n in names for n in ("workspaces.json", "job_manifest.json", "cs.lock"))):
            return None
    elif not any(is_file(folder / job / "job.json") for job in jobs[:20]):
        return None
    notes: tuple[str, ...] = ()
    found: dict[str, object] = {}
    if has_json:
        try:
            found = read_json(folder / "project.json")
        except BadInput as error:
            notes = (f"project.json {error.reason}",)
    else:
        notes = ("project.json is missing; the folder was recognized by its jobs",)
    uid = found.get("uid")
    real = os.path.realpath(folder)
    return Project(
        program="cryosparc",
        path=folder,
        name=folder.name or real.strip("/").replace("/", "_") or "root",
        uid=short_hash(f"cryosparc:{uid if isinstance(uid, str) else ''}:{real}", 16),
        program_version=program_version(found),
        notes=notes,
    )


def is_own_folder(name: str) -> bool:
    """Return whether a folder of this name in a project is CryoSPARC's: a job, a Live session, or exports."""
    return _OWN_FOLDER.fullmatch(name) is not None


def find_jobs(project: Project) -> list[Job]:
    """Return every job of a project with its status, by number; read in parallel, in the same order always.

    Live sessions come last, and say where their particles are.
    """
    index = on_disk.ProjectIndex(project.path)
    names = index.job_names
    with ThreadPoolExecutor(_N_THREADS) as pool:
        jobs = list(pool.map(lambda name: _job(project, index, name), names))
    with os.scandir(project.path) as entries:
        sessions = [entry.name for entry in entries if _SESSION.fullmatch(entry.name) and entry.is_dir()]
    return jobs + [_session(project, name) for name in sorted(sessions, key=lambda name: (int(name[1:]), name))]


def _session(project: Project, name: str) -> Job:
    return Job(
        program="cryosparc",
        project=project.path,
        project_name=project.name,
        job=name,
        folder=project.path / name,
        kind=Kind.OTHER,
        job_type="live_session",
        status=JobStatus.NOT_OF_INTEREST,
        reason="a Live session: its particles are in the jobs that were exported from it",
    )


def outputs_of(
    index: on_disk.ProjectIndex, record: on_disk.Record
) -> list[tuple[Output, on_disk.OutputDatasets, Role]]:
    """Return the sets of picks that a job left behind: as others see them, as they lie on disk, and what they are.

    Particles of all classes together count only where the files of the single classes are gone, one set a class.
    """
    names = tuple(output.name for output in record.particles)
    roles = {name: role_of(name, names) for name in names}
    single = {o.name for o in record.particles if roles[o.name].class_number is not None and _located(index, record, o)}
    found = []
    for output in record.particles:
        role = roles[output.name]
        if role.is_all_classes:
            lost = [r for name, r in roles.items() if r.class_number is not None and name not in single]
            parts = [Role(r.suffix, r.class_number) for r in lost]
        else:
            parts = [role]
        files = _files(index, record, output)
        if files is None or output.is_damaged:
            continue
        n_picks = output.primary.header.n_rows if output.primary and not role.is_all_classes else None
        for part in parts:
            found.append((Output(output.name, part.suffix, files, n_picks, _n_micrographs(record)), output, part))
    return found


def _job(project: Project, index: on_disk.ProjectIndex, name: str) -> Job:
    record = index.record(name)
    found = outputs_of(index, record)
    status, reason = _status(record, found)
    if record.job_file.source not in ("job.json", "") and status is JobStatus.USABLE:
        lack = f"job.json {record.problem.reason}" if record.problem else "job.json names files that are not there"
        reason = f"{lack.rstrip('.')}; outputs were taken from {record.job_file.source}"
    problems = [problem for output in record.particles for problem in output.problems]
    if problems and status is JobStatus.USABLE:
        reason = "; ".join(filter(None, (reason, f"a part of it is damaged: {problems[0]}")))
    usable = status not in (JobStatus.NOT_OF_INTEREST, JobStatus.CLEARED, JobStatus.UNREADABLE)
    kept = [output for output, _, _ in found if output.n_picks != 0] if usable else []
    return Job(
        program="cryosparc",
        project=project.path,
        project_name=project.name,
        job=name,
        folder=record.folder,
        kind=record.kind,
        job_type=record.job_file.job_type,
        status=status,
        reason=reason,
        title=record.job_file.title,
        outputs=tuple(sorted(kept, key=lambda output: (output.suffix != "", _natural(output.suffix)))),
        detail={
            "program_version": record.job_file.version or project.program_version,
            "is_helical": record.kind is Kind.HELIX or any("filament" in o.slots for o in record.particles),
        },
    )


def _status(record: on_disk.Record, found: list[tuple[Output, on_disk.OutputDatasets, Role]]) -> tuple[JobStatus, str]:
    job_file = record.job_file
    if job_file.is_deleted:
        return JobStatus.CLEARED, "it was deleted in CryoSPARC"
    if not record.folder.is_dir() and not found:
        return JobStatus.CLEARED, "its folder is gone"
    if record.problem is not None and not record.outputs:
        try:
            names = os.listdir(record.folder)
        except OSError as error:
            return JobStatus.UNREADABLE, f"its folder cannot be read: {error.strerror or error}"
        if not names:
            return JobStatus.CLEARED, "its folder is empty: it was cleared or deleted"
        if "job.json" in names:
            return JobStatus.UNREADABLE, str(record.problem)
        return JobStatus.NOT_OF_INTEREST, "it has no job.json and no dataset of particles"
    if record.kind is Kind.OTHER and not record.particles and record.problem is None:
        return JobStatus.NOT_OF_INTEREST, f"{job_file.job_type or 'its type'} makes no picks"
    if job_file.status in _UNFINISHED:
        if job_file.source == "job.json" and (newer := _newer_group_file(record.folder)):
            return JobStatus.STALE, (
                f"job.json says {job_file.status}, but {newer} was written after it: it may have finished since; "
                "read it with --include-unfinished, or open it in CryoSPARC once so that job.json is written anew"
            )
        return JobStatus.UNFINISHED, f"CryoSPARC says {job_file.status}"
    if job_file.status in ("failed", "killed"):
        how = "failed" if job_file.status == "failed" else "was killed"
        return JobStatus.FAILED, f"it {how}"
    if found:
        if all(output.n_picks == 0 for output, _, _ in found):
            return JobStatus.EMPTY, "its outputs hold no particles"
        return JobStatus.USABLE, ""
    return _why_nothing(record)


def _why_nothing(record: on_disk.Record) -> tuple[JobStatus, str]:
    """Return why a finished job that should have particles has no picks."""
    problems = [problem for output in record.particles for problem in output.problems]
    if problems:
        return JobStatus.UNREADABLE, str(problems[0])
    if any(output.slots for output in record.particles):
        if all(output.primary is None or output.primary.header.n_rows == 0 for output in record.particles):
            return JobStatus.EMPTY, "its outputs hold no particles"
        return JobStatus.NOT_OF_INTEREST, "neither it nor its inputs say where its particles lie on micrographs"
    if any(output.lost for output in record.particles):
        if _has_datasets(record.folder):
            return JobStatus.STALE, "job.json names datasets that are not there, and those that are there do not fit it"
        return JobStatus.CLEARED, "job.json is there, but its datasets are gone: it was cleared"
    if not record.particles:
        return JobStatus.NOT_OF_INTEREST, "it has no output of particles"
    if all(output.n_items == 0 for output in record.particles):
        return JobStatus.EMPTY, "its outputs hold no particles"
    return JobStatus.CLEARED, "its outputs have no files: it was cleared, or never written"


def _located(index: on_disk.ProjectIndex, record: on_disk.Record, output: on_disk.OutputDatasets) -> bool:
    return not output.is_damaged and _files(index, record, output) is not None


def _files(
    index: on_disk.ProjectIndex, record: on_disk.Record, output: on_disk.OutputDatasets
) -> tuple[Path, ...] | None:
    """Return the datasets that decide an output's content, None where nobody says where its particles are."""
    if not output.slots:
        return None
    _, source = next(index.with_location(record, output), (None, None))
    if source is None:
        return None
    paths = [table.path for table in output.tables]
    if source is not output:
        paths.append(source.slots["location"].table.path)
    return tuple(dict.fromkeys(paths))


def _n_micrographs(record: on_disk.Record) -> int | None:
    """Return the number of micrographs of the job's own output, where it has one."""
    for output in record.outputs:
        if output.item_type == "exposure" and "incomplete" not in output.name and "reject" not in output.name:
            table = output.primary
            return table.header.n_rows if table else output.n_items
    return None


def _newer_group_file(folder: Path) -> str:
    """Return the name of a `.csg` file, which CryoSPARC writes when a job ends, that is younger than `job.json`."""
    try:
        written = (folder / "job.json").stat().st_mtime_ns
        return next((p.name for p in sorted(folder.glob("*.csg")) if p.stat().st_mtime_ns > written), "")
    except OSError:
        return ""


def _has_datasets(folder: Path) -> bool:
    try:
        return any(name.endswith(".cs") for name in os.listdir(folder))
    except OSError:
        return False


def _natural(suffix: str) -> tuple[str, int]:
    digits = suffix[len(suffix.rstrip("0123456789")) :]
    return suffix.rstrip("0123456789"), int(digits or -1)
