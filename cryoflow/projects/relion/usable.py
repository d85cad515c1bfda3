"""Whether a file of a job can be used as picks: the one decision that crawl and ingest share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.projects.found import JobStatus
from cryoflow.projects.relion.coordinates import coordinate_files
from cryoflow.projects.relion.job_graph import Pipeline
from cryoflow.projects.relion.lineage import micrograph_stars, micrograph_tables, searched_micrographs
from cryoflow.projects.relion.micrographs import KnownMicrographs, read_micrograph_stars
from cryoflow.projects.relion.sniff import StarContent, sniff


@dataclass(frozen=True)
class RelionMicrographs:
    """Values that tables of the project have for a job's micrographs, and the names of those searched for picks."""

    known: KnownMicrographs = field(default_factory=KnownMicrographs)
    searched: tuple[str, ...] = ()
    elsewhere: KnownMicrographs = field(default_factory=KnownMicrographs)
    """What tables of other jobs say, of a job that goes back to none: imported coordinates."""

    @property
    def values(self) -> KnownMicrographs:
        """Return where to look for a micrograph's optics and defocus."""
        return self.known if self.known.names else self.elsewhere


@dataclass(frozen=True)
class Unusable:
    """Why a file of picks cannot be used: the status of a job that has no other, and the error of reading it."""

    status: JobStatus
    error: BadInput


def micrographs_of(pipeline: Pipeline, process: str) -> RelionMicrographs:
    """Return what tables of micrographs say of a job's micrographs; RELION 1 keeps them in the project's folder."""
    if not process:
        return RelionMicrographs(read_micrograph_stars(sorted(pipeline.project.glob("micrographs*.star"))))
    known = read_micrograph_stars([pipeline.project / node for node in micrograph_stars(pipeline, process)])
    searched: list[str] = []
    for node in searched_micrographs(pipeline, process):
        searched += read_micrograph_stars([pipeline.project / node]).names
    elsewhere = KnownMicrographs()
    if not known.names:
        elsewhere = read_micrograph_stars([pipeline.project / node for node in reversed(micrograph_tables(pipeline))])
    return RelionMicrographs(known, tuple(dict.fromkeys(searched)), elsewhere)


def why_unusable(
    pipeline: Pipeline, process: str, path: Path, micrographs: RelionMicrographs | None = None
) -> Unusable | None:
    """Return why a file of picks cannot be used; None where it can, as far as its beginning tells.

    Parameters
    ----------
    micrographs
        What is known of the job's micrographs; found out here where it is needed and not given.
    """
    try:
        content = sniff(path)
    except BadInput as error:
        return Unusable(JobStatus.UNREADABLE, error)
    if content.tomography:
        tomography = BadInput(
            path, f"is of tomography (it has _{content.tomography}).", "Picks in three dimensions are not read."
        )
        return Unusable(JobStatus.NOT_OF_INTEREST, tomography)
    if not (content.has_coordinates or content.is_coordinate_list):
        return Unusable(JobStatus.UNREADABLE, BadInput(path, "has no _rlnCoordinateX and _rlnCoordinateY."))
    if content.n_rows == 0:
        return Unusable(JobStatus.EMPTY, BadInput(path, "has no rows."))
    if content.is_coordinate_list or not _names_micrographs(content):
        about = micrographs or micrographs_of(pipeline, process)
        if content.is_coordinate_list:
            try:
                coordinate_files(pipeline.project, path, about.known, about.searched)
            except BadInput as error:
                return Unusable(JobStatus.CLEARED if "is there" in error.reason else JobStatus.UNREADABLE, error)
        elif len(about.known.names) != 1:
            return Unusable(
                JobStatus.UNREADABLE,
                MissingMetadata(
                    path, "has no _rlnMicrographName, so that nobody knows which micrograph a particle is on."
                ),
            )
    return None


def _names_micrographs(content: StarContent) -> bool:
    return "rlnMicrographName" in content.columns
