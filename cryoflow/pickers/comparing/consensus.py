"""Picks on which several pickers agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.parameters import MATCH_RADIUS
from cryoflow.pickers.comparing.compare import positive_radius_A, same_micrographs
from cryoflow.pickers.comparing.matching import match_picks
from cryoflow.picks import NEEDS_CONFIRMATION, FloatArray, Kind, PickSet, Provenance
from cryoflow.storage.safe_names import safe_name


def consensus(
    picksets: Sequence[PickSet],
    *,
    at_least: int = 2,
    radius: float = MATCH_RADIUS,
    diameter_A: float | None = None,
    name: str = "",
) -> PickSet:
    """Return the picks that at least so many of the sets have, at the mean of their positions.

    The sets are taken one after the other, each matched one to one (optimally) with what was found so far. Scores of
    different pickers cannot be compared, so none is kept: `score` is the number of sets that agree.

    Parameters
    ----------
    picksets
        Of the same micrographs; or one, with `at_least` 1, to remove its duplicates. The first one's micrographs and
        pixels count; others are brought to them by pixel size.
    at_least
        1 gives the union.
    radius
        Picks within so many diameters of each other are one.

    Raises
    ------
    BadInput
        Where `at_least` is more than there are sets, or they have no micrographs in common.
    MissingMetadata
        Where the diameter or a pixel size is not known.
    """
    entries = [f"{p.provenance.project_name}/{p.provenance.entry_name}" for p in picksets]
    if not 1 <= at_least <= len(picksets):
        raise BadInput("consensus", f"of {len(picksets)} entries, at least {at_least} cannot agree.")
    if twice := sorted({e for e in entries if entries.count(e) > 1}):
        raise BadInput(twice[0], "is named twice, and would agree with itself.")
    first = picksets[0]
    for pickset, entry in zip(picksets, entries, strict=True):
        if pickset is not first and not any(True for _ in same_micrographs(pickset, first)):
            raise BadInput(entry, f"has no micrograph in common with {entries[0]}.")
    diameter = diameter_A or next((p.diameter_A for p in picksets if p.diameter_A), None)
    if diameter is None:
        raise MissingMetadata(entries[0], "the particle diameter is not known.", "Give it in angstrom: --diameter.")
    radius_A = positive_radius_A(radius, diameter)
    pixel_A = first.micrographs["pixel_size_A"].to_numpy(np.float64)
    if np.isnan(pixel_A).any():
        raise MissingMetadata(entries[0], "has micrographs of unknown pixel size.", "Ingest its project with one.")
    per_set = [_by_first(first, pickset) for pickset in picksets]
    rows = []
    for i in range(len(first.micrographs)):
        xy, agree = _merge([positions.get(i, np.zeros((0, 2))) for positions in per_set], radius_A / pixel_A[i])
        rows.append(pd.DataFrame({"micrograph": i, "x_px": xy[:, 0], "y_px": xy[:, 1], "score": agree}))
    picks = pd.concat(rows, ignore_index=True)
    picks = picks[picks["score"] >= at_least]
    source = first.provenance
    provenance = Provenance(
        "cryoflow",
        source.project,
        source.project_name,
        safe_name(name or _name_of(picksets)),
        Kind.CONSENSUS,
        job_type="consensus",
        title=f"at least {at_least} of {', '.join(p.provenance.entry_name for p in picksets)}",
        sources=tuple(dict.fromkeys(s for p in picksets for s in p.provenance.sources)),
    )
    return PickSet.build(
        provenance,
        first.micrographs,
        picks.reset_index(drop=True),
        box_px=first.box_px,
        diameter_A=diameter,
        score_kind="number of pickers that agree",
        notes=(
            f"picks within {radius:g} diameters ({radius_A:.4g} A) of each other are one",
            *_unconfirmed(picksets),
        ),
    )


def _unconfirmed(picksets: Sequence[PickSet]) -> tuple[str, ...]:
    """Return the notes of unconfirmed picks, which keep what is made of them from training."""
    return tuple(dict.fromkeys(n for p in picksets for n in p.notes if NEEDS_CONFIRMATION in n))


def _name_of(picksets: Sequence[PickSet]) -> str:
    """Return the names of their jobs, with the kinds of entry where the jobs alone are not distinct."""
    jobs = [p.provenance.job for p in picksets]
    return "_".join(jobs if len(set(jobs)) == len(jobs) else [p.provenance.entry_name for p in picksets])


def _by_first(first: PickSet, other: PickSet) -> dict[int, FloatArray]:
    """Positions of another set on each micrograph of the first, in the first's pixels."""
    bounds = other.offsets.tolist()
    xy = other.centers_xy_px
    mine, theirs = (p.micrographs["pixel_size_A"].to_numpy(np.float64) for p in (first, other))
    pairs = ((i, i) for i in range(len(first.micrographs))) if other is first else same_micrographs(other, first)
    return {i: xy[bounds[j] : bounds[j + 1]] * (1.0 if np.isnan(theirs[j]) else theirs[j] / mine[i]) for j, i in pairs}


def _merge(sets: Sequence[FloatArray], radius_px: float) -> tuple[FloatArray, FloatArray]:
    """Mean position of each group of picks, and how many sets are in it."""
    total, agree = np.zeros((0, 2)), np.zeros(0)
    for xy in sets:
        pairs = match_picks(total / agree[:, None], xy, radius_px)
        total[pairs.reference] += xy[pairs.pick]
        agree[pairs.reference] += 1
        new = np.ones(len(xy), bool)
        new[pairs.pick] = False
        total, agree = np.vstack([total, xy[new]]), np.append(agree, np.ones(int(new.sum())))
    return total / agree[:, None], agree
