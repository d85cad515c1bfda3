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

    Names may be patterns: see `Database.matching`.

    Raises
    ------
    UsageError
        Where no database or no entry is named.
    """
    return [load_one(name, database, diameter_A=diameter_A) for name in entry_names(entries, database)]


def entry_names(entries: Sequence[str], database: Path | None) -> tuple[str, ...]:
    """Return the names of entries, patterns replaced; raises as `load`."""
    from cryoflow.database import Database

    if database is None:
        raise UsageError("say which --database the entries are of.")
    if not entries:
        raise UsageError("name one entry or more; `cryoflow database list` shows them.")
    return Database(database).matching(entries)


def load_one(name: str, database: Path | None, *, diameter_A: float | None = None) -> PickSet:
    """Return the picks of the one entry of a name; no pattern. For the rest see `load`."""
    from cryoflow.database import Database
    from cryoflow.database.project_diameter import load_with_diameter

    if database is None:
        raise UsageError("say which --database the entries are of.")
    if diameter_A is None:
        return load_with_diameter(Database(database), name)
    picks = Database(database).load(name)
    return picks if picks.diameter_A else replace(picks, diameter_A=diameter_A)


def add(picks: PickSet, database: Path) -> dict[str, str]:
    """Add picks to a database, except where it holds the same.

    Returns the entry's name, and its state: written, replaced (other picks of the same name) or unchanged.
    """
    from cryoflow.database import Database
    from cryoflow.database.add_entry import add_with_outcome

    entry, state = add_with_outcome(Database(database), picks)
    return {"entry": entry.name, "state": state}
