"""A particle's diameter where its job has none: that of other jobs of its project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cryoflow.database.entry import CURRENT, Entry
from cryoflow.database.select import job_number
from cryoflow.database.store import Database
from cryoflow.picks import PickSet


def project_diameter_A(entries: Sequence[Entry], project: str) -> float | None:
    """Return the diameter recorded by the newest job of a project, None where no job has one."""
    known = [e for e in entries if e.project == project and e.status == CURRENT and e.diameter_A]
    return max(known, key=lambda e: (job_number(e.job), e.name)).diameter_A if known else None


def load_with_diameter(database: Database, name: str) -> PickSet:
    """Return the picks of an entry; a missing diameter is taken from its project, with a note."""
    picks = database.load(name)
    if picks.diameter_A is not None:
        return picks
    diameter = project_diameter_A(database.entries(), name.partition("/")[0])
    if diameter is None:
        return picks
    note = f"the diameter, {diameter:g} A, is what another job of the project says"
    return replace(picks, diameter_A=diameter, notes=(*picks.notes, note))
