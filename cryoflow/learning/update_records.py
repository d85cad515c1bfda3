"""What an update keeps between versions: counts on held-out micrographs, and projects that are not learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from annotated_types import Ge, Le

from cryoflow.errors import BadInput
from cryoflow.learning.items import ContentName
from cryoflow.models.gate import MicrographCounts, f1
from cryoflow.storage.files import write_atomically
from cryoflow.storage.parsing import read_record, validated

_Count = Annotated[int, Ge(0), Le(1 << 40)]


def read_quarantined(path: Path) -> dict[str, tuple[str, str]]:
    """Return project -> fingerprint of the labels that did not fit, and why; empty without a file.

    Raises
    ------
    BadInput
        Where the file is no such list.
    """
    return read_record(path, dict[str, tuple[str, str]], "Remove it.") if path.exists() else {}


def add_quarantined(path: Path, projects: Mapping[str, tuple[str, str]]) -> None:
    """Add projects to the list; their earlier records are replaced."""
    if projects:
        known = read_quarantined(path) | dict(projects)
        write_atomically(path, json.dumps(dict(sorted(known.items()))) + "\n")


def f1_of(counts: Sequence[MicrographCounts]) -> float:
    """Return F1 over some micrographs, NaN without any."""
    if not counts:
        return float("nan")
    return f1(np.array([[c.n_reference, c.n_picks, c.n_matched] for c in counts], np.float64))


def write_counts(path: Path, measure: str, counts: Sequence[MicrographCounts], labels: Sequence[str]) -> None:
    """Write what a version scored on each held-out micrograph, so that it need not be scored again.

    Parameters
    ----------
    measure
        How they were counted: see `cryoflow.learning.learner.Learner.measure`.
    labels
        Fingerprint of the labels by which each was counted.
    """
    rows = [astuple(c) for c in counts]
    write_atomically(path, json.dumps({"measure": measure, "counts": rows, "labels": list(labels)}) + "\n")


@dataclass(frozen=True)
class _StoredCounts:
    """The file of counts; rows of before un-pickers scored picks have three numbers."""

    measure: str
    counts: list[
        tuple[str, ContentName, _Count, _Count, _Count]
        | tuple[str, ContentName, _Count, _Count, _Count, _Count, _Count]
    ]
    labels: list[str] = field(default_factory=list)
    """One of each row; none in files of before they were kept."""


class VersionCounts(NamedTuple):
    """Counts of a version by project and micrograph, the measure of its learner and the labels they were counted by.

    Attributes
    ----------
    labels
        Fingerprint of the labels of each micrograph; empty where it was not kept.
    """

    measure: str
    counts: dict[tuple[str, str], MicrographCounts]
    labels: dict[tuple[str, str], str]


def read_counts(path: Path) -> VersionCounts:
    """Return the counts of a version.

    Raises
    ------
    BadInput
        Where the counts cannot be of one version: more matches than picks, or one micrograph twice.
    """
    hint = "Restore it from a copy of the model."
    found = read_record(path, object, hint)
    if isinstance(found, list):  # of before measures had names
        found = {"measure": "", "counts": found}
    stored = validated(path, found, _StoredCounts, hint)
    if stored.labels and len(stored.labels) != len(stored.counts):
        raise BadInput(path, f"has labels of {len(stored.labels)} of {len(stored.counts)} micrographs.", hint)
    counts: dict[tuple[str, str], MicrographCounts] = {}
    for project, name, *numbers in stored.counts:
        c = MicrographCounts(project, name, *numbers)
        if c.n_matched > min(c.n_reference, c.n_picks) or c.n_agreed > c.n_scored:
            raise BadInput(path, f"has more matches than picks on micrograph {name} of {project}.", hint)
        if (project, name) in counts:
            raise BadInput(path, f"has micrograph {name} of {project} twice.", hint)
        counts[project, name] = c
    return VersionCounts(stored.measure, counts, dict(zip(counts, stored.labels, strict=False)))
