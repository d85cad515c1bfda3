"""Un-picking: keep the picks of a set whose probability is above the threshold of their project.

With a work folder, micrographs are scored in shards (`unpick_shards`), and a second run goes on where the first was
stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cryoflow.database.add_entry import supersede
from cryoflow.database.entry import Entry
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.parameters import CALIBRATED
from cryoflow.picks import Kind, PickSet
from cryoflow.preparation.calibration import Goal
from cryoflow.preparation.patches import require_ctf
from cryoflow.preparation.picked_micrograph import PickedMicrograph, picked_micrographs
from cryoflow.shards import OnProgress
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.decision import DOUBTFUL_SUFFIX, JOB_TYPE, Decision, decision_for, is_doubtful
from cryoflow.unpicker.operating_point import OperatingPoint
from cryoflow.unpicker.scoring import OnScored, Result, ScoredMicrograph


@dataclass(frozen=True)
class UnpickReport:
    """Result of un-picking: one entry a micrograph, the micrographs that failed, and a decision for each project."""

    scored: tuple[ScoredMicrograph, ...]
    failed: tuple[BadInput, ...]
    notes: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def n_picks(self) -> int:
        """Return the number of scored picks."""
        return sum(len(j.kept) for j in self.scored)

    @property
    def n_kept(self) -> int:
        """Return the number of picks kept."""
        return sum(int(j.kept.sum()) for j in self.scored)

    @property
    def shortfalls(self) -> tuple[str, ...]:
        """Return a sentence for each project whose goal was not reached."""
        return tuple(d.shortfall for d in self.decisions if d.shortfall)

    @property
    def n_doubtful(self) -> int:
        """Return the number of doubtful picks, kept or not."""
        return sum(int(j.doubtful.sum()) for j in self.scored)


def decided(
    points: Mapping[str, OperatingPoint], scored: Sequence[ScoredMicrograph], goal: Goal
) -> tuple[tuple[ScoredMicrograph, ...], tuple[Decision, ...]]:
    """Choose the threshold of each project and apply it.

    Parameters
    ----------
    points
        Operating points of the projects that the model learned from.
    """
    decisions = {}
    for project in dict.fromkeys(s.micrograph.data_set for s in scored):
        p = np.concatenate([s.probabilities for s in scored if s.micrograph.data_set == project])
        decisions[project] = decision_for(project, points.get(project), p, goal)
    limits = {project: decision.threshold for project, decision in decisions.items()}
    again = (replace(s, kept=s.probabilities >= limits[s.micrograph.data_set]) for s in scored)
    return tuple(again), tuple(decisions.values())


def unpick(
    bundle: ModelBundle,
    picks: PickSet,
    *,
    goal: Goal | None = None,
    orientations: int = 1,
    workers: int | None = None,
    work: Path | None = None,
    n_a_shard: int = 100,
    on_progress: OnProgress | None = None,
    on_scored: OnScored | None = None,
) -> tuple[PickSet, UnpickReport]:
    """Score the picks of a pick set and keep the good ones.

    Parameters
    ----------
    goal
        Aim of the threshold, or the threshold itself; by default the operating point of the picks' project.
    work
        Folder for the results of shards of `n_a_shard` micrographs, from which a second run goes on.
    on_progress
        Called while micrographs are scored.
    on_scored
        Called with each micrograph after the decision.

    Returns
    -------
    kept : PickSet
        Of kind Unpicked, with the probability as `score`. Picks on micrographs that could not be scored are left out;
        `counts["not_scored"]` is their number.
    report : UnpickReport
    """
    from cryoflow.unpicker.unpick_shards import score_all

    micrographs, notes = picked_micrographs(picks, diameter_A=bundle.diameter_A)
    require_ctf(bundle.preprocessing, micrographs)
    results = score_all(
        bundle,
        items_of(picks, micrographs),
        work,
        picks.provenance.entry_name,
        n_a_shard=n_a_shard,
        orientations=orientations,
        workers=workers,
        on_progress=on_progress,
    )
    report = report_of(bundle.projects, results, goal or Goal(), notes, on_scored)
    return keep_above(bundle, picks, report), report


def items_of(picks: PickSet, micrographs: Sequence[PickedMicrograph]) -> list[PickedMicrograph | None]:
    """Return the micrographs of a pick set in the order of its table; None for those without picks or image."""
    by_name = {m.name: m for m in micrographs}
    return [by_name.get(str(name)) for name in picks.micrographs["name"]]


def report_of(
    points: Mapping[str, OperatingPoint],
    results: Sequence[Result | None],
    goal: Goal,
    notes: Sequence[str],
    on_scored: OnScored | None,
) -> UnpickReport:
    """Decide about all results, and report each to `on_scored` in their order."""
    scored, decisions = decided(points, [r for r in results if isinstance(r, ScoredMicrograph)], goal)
    if on_scored:
        after = iter(scored)
        for r in results:
            if r is not None:
                on_scored(next(after) if isinstance(r, ScoredMicrograph) else r)
    return UnpickReport(scored, tuple(r for r in results if isinstance(r, BadInput)), tuple(notes), decisions)


def scores_of(picks: PickSet, scored: Sequence[ScoredMicrograph]) -> npt.NDArray[np.float64]:
    """Return the probability of each pick of a set, (n,); NaN on micrographs that were not scored."""
    row_of = {name: i for i, name in enumerate(picks.micrographs["name"])}
    offsets = picks.offsets
    scores = np.full(len(picks), np.nan)
    for one in scored:
        i = row_of[one.micrograph.name]
        scores[offsets[i] : offsets[i + 1]] = one.probabilities
    return scores


class Decides(Protocol):
    """The part of a model that decides which scored picks are kept."""

    @property
    def threshold(self) -> float:
        """Return the least probability of a pick that is kept."""

    @property
    def diameter_A(self) -> float | None:
        """Return the diameter of the training particles; None for a general model."""


def keep_above(bundle: Decides, picks: PickSet, report: UnpickReport) -> PickSet:
    """Return the picks that the report keeps, as a set of kind Unpicked.

    Raises
    ------
    BadInput
        Where there are picks and not one of them could be scored: it is unknown whether they are particles.
    """
    if len(picks) and not report.scored:
        why = [str(error) for error in report.failed[:1]] or list(report.notes)
        why_not = "; ".join(why).rstrip(".")
        raise BadInput(picks.provenance.entry_name, f"none of its {len(picks)} picks can be scored: {why_not}.")
    scores = scores_of(picks, report.scored)
    limit = report.decisions[0].threshold if report.decisions else bundle.threshold
    with np.errstate(invalid="ignore"):
        keep = scores >= limit
    counts = {
        **picks.counts,
        "removed": int((np.isfinite(scores) & ~keep).sum()),
        "doubtful": int(is_doubtful(scores).sum()),
    }
    if lost := int(np.isnan(scores).sum()):
        counts["not_scored"] = lost
    decided = (*(d.note() for d in report.decisions), *report.shortfalls)
    notes = (*report.notes, *decided, *(f"not scored: {e}" for e in report.failed))
    return _subset(bundle, picks, scores, keep, title_of(limit), suffix="", counts=counts, notes=notes)


def title_of(threshold: float) -> str:
    """Return the end of the title of an entry whose picks were un-picked at a threshold."""
    return f"un-picked at {threshold:.3f}"


def doubtful_picks(bundle: Decides, picks: PickSet, report: UnpickReport) -> PickSet:
    """Return the doubtful picks, kept or not, as a set of its own for a person to look at."""
    scores = scores_of(picks, report.scored)
    return _subset(
        bundle, picks, scores, is_doubtful(scores), "doubtful picks", suffix=DOUBTFUL_SUFFIX, counts={}, notes=()
    )


def supersede_doubtful(database: Database, doubtful: PickSet) -> Entry | None:
    """Mark the entry of doubtful picks that an earlier run added, and return it; None where there is none.

    Its picks are those of another run than the entry of kept picks beside it.
    """
    return supersede(
        database, doubtful.provenance, "the picks were un-picked again, without an entry of doubtful picks"
    )


def _subset(
    bundle: Decides,
    picks: PickSet,
    scores: npt.NDArray[np.float64],
    keep: npt.NDArray[np.bool_],
    title: str,
    *,
    suffix: str,
    counts: dict[str, int],
    notes: Sequence[str],
) -> PickSet:
    source = picks.provenance
    return replace(
        picks,
        provenance=replace(
            source,
            program="cryoflow",
            kind=Kind.UNPICKED,
            job_type=JOB_TYPE,
            output_group=source.entry_name,
            suffix=suffix,
            title=f"{source.entry_name} {title}",
        ),
        picks=picks.picks.drop(columns="label", errors="ignore").assign(score=scores)[keep].reset_index(drop=True),
        diameter_A=picks.diameter_A or bundle.diameter_A,
        score_kind=CALIBRATED,
        counts=counts,
        notes=(*picks.notes, *notes),
    )
