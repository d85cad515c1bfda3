"""Entries that are named on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.cli.output import UsageError

if TYPE_CHECKING:
    from cryoflow.picks import PickSet


def load(entries: Sequence[str], database: Path | None, *, diameter_A: float | None = None) -> list[PickSet]:
    """Return the picks of entries. Those that do not know their diameter get the one given, or that of their project.

    Raises
    ------
    UsageError
        Where no database or no entry is named.
    """
    from cryoflow.database import Database
    from cryoflow.pickers.running.train_and_pick import load_entries

    if database is None:
        raise UsageError("say which --database the entries are of.")
    if not entries:
        raise UsageError("name one entry or more; `cryoflow database list` shows them.")
    if diameter_A is None:
        return load_entries(Database(database), entries)
    loaded = map(Database(database).load, dict.fromkeys(entries))
    return [picks if picks.diameter_A else replace(picks, diameter_A=diameter_A) for picks in loaded]


def add(picks: PickSet, database: Path) -> dict[str, str]:
    """Add picks to a database, except where it holds the same; returns the entry's name, and written or unchanged."""
    from cryoflow.database import Database
    from cryoflow.database.add_entry import same_entry

    target = Database(database)
    if there := same_entry(target, picks):
        return {"entry": there.name, "state": "unchanged"}
    return {"entry": target.add(picks).name, "state": "written"}
