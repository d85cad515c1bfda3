"""Where projects are: a walk over folders that never enters what cannot hold one, the job folders of projects first."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cryoflow.errors import BadInput, defect
from cryoflow.projects import PROGRAMS, find_jobs, reader, with_counts
from cryoflow.projects.found import Job, JobStatus, Project, damaged
from cryoflow.system.memory import shortage

log = logging.getLogger(__name__)

_NOT_ENTERED = frozenset({"Trash", "snapshots", "lost+found", "gridfs_data", "motioncorrected", "__pycache__"})
N_READING = 8
"""Projects whose jobs are listed at the same time."""
_N_COUNTING = 2
_CRYOSPARC_JOB = re.compile(r"J\d+")
_IMAGES = (".mrc", ".mrcs", ".tif", ".tiff", ".eer", ".jpg", ".png")
_MARKERS = ("project.json", "job_manifest.json", "default_pipeline.star", ".gui_projectdir")
"""Files of which a project has one. Only links are asked for them, so that the folder behind a link to a large disk of
movies is not listed; plain folders are recognized by their whole listing."""


@dataclass(frozen=True)
class CrawlResult:
    """Projects sorted by path, and folders that could not be looked into, with the reason."""

    projects: list[Project]
    unreadable: list[BadInput]


@dataclass(frozen=True)
class JobsResult:
    """Jobs in order of project and number, and projects that could not be listed, with the reason."""

    jobs: list[Job]
    unreadable: list[BadInput]


def crawl(
    roots: Iterable[str | Path] | str | Path, *, on_project: Callable[[Project], None] | None = None
) -> CrawlResult:
    """Find every project below some folders.

    A root may be above projects, a project, or a folder inside one. A project's own folders are not entered, nor are
    hidden folders (`.Nodes`, `.snapshot`), `Trash`, `snapshots` and CryoSPARC's job folders `J*`; other folders in a
    project are, for one stray `default_pipeline.star` must not hide all projects below it. Links to folders are not
    followed, but a link to a project counts as that project. A project that is reached in two ways is listed once, by
    the path that sorts first.

    Parameters
    ----------
    roots
        Folders to search.
    on_project
        Called with each project as it is found, for a progress display.

    Raises
    ------
    BadInput
        Where a root does not exist or is no folder. Folders below it that cannot be read are collected instead.
    """
    roots = [roots] if isinstance(roots, str | Path) else list(roots)
    found: dict[tuple[str, int, int], Project] = {}
    unreadable: dict[Path, BadInput] = {}
    for root in sorted({Path(os.path.abspath(root)) for root in roots}):  # noqa: PTH100 (links stay as they are named)
        _check_root(root)
        n_before = len(found)
        inside_any = False
        for project in _below(root, unreadable):
            inside_any = True
            _add(found, project, on_project)
        if not inside_any and len(found) == n_before:
            for project in _around(root):
                _add(found, project, on_project)
    projects = sorted(found.values(), key=lambda project: (str(project.path), project.program))
    return CrawlResult(projects, [unreadable[path] for path in sorted(unreadable)])


def jobs_of(
    projects: Iterable[Project],
    *,
    count: bool = False,
    on_job: Callable[[Job], None] | None = None,
) -> JobsResult:
    """Return the jobs of several projects, read in parallel; the order does not depend on which is read first.

    Parameters
    ----------
    count
        Read tables of jobs with picks through, where nothing else says how many picks and micrographs they have.
    on_job
        Called with each job of which the picks were counted, for a progress display.
    """
    jobs: list[Job] = []
    unreadable: list[BadInput] = []
    with ThreadPoolExecutor(N_READING) as pool:
        for result in pool.map(_jobs_or_error, projects):
            if isinstance(result, BadInput):
                unreadable.append(result)
            else:
                jobs.extend(result)
    if count:
        with ThreadPoolExecutor(_N_COUNTING) as pool:  # few at a time: each may hold a large table
            jobs = [_reported(job, on_job) for job in pool.map(_counted, jobs)]
    return JobsResult(jobs, unreadable)


def _counted(job: Job) -> Job:
    if job.status is JobStatus.NOT_OF_INTEREST:
        return job
    try:
        return with_counts(job)
    except Exception as error:
        return damaged(job, [str(_defect(job.folder, error))] * len(job.outputs))


def _reported(job: Job, on_job: Callable[[Job], None] | None) -> Job:
    if on_job and job.outputs:
        on_job(job)
    return job


def _jobs_or_error(project: Project) -> list[Job] | BadInput:
    try:
        return find_jobs(project)
    except BadInput as error:
        return error
    except OSError as error:
        return _cannot_list(project.path, error)
    except Exception as error:
        return _defect(project.path, error)


def _defect(folder: Path, error: Exception) -> BadInput:
    """Return what to report of a defect that concerns one project.

    Raises
    ------
    Exception
        Where memory is short, which the other projects would meet too.
    """
    if shortage(error):
        raise error
    log.debug("listing %s", folder, exc_info=error)
    return defect(folder, error)


def _check_root(root: Path) -> None:
    if not root.exists():
        raise BadInput(root, "does not exist.", "Name the folder that holds your projects, or one project.")
    if not root.is_dir():
        raise BadInput(root, "is a file, not a folder.", "Name the folder that holds your projects, or one project.")


def _add(
    found: dict[tuple[str, int, int], Project], project: Project, on_project: Callable[[Project], None] | None
) -> None:
    status = os.stat(project.path)
    key = (project.program, status.st_dev, status.st_ino)
    if key not in found:
        found[key] = project
        if on_project:
            on_project(project)
    elif str(project.path) < str(found[key].path):
        found[key] = project


def _below(root: Path, unreadable: dict[Path, BadInput]) -> Iterator[Project]:
    """Yield projects at and below `root`."""
    to_visit: list[tuple[str, tuple[Project, ...]]] = [(str(root), ())]
    while to_visit:
        folder, around = to_visit.pop()
        try:
            names, folders, links = _listing(folder)
            projects = _recognized(folder, names)
        except OSError as error:
            unreadable[Path(folder)] = _cannot_list(folder, error)
            continue
        yield from projects
        around = (*around, *projects)
        programs = {project.program for project in around}
        for link in links:
            if not _leads_into(link, around):
                yield from _behind_link(link, unreadable)
        to_visit.extend((path, around) for path in reversed(folders) if not _is_own_folder(path, programs))


def _is_own_folder(path: str, programs: Collection[str]) -> bool:
    name = os.path.basename(path)  # noqa: PTH119 (a million times)
    return any(reader(program).is_own_folder(name) for program in programs)


def _leads_into(link: str, projects: Collection[Project]) -> bool:
    """Return whether a link leads to a folder of one of these projects, as RELION's aliases of jobs do."""
    if not projects:
        return False
    target = os.path.realpath(link)
    return any(target.startswith(os.path.realpath(project.path) + os.sep) for project in projects)


def _listing(folder: str) -> tuple[set[str], list[str], list[str]]:
    """Return all names in a folder; the paths of the folders to enter, sorted; and the paths of links to folders,
    sorted."""
    names: set[str] = set()
    folders: list[str] = []
    links: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            names.add(name)
            if entry.is_dir(follow_symlinks=False):
                if not (name.startswith(".") or name in _NOT_ENTERED or _CRYOSPARC_JOB.fullmatch(name)):
                    folders.append(entry.path)
            elif entry.is_symlink() and not name.startswith(".") and not name.endswith(_IMAGES):
                links.append(entry.path)
    return names, sorted(folders), sorted(links)


def _behind_link(link: str, unreadable: dict[Path, BadInput]) -> list[Project]:
    """Return the projects that a link leads to, usually none: most links are micrographs."""
    try:
        if not any(Path(link, marker).exists() for marker in _MARKERS):
            return []
        return _recognized(link, set(os.listdir(link)))
    except OSError as error:
        unreadable[Path(link)] = _cannot_list(link, error)
        return []


def _around(root: Path) -> list[Project]:
    """Return the projects of the nearest folder above `root` that is one."""
    for folder in root.parents:
        try:
            if projects := _recognized(str(folder), set(os.listdir(folder))):
                return projects
        except OSError:
            continue  # a folder above the root that we may not list is no fault of what was asked for
    return []


def _recognized(folder: str, names: set[str]) -> list[Project]:
    projects = (reader(program).recognize(Path(folder), names) for program in PROGRAMS)
    return [project for project in projects if project is not None]


def _cannot_list(folder: str | Path, error: OSError) -> BadInput:
    return BadInput(
        folder,
        f"cannot be read: {error.strerror or error}.",
        "Ask its owner for read access to it, or leave it out." if isinstance(error, PermissionError) else "",
    )
