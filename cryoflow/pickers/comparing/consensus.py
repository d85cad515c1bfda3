"""Picks on which several pickers agree: as a set of their own, or as labels to train on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.parameters import MATCH_RADIUS
from cryoflow.pickers.comparing.compare import positive_radius_A, same_micrographs
from cryoflow.pickers.comparing.matching import match_picks
from cryoflow.picks import NEEDS_CONFIRMATION, FloatArray, Kind, PickSet, Provenance
from cryoflow.storage.safe_names import safe_name

LEAST_AGREEMENT = 0.5
"""Least mean probability of agreement of a pick that is labeled as a particle."""
_PRIOR = 0.01
"""Weight of the squared slope of a calibration: ends the fit where scores separate agreement perfectly."""


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
    diameter, radius_A, pixel_A = _checked(picksets, at_least, radius, diameter_A)
    rows = []
    for i, (xy, members) in enumerate(_groups(picksets, radius_A / pixel_A)):
        agree = (members >= 0).sum(axis=1).astype(np.float64)
        rows.append(pd.DataFrame({"micrograph": i, "x_px": xy[:, 0], "y_px": xy[:, 1], "score": agree}))
    picks = pd.concat(rows, ignore_index=True)
    picks = picks[picks["score"] >= at_least]
    title = f"at least {at_least} of {', '.join(p.provenance.entry_name for p in picksets)}"
    note = f"picks within {radius:g} diameters ({radius_A:.4g} A) of each other are one"
    return _of_all(picksets, name, title, picks.reset_index(drop=True), diameter, "number of pickers that agree", note)


def labels_by_agreement(
    picksets: Sequence[PickSet],
    *,
    at_least: int = 2,
    radius: float = MATCH_RADIUS,
    diameter_A: float | None = None,
    name: str = "",
) -> PickSet:
    """Return all picks of some pickers with labels: 1 where the pickers agree, 0 where they do not.

    Scores of different pickers cannot be compared, so each picker's are calibrated first: to the probability that
    another picker has the pick, too. A pick is labeled 1 where at least so many pickers have it and the mean of their
    probabilities is `LEAST_AGREEMENT` or more. Its `score` is the probability that not all of its pickers are wrong.
    Places without any pick have no label: training takes them for background.

    Parameters
    ----------
    picksets, at_least, radius
        See `consensus`. A picker that gives no scores counts with the share of its picks that another one has.

    Raises
    ------
    BadInput, MissingMetadata
        See `consensus`.
    """
    diameter, radius_A, pixel_A = _checked(picksets, at_least, radius, diameter_A)
    groups = list(_groups(picksets, radius_A / pixel_A))
    shared = [np.zeros(len(p), bool) for p in picksets]
    for _, rows in groups:
        agree = (rows >= 0).sum(axis=1) > 1
        for k, is_shared in enumerate(shared):
            is_shared[rows[agree & (rows[:, k] >= 0), k]] = True
    chances = [_chance_of_agreement(p, s) for p, s in zip(picksets, shared, strict=True)]
    tables = []
    for i, (xy, rows) in enumerate(groups):
        has = rows >= 0
        p = np.stack([np.where(has[:, k], c[rows[:, k]] if len(c) else 0, 0) for k, c in enumerate(chances)], axis=1)
        agree = has.sum(axis=1)
        positive = (agree >= at_least) & (p.sum(axis=1) >= LEAST_AGREEMENT * agree)
        score = 1 - (1 - p).prod(axis=1)
        columns = {"x_px": xy[:, 0], "y_px": xy[:, 1], "score": score, "label": positive.astype(np.int8)}
        tables.append(pd.DataFrame({"micrograph": i, **columns}))
    title = f"labels by agreement of {at_least} of {', '.join(p.provenance.entry_name for p in picksets)}"
    note = f"picks within {radius:g} diameters ({radius_A:.4g} A) of each other are one"
    picks, score_kind = pd.concat(tables, ignore_index=True), "probability that a picker that has it is right"
    return _of_all(picksets, name, title, picks, diameter, score_kind, note)


def _chance_of_agreement(picks: PickSet, shared: npt.NDArray[np.bool_]) -> FloatArray:
    """Return the probability that another picker has each pick, (n,): logistic in the rank of its score.

    Ranks do not depend on the scale of a picker's scores. The slope is not negative: a higher score is no worse sign.
    """
    from scipy.optimize import minimize
    from scipy.special import expit
    from scipy.stats import rankdata

    n = len(picks)
    share = np.full(n, (shared.sum() + 1) / (n + 2))
    scores = picks.picks["score"].to_numpy(np.float64) if "score" in picks.picks else np.full(n, np.nan)
    if np.isnan(scores).any() or shared.all() or not shared.any():
        return share
    x = rankdata(scores) / n - 0.5

    def loss(v: FloatArray) -> float:
        z = v[0] * x + v[1]
        return float(np.logaddexp(0, np.where(shared, -z, z)).sum() + _PRIOR * v[0] ** 2)

    slope, offset = minimize(loss, np.zeros(2), method="L-BFGS-B", bounds=[(0, None), (None, None)]).x
    chance: FloatArray = expit(slope * x + offset)
    return chance


def _checked(
    picksets: Sequence[PickSet], at_least: int, radius: float, diameter_A: float | None
) -> tuple[float, float, FloatArray]:
    """Return the diameter and the matching radius in angstrom, and the pixel size of each micrograph of the first set.

    Raises
    ------
    BadInput, MissingMetadata
        See `consensus`.
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
    return diameter, radius_A, pixel_A


def _name_of(picksets: Sequence[PickSet]) -> str:
    """Return the names of their jobs, with the kinds of entry where the jobs alone are not distinct."""
    jobs = [p.provenance.job for p in picksets]
    return "_".join(jobs if len(set(jobs)) == len(jobs) else [p.provenance.entry_name for p in picksets])


def _of_all(
    picksets: Sequence[PickSet],
    name: str,
    title: str,
    picks: pd.DataFrame,
    diameter_A: float,
    score_kind: str,
    note: str,
) -> PickSet:
    """Return picks made from several sets, on the micrographs of the first one."""
    first = picksets[0]
    source = first.provenance
    provenance = Provenance(
        "cryoflow",
        source.project,
        source.project_name,
        safe_name(name or _name_of(picksets)),
        Kind.CONSENSUS,
        job_type="consensus",
        title=title,
        sources=tuple(dict.fromkeys(s for p in picksets for s in p.provenance.sources)),
    )
    # A note of unconfirmed picks is kept: it excludes the result from training, too.
    unconfirmed = dict.fromkeys(n for p in picksets for n in p.notes if NEEDS_CONFIRMATION in n)
    return PickSet.build(
        provenance,
        first.micrographs,
        picks,
        box_px=first.box_px,
        diameter_A=diameter_A,
        score_kind=score_kind,
        notes=(note, *unconfirmed),
    )


def _groups(picksets: Sequence[PickSet], radius_px: FloatArray) -> Iterator[tuple[FloatArray, npt.NDArray[np.intp]]]:
    """Yield, for each micrograph of the first set, the positions of groups, and the row of each set's pick or -1."""
    per_set = [_by_first(picksets[0], pickset) for pickset in picksets]
    nothing = np.zeros((0, 2)), slice(0, 0)
    for i, radius in enumerate(radius_px):
        here = [positions.get(i, nothing) for positions in per_set]
        xy, members = _merge([positions for positions, _ in here], radius)
        starts = np.array([rows.start for _, rows in here], np.intp)
        yield xy, np.where(members >= 0, members + starts, -1)


def _by_first(first: PickSet, other: PickSet) -> dict[int, tuple[FloatArray, slice]]:
    """Return positions of another set on each micrograph of the first, in the first's pixels, and their rows."""
    bounds = other.offsets.tolist()
    xy = other.centers_xy_px
    mine, theirs = (p.micrographs["pixel_size_A"].to_numpy(np.float64) for p in (first, other))
    pairs = ((i, i) for i in range(len(first.micrographs))) if other is first else same_micrographs(other, first)
    found = {}
    for j, i in pairs:
        rows = slice(bounds[j], bounds[j + 1])
        found[i] = xy[rows] * (1.0 if np.isnan(theirs[j]) else theirs[j] / mine[i]), rows
    return found


def _merge(sets: Sequence[FloatArray], radius_px: float) -> tuple[FloatArray, npt.NDArray[np.intp]]:
    """Return the mean position of each group, (n, 2), and which pick of each set is in it, (n, sets); -1 is none."""
    total, members = np.zeros((0, 2)), np.zeros((0, len(sets)), np.intp)
    for k, xy in enumerate(sets):
        agree = (members >= 0).sum(axis=1)
        pairs = match_picks(total / agree[:, None], xy, radius_px)
        total[pairs.reference] += xy[pairs.pick]
        members[pairs.reference, k] = pairs.pick
        new = np.ones(len(xy), bool)
        new[pairs.pick] = False
        alone = np.full((int(new.sum()), len(sets)), -1, np.intp)
        alone[:, k] = np.flatnonzero(new)
        total, members = np.vstack([total, xy[new]]), np.vstack([members, alone])
    return total / (members >= 0).sum(axis=1)[:, None], members
