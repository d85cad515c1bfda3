"""Labels of picks: positive, negative, unlabeled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.spatial import cKDTree

from cryoflow.errors import BadInput, NotWritten
from cryoflow.parameters import MATCH_RADIUS
from cryoflow.picks import PickSet, require_confirmed
from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.star_folder import files_by_stem, refuse_overwriting, suffix_of
from cryoflow.unpicker.star_lines import LABEL_COLUMN, StarRows

Negatives = Literal["balanced", "all"]
Dropped = Literal["unlabeled", "negative", "unlabelled", "wrong"]
"""The last two are older words for the first two."""
_SAME_PICK_PX = 1.0
"""Files of kept picks are rounded."""


@dataclass(frozen=True)
class StarLabels:
    """Result of labeling one micrograph's files."""

    name: str
    output: Path
    n_positive: int
    n_negative: int
    n_all: int
    n_added: int
    """Kept picks that are not among all picks: added by hand."""


def label_star_folder(
    folder: Path,
    output: Path,
    *,
    all_suffix: str = "_autopick",
    kept_suffix: str = "_autopick_correct",
    train_suffix: str = "_autopick_train",
    negatives: Negatives = "balanced",
    seed: int = 0,
) -> tuple[list[StarLabels], list[BadInput]]:
    """Label the picks of micrographs that were cleaned by hand, as the older emUnpicker did.

    For each `X<kept_suffix>.star`, a file `X<train_suffix>.star` with the columns it had and one more: P for each pick
    that was kept, N for picks that were not. A kept pick is the nearest of all picks that lies within `_SAME_PICK_PX`;
    one with none was added by hand and counts as positive.

    Parameters
    ----------
    negatives
        `balanced`: one N is drawn for each P; `all`: every removed pick is an N.

    Returns
    -------
    One entry a micrograph, and what was wrong with those that could not be labeled.

    Raises
    ------
    BadInput
        Where there are no such files, or they would be written over.
    """
    refuse_overwriting(folder, output, read=(all_suffix, kept_suffix), written=(train_suffix,))
    everything = files_by_stem(folder, all_suffix)
    done: list[StarLabels] = []
    bad: list[BadInput] = []
    for stem, kept_file in files_by_stem(folder, kept_suffix).items():
        try:
            if stem not in everything:
                wanted = f"{stem}{suffix_of(all_suffix)}"
                raise BadInput(kept_file, f"there is no {wanted} beside it: what was removed is not known.")
            rng = np.random.default_rng([seed, *stem.encode(errors="surrogateescape")])
            target = output / f"{stem}{suffix_of(train_suffix)}"
            done.append(_label_pair(everything[stem], kept_file, target, negatives, rng))
        except NotWritten:
            raise  # a full disk is no fault of this file
        except BadInput as error:
            bad.append(error)
    return done, bad


def _label_pair(
    all_file: Path, kept_file: Path, target: Path, negatives: Negatives, rng: np.random.Generator
) -> StarLabels:
    everything, kept = StarRows.read(all_file), StarRows.read(kept_file)
    nearest, distance = _nearest(everything.centers_xy_px, kept.centers_xy_px)
    matched = distance <= _SAME_PICK_PX
    positive = np.zeros(len(everything), bool)
    positive[nearest[matched]] = True
    removed = np.flatnonzero(~positive)
    n_positive = int(positive.sum()) + int((~matched).sum())
    if negatives == "balanced":
        removed = np.sort(rng.permutation(removed)[:n_positive])
    rows = [*np.flatnonzero(positive), *removed]
    values = ["P"] * int(positive.sum()) + ["N"] * len(removed)
    by_hand = np.flatnonzero(~matched)
    source = everything
    if len(by_hand):
        added = (_in_columns(everything.columns, kept, int(i)) for i in by_hand)
        source = replace(everything, rows=(*everything.rows, *added))
        rows += range(len(everything), len(source))
        values += ["P"] * len(by_hand)
    write_atomically(target, source.with_column(LABEL_COLUMN, values, [int(r) for r in rows]))
    stem = target.name.rsplit(".star", 1)[0]
    return StarLabels(stem, target, values.count("P"), values.count("N"), len(everything), len(by_hand))


def _in_columns(columns: Sequence[str], of: StarRows, row: int) -> str:
    """Return a row of one file in the columns of another; -999 is RELION's word for what a pick by hand does not
    have."""
    if of.columns == tuple(columns):
        return of.rows[row]
    word = dict(zip(of.columns, of.rows[row].split(), strict=True))
    return " ".join(f"{word.get(name, '-999'):>12}" for name in columns) + " "


def label_from_database(
    positives: PickSet,
    candidates: PickSet,
    excluded: PickSet | None = None,
    *,
    radius: float = MATCH_RADIUS,
    diameter_A: float | None = None,
    dropped: Dropped = "unlabeled",
) -> PickSet:
    """Label the picks of one job by what became of them in others.

    A candidate within the radius of a positive is positive; else, within the radius of an excluded particle, negative.
    The others are unlabeled, for a refinement drops many whole particles. Only micrographs with positives are kept: the
    others may never have been looked at.

    Parameters
    ----------
    positives
        Picks that survived: of a refinement, of a selection of 2D classes, or made by hand.
    candidates
        All picks: of an autopick job.
    excluded
        Particles that a selection rejected: negatives that look like particles, which teach most.
    radius
        In particle diameters.
    diameter_A
        Used where neither pick set knows it.
    dropped
        `unlabeled`, or `negative` where what is dropped is known to be wrong (cleaned by hand).

    Returns
    -------
    PickSet
        The candidates on micrographs of the positives, with a `label`.

    Raises
    ------
    BadInput
        Where they have no micrograph in common, no candidate is near a positive, or picks are unconfirmed
        (`picks.require_confirmed`).
    """
    for picks in (positives, candidates, *([excluded] if excluded is not None else [])):
        require_confirmed(picks)
    where = candidates.provenance.project
    diameter = candidates.diameter_A or positives.diameter_A or diameter_A
    if diameter is None:
        raise BadInput(where, "the particle diameter is unknown.", "Give --diameter.")
    homes = _same_micrographs(candidates, positives)
    wrong_homes = _same_micrographs(candidates, excluded) if excluded is not None else {}
    labels = np.full(len(candidates), UNLABELED if dropped in ("unlabeled", "unlabelled") else NEGATIVE, np.int8)
    keep = np.zeros(len(candidates), bool)
    offsets = candidates.offsets
    centers = candidates.centers_xy_px
    unmatched = 0
    for i, j in homes.items():
        these = slice(offsets[i], offsets[i + 1])
        size = _pixel_size(candidates, i, positives, j)
        reach = radius * diameter / size
        if excluded is not None and i in wrong_homes:
            near = _within(centers[these], _picks_of(excluded, wrong_homes[i]), reach)
            labels[these][near] = NEGATIVE
        survivors = _picks_of(positives, j)
        labels[these][_within(centers[these], survivors, reach)] = POSITIVE
        unmatched += int((~_within(survivors, centers[these], reach)).sum())
        keep[these] = True
    if not homes or not (labels[keep] == POSITIVE).any():
        what = "no micrograph in common" if not homes else "no pick in common"
        raise BadInput(
            where,
            f"{candidates.provenance.entry_name} and {positives.provenance.entry_name} have {what}.",
            "Are both of one project, and the diameter right?",
        )
    notes = list(candidates.notes)
    if unmatched:
        notes.append(f"{unmatched} of {len(positives)} positives have no candidate within {radius:g} diameters")
    table = candidates.picks.drop(columns="label", errors="ignore").assign(label=labels)
    counts = {**candidates.counts, "micrographs_without_positives": len(candidates.micrographs) - len(homes)}
    return replace(
        candidates,
        provenance=replace(candidates.provenance, suffix="labelled"),
        picks=table[keep].reset_index(drop=True),
        diameter_A=diameter,
        counts={k: v for k, v in counts.items() if v},
        notes=tuple(notes),
    )


def _same_micrographs(candidates: PickSet, others: PickSet) -> dict[int, int]:
    """Return rows of the micrographs that both have: by path where both were found, else by name, else by a unique
    stem."""
    found: dict[int, int] = {}
    for key in (_real_path, lambda row: row.name, lambda row: Path(row.name).stem):
        there = _unique(others.micrographs, key)
        here = _unique(candidates.micrographs, key)
        taken = set(found.values())
        for value, i in here.items():
            if i not in found and (j := there.get(value)) is not None and j not in taken:
                found[i] = j
    return dict(sorted(found.items()))


def _real_path(row: object) -> str | None:
    path = getattr(row, "path", None)
    return None if path is None else str(Path(path).resolve())


def _unique(table: pd.DataFrame, key: object) -> dict[str, int]:
    values = [key(row) for row in table.itertuples(index=False)]  # type: ignore[operator]
    times = Counter(values)
    return {v: i for i, v in enumerate(values) if v is not None and times[v] == 1}


def _pixel_size(candidates: PickSet, i: int, others: PickSet, j: int) -> float:
    sizes = [candidates.micrographs["pixel_size_A"].iloc[i], others.micrographs["pixel_size_A"].iloc[j]]
    known = [float(s) for s in sizes if np.isfinite(s)]
    name = candidates.micrographs["name"].iloc[i]
    if not known:
        raise BadInput(
            candidates.provenance.project, f"the pixel size of {name} is unknown.", "Ingest it again with one."
        )
    if len(known) == 2 and abs(known[0] / known[1] - 1) > 0.01:
        raise BadInput(
            candidates.provenance.project,
            f"{name} has {known[0]:g} A a pixel in one job and {known[1]:g} in the other.",
            "They are not the same image: picks cannot be compared.",
        )
    return known[0]


def _picks_of(picks: PickSet, i: int) -> npt.NDArray[np.float64]:
    offsets = picks.offsets
    return picks.centers_xy_px[offsets[i] : offsets[i + 1]]


def _within(
    xy_px: npt.NDArray[np.float64], others_xy_px: npt.NDArray[np.float64], reach_px: float
) -> npt.NDArray[np.bool_]:
    return _nearest(others_xy_px, xy_px)[1] <= reach_px


def _nearest(
    among_xy_px: npt.NDArray[np.float64], xy_px: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Return the nearest of `among` to each point, and how far it is; infinitely where there is none."""
    if not len(among_xy_px) or not len(xy_px):
        return np.zeros(len(xy_px), np.intp), np.full(len(xy_px), np.inf)
    distance, nearest = cKDTree(among_xy_px).query(xy_px)
    return nearest, distance
