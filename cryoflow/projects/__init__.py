"""Finished projects: which jobs they hold, and the picks of a job. One package a program; this dispatches to them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from cryoflow.picks import PickSet
    from cryoflow.projects.found import Job, Project


class Reader(Protocol):
    """Interface of a program's package of readers."""

    def recognize(self, folder: Path, names: Collection[str]) -> Project | None:
        """Return the project that `folder`, which holds `names`, is; None where it is none."""
        ...

    def is_own_folder(self, name: str) -> bool:
        """Return whether a folder of this name in a project holds what the program itself wrote, and so no other
        project."""
        ...

    def find_jobs(self, project: Project) -> list[Job]:
        """Return every job of a project, those that are of no use included."""
        ...

    def with_counts(self, job: Job) -> Job:
        """Return a job whose outputs say how many picks and micrographs they have."""
        ...

    def read_job(self, job: Job, **options: object) -> list[PickSet]:
        """Return the picks of a job, one set an output."""
        ...


PROGRAMS = ("cryosparc", "relion")


def reader(program: str) -> Reader:
    """Return the package that reads the projects of a program."""
    return cast(Reader, import_module(f"cryoflow.projects.{program}"))


def find_jobs(project: Project) -> list[Job]:
    """Return every job of a project with its status, sorted by number; jobs that are of no use say why.

    Raises
    ------
    BadInput
        Where the project itself cannot be listed. A job that cannot be read is a `Job` of status `unreadable`.
    """
    return reader(project.program).find_jobs(project)


def with_counts(job: Job) -> Job:
    """Return a job whose outputs say how many picks and micrographs they have, as far as its tables are not too large.

    Tables are read through where their heads do not say it. Nothing is raised for what is wrong with them.
    """
    return reader(job.program).with_counts(job)


def read_job(job: Job, **options: object) -> list[PickSet]:
    """Return the picks of a job, one `PickSet` an output.

    Parameters
    ----------
    job
        From `find_jobs`.
    options
        `remaps` (old folder -> new folder), `include_unfinished`, `classes`, `flip` and what else the program's reader
        knows.

    Raises
    ------
    CryoflowError
        Where the job cannot be used: the reason says why.
    """
    return reader(job.program).read_job(job, **options)
