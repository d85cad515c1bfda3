"""Tables of picks: one module a format, each with one declaration named `FORMAT`.

A new format is a new module in this package. Recognition goes by content, since suffixes are used for anything.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import note_on_end
from cryoflow.formats.pick_tables.unknown import unknown_content

__all__ = ["FilePicks", "Head", "PickFormat", "format_of", "formats", "read_file", "suffixes"]


@lru_cache(maxsize=1)
def formats() -> tuple[PickFormat, ...]:
    """Return all formats, in the order in which they are tried."""
    modules = [import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__)]
    declared = [module.FORMAT for module in modules if hasattr(module, "FORMAT")]
    return tuple(sorted(declared, key=lambda form: (-form.priority, form.name)))


@lru_cache(maxsize=1)
def suffixes() -> tuple[str, ...]:
    """Return suffixes of files in a folder that may be tables of picks."""
    return tuple(sorted({suffix for form in formats() for suffix in form.suffixes}))


def format_of(path: Path) -> PickFormat | None:
    """Return the format of a file; None where it is blank, which is a micrograph without picks.

    Raises
    ------
    BadInput
        Where the file cannot be read, or its content is of no known format.
    """
    head = Head.of(path)
    if head.is_blank and path.suffix.lower() not in (".star", ".json", ".cs", ".csg"):
        return None
    found = next((form for form in formats() if form.sniff(head)), None)
    if found is None:
        raise unknown_content(head)
    return found


def read_file(path: Path) -> FilePicks:
    """Read the picks of one file.

    A file of no bytes has no picks, unless its suffix is that of a format which is never empty (`.star`).

    Raises
    ------
    BadInput
        Where the content is of no known format, is damaged, or describes no centers of particles (ends of helices,
        tomograms).
    """
    form = format_of(path)
    if form is None:
        return FilePicks("empty", np.zeros(0), np.zeros(0))
    picks = _without_nameless(form.read(path))
    note = note_on_end(path) if form.is_lines else ""
    return replace(picks, notes=(*picks.notes, note)) if note else picks


def _without_nameless(picks: FilePicks) -> FilePicks:
    """Return the picks without rows that name no micrograph where others do: a CSV row that was cut short has empty
    values."""
    if picks.micrographs is None or (keep := picks.micrographs != "").all():
        return picks
    arrays = ("x_px", "y_px", "score", "psi_deg", "class_number", "uid", "micrographs")
    kept = {name: values[keep] for name in arrays if (values := getattr(picks, name)) is not None}
    counts = {**picks.counts, "no_micrograph": int((~keep).sum())}
    return replace(picks, **kept, counts=counts)
