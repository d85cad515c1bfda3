"""Find the folder of an entry by its name, and read it while other processes replace entries."""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from cryoflow.database import layout
from cryoflow.database.entry import check_formats
from cryoflow.errors import BadInput
from cryoflow.storage import inputs
from cryoflow.storage.safe_names import inside

T = TypeVar("T")

_SPECIAL = frozenset("*?[")  # no name of a project or an entry has one of these: see `safe_name`


def find_entry(root: Path, name: str) -> Path:
    """Return the folder of an entry of a name, `<project>/<Kind>_<job>`.

    Raises
    ------
    BadInput
        If there is none; the message names similar ones.
    """
    project, _, entry = name.strip("/").partition("/")
    if project and entry and "/" not in entry and not {project[0], entry[0]} & {"."}:
        folder = inside(root, f"{project}/{layout.ENTRIES}/{entry}")
        if place := layout.place_of(folder):  # a killed writer may have left it aside
            return place
    if not (root / layout.MARKER).exists() and next(layout.entry_folders(root), None) is None:
        raise BadInput(root, "there is no database here.", "Make one with 'cryoflow ingest ROOT --database DB'.")
    names = entry_names(root)
    near = difflib.get_close_matches(name, names, 3, 0.5) or names[:3]
    raise BadInput(root, f"there is no entry {name!r}.", f"There are: {', '.join(near)}, ..." if near else "")


def entry_names(root: Path) -> list[str]:
    """Return the names of all entries, in the order of the database; no entry is read."""
    return [f"{f.parent.parent.name}/{layout.entry_name(f)}" for f in layout.entry_folders(root)]


def matching(where: Path | str, wanted: Iterable[str], names: Callable[[], Sequence[str]]) -> tuple[str, ...]:
    """Return the names wanted, with shell-style patterns replaced by the names that they match; each name once.

    Parameters
    ----------
    where
        What an error names as the place of the names.
    names
        Called once a pattern occurs; returns all names, in the order in which a pattern's names are returned.

    Raises
    ------
    BadInput
        If a pattern matches nothing.
    """
    found: list[str] = []
    for name in wanted:
        if not _SPECIAL & set(name):
            found.append(name.strip("/"))
            continue
        there = names()
        matched = [n for n in there if fnmatchcase(n, name)]
        if not matched:
            some = ", ".join(there[:3])
            raise BadInput(where, f"nothing matches {name!r}.", f"There are: {some}, ..." if some else "It is empty.")
        found += matched
    return tuple(dict.fromkeys(found))


def read_consistent(read: Callable[[Path], T], folder: Path) -> T:
    """Read an entry's folder, again where another process replaced the entry meanwhile."""
    whole = folder.with_name(layout.entry_name(folder))
    for attempt in range(10):
        try:
            return read(layout.place_of(whole) or whole)
        except OSError as error:
            where = error.filename or folder
            if not inputs.is_gone(error):
                raise BadInput(where, f"cannot be read: {error.strerror or error}.") from error
            if attempt == 9:
                raise BadInput(where, "this file of the database is not there.") from None
            time.sleep(0.02 * (attempt + 1))
    raise AssertionError("unreachable")


def refuse_newer_entry(folder: Path) -> None:
    """Raise `NewerFormat` if a newer cryoflow wrote an entry: it must not be replaced or marked by this one."""
    if (place := layout.place_of(folder)) is not None:
        check_formats(place)
