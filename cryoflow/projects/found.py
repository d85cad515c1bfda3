"""What a crawl finds: projects, their jobs, and whether a job's picks can be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from cryoflow.errors import CryoflowError
from cryoflow.picks import Kind, PickSet
from cryoflow.storage.safe_names import safe_name


class JobStatus(StrEnum):
    """Usability of a job's picks."""

    USABLE = "usable"
    UNFINISHED = "unfinished"
    FAILED = "failed"
    CLEARED = "cleared"
    EMPTY = "empty"
    STALE = "stale"
    UNREADABLE = "unreadable"
    NOT_OF_INTEREST = "not of interest"

    def is_readable(self, include_unfinished: bool = False) -> bool:
        """Return whether a job of this status is read: a usable one, and one that did not end well where that is asked
        for."""
        unfinished = (JobStatus.UNFINISHED, JobStatus.FAILED, JobStatus.STALE)
        return self is JobStatus.USABLE or (include_unfinished and self in unfinished)


@dataclass(frozen=True)
class Output:
    """One set of picks that a job left behind, not yet read.

    Attributes
    ----------
    group
        CryoSPARC's output group or RELION's file name.
    suffix
        Suffix of the entry's name, empty for the main output.
    files
        Every file that decides its content, absolute: what an incremental run compares by size and time.
    n_picks, n_micrographs
        From headers and job files where that is cheap, else None.
    small_files
        A hash of names, sizes and times of further files, where there is one a micrograph.
    class_number
        The class of RELION whose particles alone are read, where the files hold those of several.
    """

    group: str
    suffix: str = ""
    files: tuple[Path, ...] = ()
    n_picks: int | None = None
    n_micrographs: int | None = None
    small_files: str = ""
    class_number: int | None = None


@dataclass(frozen=True)
class Job:
    """One job of a project. `detail` holds values for its reader alone."""

    program: Literal["relion", "cryosparc"]
    project: Path
    project_name: str
    job: str
    folder: Path
    kind: Kind
    job_type: str
    status: JobStatus
    reason: str = ""
    alias: str = ""
    title: str = ""
    outputs: tuple[Output, ...] = ()
    detail: Mapping[str, object] = field(default_factory=dict, compare=False)


def damaged(job: Job, problems: Sequence[str]) -> Job:
    """Return a usable job of which some outputs proved damaged when they were read through; unreadable where all
    did."""
    if not problems or job.status is not JobStatus.USABLE:
        return job
    if len(problems) >= len(job.outputs):
        return replace(job, status=JobStatus.UNREADABLE, reason=problems[0])
    return replace(job, reason="; ".join(filter(None, (job.reason, f"a part of it is damaged: {problems[0]}"))))


def with_errors(picksets: list[PickSet], errors: Sequence[CryoflowError]) -> list[PickSet]:
    """Return the outputs of a job that could be read, with notes on those that could not.

    Raises
    ------
    CryoflowError
        Where none could be read.
    """
    if not errors:
        return picksets
    if not picksets:
        raise errors[0]
    notes = tuple(f"another output of the job could not be read: {error}" for error in errors)
    return [replace(picksets[0], notes=(*picksets[0].notes, *notes)), *picksets[1:]]


def standalone_job(file: Path) -> str:
    """Return the job's name of a lone table: that of the file, without `_`, which ends the job in an entry's name.

    >>> standalone_job(Path("/data/mic_0001_autopick.star"))
    'mic-0001-autopick'
    """
    return safe_name(file.stem).replace("_", "-")


@dataclass(frozen=True)
class Project:
    """A project found below a root: absolute path, display name, and an id that survives a crawl from another root."""

    program: Literal["relion", "cryosparc"]
    path: Path
    name: str
    uid: str
    """Hash of the program's own project uid (where there is one) and the real path; distinguishes equal names."""
    program_version: str = ""
    notes: tuple[str, ...] = ()
