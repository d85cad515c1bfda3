"""What an update keeps between versions: counts on held-out micrographs, and projects that are not learned from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.models.gate import MicrographCounts, f1
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically

_LARGEST_BYTES = 256 << 20


def read_quarantined(path: Path) -> dict[str, tuple[str, str]]:
    """Return project -> fingerprint of the labels that did not fit, and why; empty without a file.

    Raises
    ------
    BadInput
        Where the file is no such list.
    """
    try:
        rows = json.loads(inputs.read_bytes(path, at_most=_LARGEST_BYTES))
        return {str(project): (str(fingerprint), str(reason)) for project, (fingerprint, reason) in rows.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(path, f"is no list of projects: {error}.", "Remove it.") from error


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


def write_counts(path: Path, measure: str, counts: Sequence[MicrographCounts]) -> None:
    """Write what a version scored on each held-out micrograph, so that it need not be scored again.

    Parameters
    ----------
    measure
        How they were counted: see `cryoflow.learning.learner.Learner.measure`.
    """
    write_atomically(path, json.dumps({"measure": measure, "counts": [astuple(c) for c in counts]}) + "\n")


def read_counts(path: Path, measure: str) -> dict[tuple[str, str], MicrographCounts]:
    """Return the counts of a version by project and micrograph; empty where it has none, or counted otherwise."""
    try:
        found = json.loads(inputs.read_bytes(path, at_most=_LARGEST_BYTES))
        if isinstance(found, list):  # of before measures had names
            found = {"measure": "", "counts": found}
        rows = found["counts"] if found["measure"] == measure else []
        counts = [MicrographCounts(str(p), str(m), *(int(n) for n in numbers)) for p, m, *numbers in rows]
    except FileNotFoundError:
        return {}
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise BadInput(path, f"holds no counts: {error}.", "Restore it from a copy of the model.") from error
    return {(c.project, c.micrograph): c for c in counts}
