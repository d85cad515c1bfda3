"""Where labels come from in a database: for each project, picks that survived, and all the picks they survived from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryoflow.database.entry import CURRENT, Entry
from cryoflow.database.select import best_of, is_junk, is_unconfirmed, job_number
from cryoflow.picks import CANDIDATE_KINDS, Kind


@dataclass(frozen=True)
class LabelSource:
    """Entries of one project that label each other: `label_from_database(positives, candidates, excluded)`."""

    project: str
    positives: Entry
    candidates: Entry
    excluded: Entry | None


def label_sources(entries: Sequence[Entry], projects: Sequence[str] = ()) -> tuple[list[LabelSource], list[str]]:
    """Return the sources of each project, and why the other projects have none.

    Positives are the project's best job (`database.select`), candidates its newest autopick job (else inspected picks,
    else an extraction), excluded the particles that its newest Select 2D rejected.

    Parameters
    ----------
    projects
        Names of projects in the database; none takes all.
    """
    found: list[LabelSource] = []
    without: list[str] = []
    for project in sorted({e.project for e in entries} if not projects else set(projects)):
        mine = [e for e in entries if e.project == project and e.status == CURRENT and e.n_picks]
        mine = [e for e in mine if not is_unconfirmed(e)]
        positives = best_of(project, mine).entry
        candidates = next((e for kind in CANDIDATE_KINDS if (e := _newest(mine, kind)) is not None), None)
        if positives is None or candidates is None:
            lack = "a refinement, a selection or manual picks" if positives is None else "an autopick job"
            without.append(f"{project}: there is no entry of {lack}, so that its picks cannot be labeled")
            continue
        rejected = [e for e in mine if e.kind == Kind.SELECT_2D and is_junk(e.suffix)]
        excluded = max(rejected, key=lambda e: job_number(e.job), default=None)
        found.append(LabelSource(project, positives, candidates, excluded))
    return found, without


def _newest(entries: Sequence[Entry], kind: Kind) -> Entry | None:
    """Return the main output of the newest job of a kind."""
    of_kind = [e for e in entries if e.kind == kind and not is_junk(e.suffix) and e.suffix != "labelled"]
    return max(of_kind, key=lambda e: (job_number(e.job), e.suffix == "", e.n_picks), default=None)
