"""What `verify` finds, and how each finding is repaired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cryoflow.database.store import Database

Severity = Literal["damage", "leftover", "notice"]


@dataclass(frozen=True)
class Finding:
    """One thing that verify found.

    `damage` is a file that is not what was written; `leftover` is what a killed writer left, which the next writer
    removes; `notice` is worth knowing and no fault of the database (a micrograph that is gone).
    """

    severity: Severity
    path: Path
    what: str
    repaired: str = ""
    """What repair did, empty where nothing was done."""


@dataclass(frozen=True)
class Broken:
    """A finding and its repair, which returns a description of what it did."""

    finding: Finding
    repair: Callable[[Database], str] | None = None
    reseal: Path | None = None
    """The project folder whose list of entries is written anew after the repair."""
