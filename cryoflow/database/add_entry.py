"""Adding picks that cryoflow made itself: an entry that holds the same already is left as it is."""

from __future__ import annotations

from typing import Literal

import numpy as np

from cryoflow.database import layout
from cryoflow.database.entry import CURRENT, Entry, read_entry
from cryoflow.database.entry_lookup import read_consistent
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.picks import PICK_COLUMNS, PickSet, Provenance

Added = Literal["written", "replaced", "unchanged"]


def add_if_changed(database: Database, picks: PickSet) -> Entry:
    """Return the entry of these picks, written only where it is new, damaged or different."""
    return add_with_outcome(database, picks)[0]


def add_with_outcome(database: Database, picks: PickSet) -> tuple[Entry, Added]:
    """Do as `add_if_changed`, and return what was done, too: `replaced` where the entry held other picks."""
    there = entry_of(database, picks.provenance)
    if there is not None and _holds(database, there, picks):
        database.finalize()  # a kill may have left nothing else to do
        return there, "unchanged"
    return database.add(picks), "written" if there is None else "replaced"


def _holds(database: Database, there: Entry, picks: PickSet) -> bool:
    try:
        return there.status == CURRENT and _same(database.load(there), picks)
    except BadInput:
        return False


def entry_of(database: Database, who: Provenance) -> Entry | None:
    """Return the entry that picks of a provenance would replace, of whatever status; None where there is none."""
    folders = (f for f in layout.entry_folders(database.root) if layout.entry_name(f) == who.entry_name)
    entries = (read_consistent(read_entry, f) for f in folders)
    return next((e for e in entries if e.project_path == who.project), None)


def supersede(database: Database, who: Provenance, reason: str) -> Entry | None:
    """Mark the current entry of a provenance as superseded and return it; None where there is none."""
    there = entry_of(database, who)
    if there is None or there.status != CURRENT:
        return None
    database.mark(there.name, "superseded", reason)
    return there


def _same(old: PickSet, new: PickSet) -> bool:
    """Return whether two sets hold the same picks on the same micrographs, as far as text can tell."""
    if len(old) != len(new) or set(old.picks.columns) != set(new.picks.columns):
        return False
    if _micrographs(old) != _micrographs(new) or old.notes != new.notes or dict(old.counts) != dict(new.counts):
        return False
    facts = [(p.diameter_A, p.box_px, p.score_kind, p.provenance.title) for p in (old, new)]
    return facts[0] == facts[1] and all(_close(name, old, new) for name in new.picks.columns)


def _micrographs(picks: PickSet) -> list[tuple[str, str]]:
    """Name and file of each micrograph; one that was moved since makes another entry."""
    table = picks.micrographs
    return [(name, "" if path is None else str(path)) for name, path in zip(table["name"], table["path"], strict=True)]


def _close(column: str, old: PickSet, new: PickSet) -> bool:
    """Return whether two columns are equal to the decimals that the text has."""
    decimals = PICK_COLUMNS[column].decimals if column in PICK_COLUMNS else 3
    a, b = (p.picks[column].to_numpy(np.float64) for p in (old, new))
    return bool(np.allclose(a, b, rtol=0, atol=0.6 * 10.0**-decimals, equal_nan=True))
