"""Read picks from anything that holds some, and clean them: the functions behind `import cryoflow as cf`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput

if TYPE_CHECKING:
    from cryoflow.picks import PickSet
    from cryoflow.projects.found import Job, Project
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick import UnpickReport


def read(path: str | Path, micrographs: str | Path | None = None) -> PickSet:
    """Return the picks that a path holds: one set.

    Parameters
    ----------
    path
        A database entry's folder, a job's folder, a project's folder, a table of picks (.star, .cs, .csg, .box, .cbox,
        .txt, .csv, ...) or a folder of such tables, one a micrograph. Of a job with several outputs its main one is
        read. Of a project the job is read that `cryoflow database select` would train from; `notes` names it.
    micrographs
        Folder of the micrographs that a table names, where that is another than the table's.

    Raises
    ------
    BadInput
        Where the path does not exist or holds no picks that can be read.
    MissingMetadata
        Where the table lacks what positions in pixels need.
    """
    place = _existing(path)
    if _is_entry(place):
        from cryoflow.database.entry import load_entry

        return load_entry(place)
    if job := _job_at(place):
        return _main_output(_sets_of(job), place)
    if project := _project_at(place):
        return _best_of(project)
    from cryoflow.projects.tables import read_table_of_picks

    return read_table_of_picks(place, micrographs)


def read_all(path: str | Path) -> dict[str, PickSet]:
    """Return every set of picks below a project's, a job's or a database's folder, by name.

    Names are those of database entries, such as `NonUniform_J60` or `Hetero_J50_class1`, with the project's name before
    them where the path is a database. Jobs without picks that can be used are left out.

    Raises
    ------
    BadInput
        Where the path holds no project, job or database.
    """
    from cryoflow.projects import find_jobs
    from cryoflow.projects.found import JobStatus

    place = _existing(path)
    if job := _job_at(place):
        return {s.provenance.entry_name: s for s in _sets_of(job)}
    if project := _project_at(place):
        jobs = [j for j in find_jobs(project) if j.status is JobStatus.USABLE]
        return {s.provenance.entry_name: s for job in jobs for s in _sets_of(job)}
    from cryoflow.database import Database

    database = Database(place)
    if not database.exists:
        raise BadInput(place, "holds no project, job or database.", "cryoflow.read reads one table of picks.")
    return {entry.name: database.load(entry) for entry in database.entries()}


class Unpicker:
    """A trained network that scores picks and removes those that are not particles.

    >>> Unpicker.load("models/unpicker").clean(picks)      # doctest: +SKIP
    """

    def __init__(self, model: ModelBundle, folder: Path) -> None:
        self.model = model
        self.folder = folder

    @classmethod
    def load(cls, folder: str | Path) -> Unpicker:
        """Load a model that `cryoflow unpicker train` wrote: its folder, or `NAME` or `NAME@v0007` of the registry.

        Raises
        ------
        BadInput
            Where the folder holds no complete model, or one of a newer version.
        """
        from cryoflow.models.find_model import find_model
        from cryoflow.unpicker.bundle import ModelBundle

        place = find_model(folder)
        return cls(ModelBundle.load(place), place)

    def __repr__(self) -> str:
        return f"<Unpicker {self.folder}: diameter {self.model.diameter_A:g} A, threshold {self.model.threshold:.3f}>"

    @property
    def threshold(self) -> float:
        """Return the least probability of a pick that `clean` keeps."""
        return self.model.threshold

    def score(self, picks: PickSet) -> npt.NDArray[np.float64]:
        """Return the probability of each pick to be a particle, (n,) float.

        NaN where the micrograph cannot be read.
        """
        from cryoflow.unpicker.unpick import scores_of

        _, report = self._run(picks, 0.0)
        return scores_of(picks, report.scored)

    def clean(self, picks: PickSet, threshold: float | None = None) -> PickSet:
        """Return the picks whose probability is at least the threshold, with the probability as `score`.

        Parameters
        ----------
        threshold
            0 to 1; None takes the model's.
        """
        kept, _ = self._run(picks, threshold)
        return kept

    def _run(self, picks: PickSet, threshold: float | None) -> tuple[PickSet, UnpickReport]:
        from cryoflow.system.tensorflow_import import load_tensorflow

        load_tensorflow()
        from cryoflow.preparation.calibration import Goal
        from cryoflow.unpicker.unpick import unpick

        return unpick(self.model, picks, goal=Goal(threshold=threshold))


def _existing(path: str | Path) -> Path:
    place = Path(os.path.abspath(path))  # noqa: PTH100  # links stay as they are named
    if not place.exists():
        raise BadInput(place, "does not exist.", "Name a file of picks, a job, a project or a database entry.")
    return place


def _is_entry(place: Path) -> bool:
    return place.is_dir() and (place / "info.txt").is_file() and (place / "data.txt").is_file()


def _project_at(place: Path) -> Project | None:
    from cryoflow.projects import PROGRAMS, reader

    if not place.is_dir():
        return None
    names = os.listdir(place)
    return next((found for program in PROGRAMS if (found := reader(program).recognize(place, names))), None)


def _job_at(place: Path) -> Job | None:
    """Return the job whose folder this is, None where the folder is none: its project is one or two levels above."""
    from cryoflow.projects import find_jobs

    if not place.is_dir() or _project_at(place):
        return None
    for above in (place.parent, place.parent.parent):
        if project := _project_at(above):
            real = os.path.realpath(place)
            return next((j for j in find_jobs(project) if os.path.realpath(j.folder) == real), None)
    return None


def _sets_of(job: Job) -> list[PickSet]:
    from cryoflow.projects import read_job

    return read_job(job)


def _main_output(sets: list[PickSet], place: Path) -> PickSet:
    """Return the output without a suffix, else the largest one that is no set of rejected particles."""
    from cryoflow.database.select import is_junk

    if not sets:
        raise BadInput(place, "holds no picks.")
    return max(sets, key=lambda s: (not s.provenance.suffix, not is_junk(s.provenance.suffix), len(s)))


def _best_of(project: Project) -> PickSet:
    """Read the job of a project to train from: the first in order of preference that can be read."""
    from cryoflow.database.select import PREFERENCE, job_number
    from cryoflow.projects import find_jobs
    from cryoflow.projects.found import JobStatus

    rank = {kind: i for i, kinds in enumerate(PREFERENCE) for kind in kinds}
    jobs = [j for j in find_jobs(project) if j.status is JobStatus.USABLE]
    jobs.sort(key=lambda j: (rank.get(j.kind, len(PREFERENCE)), -job_number(j.job)))
    problems: list[str] = []
    for job in jobs:
        try:
            picks = _main_output(_sets_of(job), job.folder)
        except BadInput as error:
            problems.append(str(error))
            continue
        note = f"read from {picks.provenance.entry_name}, the best of {len(jobs)} jobs; read_all reads every one"
        return replace(picks, notes=(*picks.notes, note, *problems))
    raise BadInput(project.path, "has no job with picks that can be read.", *problems[:1])
