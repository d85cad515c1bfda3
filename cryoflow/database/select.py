"""The job to train from, one a project: the furthest refined picks that are sound and current, the newest by number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryoflow.database.entry import CURRENT, Entry
from cryoflow.database.store import Database
from cryoflow.negative_names import is_negative_suffix
from cryoflow.picks import NEEDS_CONFIRMATION, UNCONFIRMED, Kind

PREFERENCE: tuple[tuple[Kind, ...], ...] = (
    (Kind.REFINE_3D, Kind.HOMO, Kind.NON_UNIFORM),
    (Kind.SELECT_3D, Kind.HETERO),
    (Kind.SELECT_2D,),
    (Kind.LOCAL, Kind.HELIX),
    (Kind.MANUAL_PICK,),
)
"""Kinds from the best to the last; those of a row are equals, of which the newest job wins.

RELION: Refine3D, Select3D, Select2D. CryoSPARC: Homo or NonUniform, Hetero, Select2D. Local and helical refinements may
sit on a part of the particle or along a filament, so that they come behind; picks by hand are few, and come last.
"""

_MIXED = re.compile(r"(unused|uncategori[sz]ed|remainder|all)(_|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Selection:
    """The entry of a project to train from, None where there is none; why it; and what would have been better, but."""

    project: str
    entry: Entry | None
    reason: str
    passed_over: tuple[str, ...]


def select_best(database: Database) -> list[Selection]:
    """Return the entry to train from of each project, in order of project."""
    by_project: dict[str, list[Entry]] = {}
    for entry in database.entries():
        by_project.setdefault(entry.project, []).append(entry)
    return [best_of(project, entries) for project, entries in sorted(by_project.items())]


def best_of(project: str, entries: Sequence[Entry]) -> Selection:
    """Return the entry to train from among those of one project."""
    unfit: list[tuple[int, int, str]] = []
    sound: list[tuple[int, Entry]] = []
    unknown: list[str] = []
    for entry in entries:
        rank = next((i for i, kinds in enumerate(PREFERENCE) if entry.kind in kinds), None)
        if entry.kind is Kind.OTHER and not is_junk(entry.suffix):
            unknown.append(f"{entry.name}: its job type, {entry.job_type or 'unknown'}, is not known")
        if rank is None or is_junk(entry.suffix):
            continue
        if why := _unfit(entry):
            unfit.append((rank, -job_number(entry.job), f"{entry.name}: {why}"))
        else:
            sound.append((rank, entry))
    unfit.sort()
    if not sound:
        kinds = ", ".join(sorted({e.kind.value for e in entries}))
        reason = f"no sound entry of a kind to train from; there are: {kinds}"
        return Selection(project, None, reason, tuple([text for *_, text in unfit] + unknown))
    best_rank = min(rank for rank, _ in sound)
    rivals = [entry for rank, entry in sound if rank == best_rank]
    newest = max(job_number(entry.job) for entry in rivals)
    outputs = [entry for entry in rivals if job_number(entry.job) == newest]
    best = max(outputs, key=lambda e: (e.suffix == "", e.n_picks, [-ord(c) for c in e.name]))
    reason = f"{best.kind.value} {best.job}"
    if len({e.job for e in rivals}) > 1:
        reason += f", the newest of {len({e.job for e in rivals})} jobs as good"
    if best.suffix and len(outputs) > 1:
        reason += f", {best.suffix} with {best.n_picks} picks: the largest of its {len(outputs)} outputs"
    better = [text for rank, minus_number, text in unfit if (rank, minus_number) <= (best_rank, -newest)]
    return Selection(project, best, reason, tuple(better + unknown))


def job_number(job: str) -> int:
    """Return the number of a job: `J51` is 51, `job1000` is 1000; -1 where it has none."""
    found = re.search(r"(\d+)$", job)
    return int(found[1]) if found else -1


def is_junk(suffix: str) -> bool:
    """Return whether a suffix marks picks that are not (all) particles: `excluded`, `unused`, `all_classes`."""
    return is_negative_suffix(suffix) or bool(_MIXED.match(suffix))


def is_unconfirmed(entry: Entry) -> bool:
    """Return whether picks lie on another program's micrographs without a confirming orientation check."""
    return entry.orientation.verdict != "confirmed" and any(NEEDS_CONFIRMATION in note for note in entry.notes)


def _unfit(entry: Entry) -> str:
    if entry.status != CURRENT:
        return f"{entry.status}: {entry.reason}"
    if entry.n_picks == 0:
        return "no picks"
    if entry.job_status not in ("", "usable"):
        return f"its job is {entry.job_status}"
    if entry.orientation.verdict == "contradicted":
        return f"its picks fit the pixels better after {entry.orientation.best}"
    if is_unconfirmed(entry):
        return UNCONFIRMED
    return ""
