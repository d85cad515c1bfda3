"""Labels for a detector from the jobs of finished projects: what survived, what was excluded, what no job ever picked.

Not labeled is not negative: a refinement keeps some picks of many. So what some job picked and no job kept is unknown.
A place is a reliable negative only where no picking job of the project found a candidate within half a diameter, or
where a selection put the class aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from cryoflow.database.entry import CURRENT, Entry
from cryoflow.database.project_diameter import project_diameter_A
from cryoflow.database.select import best_of, is_junk, is_unconfirmed
from cryoflow.database.store import Database
from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN
from cryoflow.errors import BadInput
from cryoflow.picks import CANDIDATE_KINDS, Kind, PickSet, require_confirmed

WEIGHTS = {Kind.SELECT_2D: 0.7}
"""What a positive counts that survived no more than this kind of job; 1 for refinements and picks by hand."""

SAME_DIAMETERS = 0.5
"""Candidates within so many diameters of a positive are that particle."""

EXCLUDED_DIAMETERS = 0.25
"""Excluded picks that lie within so many diameters of a positive were kept by another job after all."""

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ProjectLabels:
    """Entries of one project that label its micrographs.

    Attributes
    ----------
    positives
        Picks that survived.
    candidates
        All picking jobs; empty where every unlabeled place is unknown.
    excluded
        Picks that selections excluded.
    labeled
        The positives are those of an entry with labels, such as a review: its other micrographs are left out.
    """

    project: str
    positives: PickSet
    candidates: tuple[PickSet, ...]
    excluded: tuple[PickSet, ...]
    diameter_A: float
    labeled: bool = False


@dataclass(frozen=True)
class MicrographLabels:
    """Labeled points of one micrograph, in its pixels."""

    name: str
    path: str | None
    pixel_size_A: float
    xy_px: Float
    kind: npt.NDArray[np.int8]
    weight: npt.NDArray[np.float32]
    background: bool


@dataclass(frozen=True)
class LabeledProject:
    """Labeled micrographs of one project, wherever the labels come from.

    Attributes
    ----------
    name
        Projects of the same name are drawn together.
    described
        The origin of the labels, for the model card.
    validation
        Names of micrographs that are not learned from; None draws them.
    """

    name: str
    diameter_A: float
    micrographs: tuple[MicrographLabels, ...]
    described: str
    validation: frozenset[str] | None = None


def labeled(labels: ProjectLabels) -> LabeledProject:
    """Return the labeled micrographs of a project of a database."""
    entry = labels.positives.provenance.entry_name
    return LabeledProject(labels.project, labels.diameter_A, tuple(micrograph_labels(labels)), entry)


def project_labels(database: Database, positives: Entry, *, diameter_A: float | None = None) -> ProjectLabels:
    """Return the entries that label the micrographs of an entry's project.

    Of an entry with labels the positive picks are positives, the unlabeled ones candidates, the negative ones excluded.

    Raises
    ------
    BadInput
        Where the particle diameter is not known, or the entry's picks are unconfirmed.
    """
    mine = [e for e in database.entries() if e.project == positives.project and e.status == CURRENT and e.n_picks]
    mine = [e for e in mine if not is_unconfirmed(e)]
    candidates = [e for e in mine if e.kind in CANDIDATE_KINDS and not is_junk(e.suffix) and "label" not in e.suffix]
    excluded = [e for e in mine if e.kind == Kind.SELECT_2D and is_junk(e.suffix)]
    chosen = database.load(positives)
    require_confirmed(chosen)
    known = [e.diameter_A for e in (positives, *candidates) if e.diameter_A]
    diameter = diameter_A or (known[0] if known else project_diameter_A(database.entries(), positives.project))
    if diameter is None:
        raise BadInput(positives.folder, "has no particle diameter.", "Give it in angstrom (--diameter).")
    others = tuple(database.load(e) for e in candidates if e.name != positives.name)
    aside = tuple(database.load(e) for e in excluded)
    if "label" not in chosen.picks:
        return ProjectLabels(positives.project, chosen, others, aside, diameter)
    label = chosen.picks["label"].to_numpy()
    kept, undecided, removed = (chosen.where(which) for which in (label > 0, label == 0, label < 0))
    return ProjectLabels(positives.project, kept, (*others, undecided), (*aside, removed), diameter, labeled=True)


def best_entries(database: Database, names: Sequence[str]) -> tuple[list[Entry], list[str]]:
    """Return the entries named, or the best one of each project where none is, and notes on projects without one."""
    if names:
        return [database.entry(n) for n in database.matching(names)], []
    by_project: dict[str, list[Entry]] = {}
    for entry in database.entries():
        by_project.setdefault(entry.project, []).append(entry)
    chosen, notes = [], []
    for project, entries in sorted(by_project.items()):
        selection = best_of(project, entries)
        if selection.entry is None:
            notes.append(f"{project}: {selection.reason}")
        else:
            chosen.append(selection.entry)
    return chosen, notes


def micrograph_labels(labels: ProjectLabels) -> list[MicrographLabels]:
    """Return the labels of each micrograph of a project that is known to have been searched, in order of name."""
    sets = (labels.positives, *labels.candidates, *labels.excluded)
    rows: dict[str, tuple[str | None, float]] = {}
    for picks in sets:
        table = picks.micrographs
        sizes_A = table["pixel_size_A"].to_numpy(np.float64)
        for name, path, status, size_A in zip(table["name"], table["path"], table["status"], sizes_A, strict=True):
            if str(name) not in rows or rows[str(name)][0] is None:
                rows[str(name)] = (None if path is None or status == "missing" else str(path), float(size_A))
    positives, candidates, excluded = (
        [_by_name(p) for p in group] for group in ((labels.positives,), labels.candidates, labels.excluded)
    )
    weight = 1.0 if labels.labeled else WEIGHTS.get(labels.positives.provenance.kind, 1.0)
    found = []
    for name, (path, pixel_size_A) in sorted(rows.items()):
        if not pixel_size_A > 0 or (labels.labeled and name not in positives[0]):
            continue
        across = labels.diameter_A / pixel_size_A
        kept = _together([p.get(name) for p in positives])
        seen = _together([c.get(name) for c in candidates])
        aside = _together([e.get(name) for e in excluded])
        aside = aside[far_from(aside, kept, EXCLUDED_DIAMETERS * across)]
        seen = seen[far_from(seen, kept, SAME_DIAMETERS * across) & far_from(seen, aside, EXCLUDED_DIAMETERS * across)]
        kinds = np.repeat(np.array([POSITIVE, UNKNOWN, NEGATIVE], np.int8), [len(kept), len(seen), len(aside)])
        weights = np.where(kinds == POSITIVE, weight, 1.0).astype(np.float32)
        searched = any(name in c for c in candidates)
        found.append(
            MicrographLabels(
                name, path, pixel_size_A, np.concatenate([kept, seen, aside]), kinds, weights, background=searched
            )
        )
    return found


def _by_name(picks: PickSet) -> dict[str, Float]:
    offsets, centers = picks.offsets, picks.centers_xy_px
    names = picks.micrographs["name"]
    return {str(name): centers[offsets[i] : offsets[i + 1]] for i, name in enumerate(names)}


def _together(parts: Sequence[Float | None]) -> Float:
    return np.concatenate([np.zeros((0, 2)), *(p for p in parts if p is not None)])


def far_from(points: Float, others: Float, distance: float) -> npt.NDArray[np.bool_]:
    """Return which points have none of the others within a distance.

    Parameters
    ----------
    points, others : (n, 2), (m, 2) float
        Both in the pixels of one image.
    distance
        In the same pixels.

    Returns
    -------
    (n,) bool
    """
    if not len(points) or not len(others):
        return np.ones(len(points), bool)
    nearest, _ = cKDTree(others).query(points)
    return np.asarray(nearest > distance, bool)
