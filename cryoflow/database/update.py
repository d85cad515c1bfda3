"""Adding picks that cryoflow made itself: an entry that holds the same already is left as it is."""

from __future__ import annotations

import numpy as np

from cryoflow.database.entry import CURRENT, Entry
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.picks import PICK_COLUMNS, PickSet


def add_if_changed(database: Database, picks: PickSet) -> Entry:
    """The entry of these picks, written only where it is new, damaged or different."""
    who = picks.provenance
    there = next(
        (e for e in database.entries() if e.project_path == who.project and e.folder.name == who.entry_name), None
    )
    if there is not None and there.status == CURRENT:
        try:
            if _same(database.load(there), picks):
                return there
        except BadInput:
            pass  # damaged: written anew
    return database.add(picks)


def _same(old: PickSet, new: PickSet) -> bool:
    """Whether two sets hold the same picks on the same micrographs, as far as text can tell."""
    if len(old) != len(new) or list(old.picks.columns) != list(new.picks.columns):
        return False
    if list(old.micrographs["name"]) != list(new.micrographs["name"]) or old.notes != new.notes:
        return False
    facts = [(p.diameter_A, p.box_px, p.score_kind, p.provenance.title) for p in (old, new)]
    return facts[0] == facts[1] and all(_close(name, old, new) for name in new.picks.columns)


def _close(column: str, old: PickSet, new: PickSet) -> bool:
    """Equal to the decimals that the text has."""
    decimals = PICK_COLUMNS[column].decimals if column in PICK_COLUMNS else 3
    a, b = (p.picks[column].to_numpy(np.float64) for p in (old, new))
    return bool(np.allclose(a, b, rtol=0, atol=0.6 * 10.0**-decimals, equal_nan=True))
