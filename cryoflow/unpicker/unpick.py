"""Un-picking: score the picks of many micrographs with a model, and keep those above their project's threshold.

Threads read micrographs and cut patches while the network scores the ones before; a few are in memory at a time, so
that neither memory nor the time of one grows with their number. With a work folder, micrographs are scored in shards
(`unpick_shards`), and a second run goes on where the first was stopped.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.scratch import local_copy
from cryoflow.picks import Kind, PickSet
from cryoflow.preparation.calibration import Goal
from cryoflow.preparation.patches import Patches, load_patches, require_ctf
from cryoflow.preparation.picked import PickedMicrograph, picked_micrographs
from cryoflow.shards import OnProgress
from cryoflow.storage.files import remove_folder, write_atomically
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.operating_point import Decision, decision_for, is_doubtful
from cryoflow.unpicker.star_folder import StarPicks, read_star_folder, refuse_overwriting, suffix_of
from cryoflow.unpicker.star_rows import FOM

log = logging.getLogger(__name__)

SCORE_KIND = "cryoflow/probability"


@dataclass(frozen=True)
class ScoredMicrograph:
    """A micrograph whose picks have probabilities.

    Attributes
    ----------
    probabilities : (n,) float
        That each pick is a particle, in the order of the picks.
    kept : (n,) bool
        Picks of at least the threshold.
    """

    micrograph: PickedMicrograph
    probabilities: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]

    @property
    def doubtful(self) -> npt.NDArray[np.bool_]:
        """Picks whose probability lies in the doubtful band, kept or not."""
        return is_doubtful(self.probabilities)

    def __str__(self) -> str:
        n, all_ = int(self.kept.sum()), len(self.kept)
        return f"{self.micrograph.name}: kept {n}/{all_} ({n / max(all_, 1):.1%})".replace("%)", " %)")


Result = ScoredMicrograph | BadInput
OnScored = Callable[[Result], None]


@dataclass(frozen=True)
class UnpickReport:
    """Result of un-picking: one entry a micrograph, the micrographs that failed, and a decision for each project."""

    scored: tuple[ScoredMicrograph, ...]
    failed: tuple[BadInput, ...]
    notes: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def n_picks(self) -> int:
        """Number of scored picks."""
        return sum(len(j.kept) for j in self.scored)

    @property
    def n_kept(self) -> int:
        """Number of picks kept."""
        return sum(int(j.kept.sum()) for j in self.scored)

    @property
    def n_doubtful(self) -> int:
        """Number of doubtful picks, kept or not."""
        return sum(int(j.doubtful.sum()) for j in self.scored)


def score(
    bundle: ModelBundle,
    micrographs: Iterable[PickedMicrograph],
    *,
    orientations: int = 1,
    workers: int | None = None,
) -> Iterator[Result]:
    """Score the picks of micrographs one by one, in their order.

    Parameters
    ----------
    orientations
        1, 2, 4 or 8: the mean over so many orientations of each patch, a little better and as many times slower.
    workers
        Micrographs prepared at a time; None takes as many as there are cores, at most 8.

    Yields
    ------
    The scored micrograph, kept by the threshold of its project or else the pooled one; or why it could not be scored.
    """
    from cryoflow.system.cpus import available_cpus

    network = bundle.network  # built before the threads start
    assert network is not None
    n_workers = workers or min(8, available_cpus())
    extractor = bundle.preprocessing.with_orientations(orientations)

    def patches_of(micrograph: PickedMicrograph) -> Patches | BadInput:
        try:
            with local_copy(micrograph.path) as path:
                return load_patches(extractor, replace(micrograph, path=path))
        except BadInput as error:
            return error
        except OSError as error:
            return BadInput(micrograph.path, f"cannot be read: {error.strerror or error}.")

    def finished(micrograph: PickedMicrograph, patches: Patches | BadInput) -> Result:
        if isinstance(patches, BadInput):
            return patches
        project = micrograph.data_set
        probabilities = bundle.probabilities(patches, project=project, orientations=orientations)
        point = bundle.projects.get(project)
        return ScoredMicrograph(
            micrograph, probabilities, probabilities >= (point.threshold if point else bundle.threshold)
        )

    with ThreadPoolExecutor(n_workers) as pool:
        waiting: deque[tuple[PickedMicrograph, Future[Patches | BadInput]]] = deque()
        for micrograph in micrographs:
            waiting.append((micrograph, pool.submit(patches_of, micrograph)))
            if len(waiting) > n_workers:
                ready, future = waiting.popleft()
                yield finished(ready, future.result())
        while waiting:
            ready, future = waiting.popleft()
            yield finished(ready, future.result())


def decided(
    bundle: ModelBundle, scored: Sequence[ScoredMicrograph], goal: Goal
) -> tuple[tuple[ScoredMicrograph, ...], tuple[Decision, ...]]:
    """Choose the threshold of each project and apply it."""
    decisions = {}
    for project in dict.fromkeys(s.micrograph.data_set for s in scored):
        p = np.concatenate([s.probabilities for s in scored if s.micrograph.data_set == project])
        decisions[project] = decision_for(project, bundle.projects.get(project), p, goal)
    limits = {project: decision.threshold for project, decision in decisions.items()}
    again = (replace(s, kept=s.probabilities >= limits[s.micrograph.data_set]) for s in scored)
    return tuple(again), tuple(decisions.values())


def unpick(
    bundle: ModelBundle,
    picks: PickSet,
    *,
    goal: Goal | None = None,
    threshold: float | None = None,
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
    goal, threshold
        Aim of the threshold, or the threshold; by default the operating point of the picks' project.
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
    report = _report(bundle, results, _goal(goal, threshold), notes, on_scored)
    return keep_above(bundle, picks, report), report


def items_of(picks: PickSet, micrographs: Sequence[PickedMicrograph]) -> list[PickedMicrograph | None]:
    """Return the micrographs of a pick set in the order of its table; None for those without picks or image."""
    by_name = {m.name: m for m in micrographs}
    return [by_name.get(str(name)) for name in picks.micrographs["name"]]


def _goal(goal: Goal | None, threshold: float | None) -> Goal:
    return goal or Goal(threshold=threshold)


def _report(
    bundle: ModelBundle, results: Sequence[Result | None], goal: Goal, notes: Sequence[str], on_scored: OnScored | None
) -> UnpickReport:
    scored, decisions = decided(bundle, [r for r in results if isinstance(r, ScoredMicrograph)], goal)
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
        """Least probability of a pick that is kept."""

    @property
    def diameter_A(self) -> float | None:
        """Diameter of the particles that it learned from; None for a general model."""


def keep_above(bundle: Decides, picks: PickSet, report: UnpickReport) -> PickSet:
    """Return the picks that the report keeps, as a set of kind Unpicked."""
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
    notes = (*report.notes, *(d.note() for d in report.decisions), *(f"not scored: {e}" for e in report.failed))
    return _subset(bundle, picks, scores, keep, f"un-picked at {limit:.3f}", suffix="", counts=counts, notes=notes)


def doubtful_picks(bundle: Decides, picks: PickSet, report: UnpickReport) -> PickSet:
    """Return the doubtful picks, kept or not, as a set of its own for a person to look at."""
    scores = scores_of(picks, report.scored)
    return _subset(bundle, picks, scores, is_doubtful(scores), "doubtful picks", suffix="doubtful", counts={}, notes=())


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
            job_type="cryoflow.unpicker",
            output_group=source.entry_name,
            suffix=suffix,
            title=f"{source.entry_name} {title}",
        ),
        picks=picks.picks.drop(columns="label", errors="ignore").assign(score=scores)[keep].reset_index(drop=True),
        diameter_A=picks.diameter_A or bundle.diameter_A,
        score_kind=SCORE_KIND,
        counts=counts,
        notes=(*picks.notes, *notes),
    )


def unpick_star_folder(
    bundle: ModelBundle,
    folder: Path,
    output: Path,
    *,
    suffix: str = "_autopick",
    unpick_suffix: str = "_autopick_unpick",
    scored_suffix: str | None = None,
    doubtful_suffix: str | None = None,
    diameter_A: float | None = None,
    pixel_size_A: float | None = None,
    micrographs_dir: Path | None = None,
    ctf_star: Path | None = None,
    goal: Goal | None = None,
    threshold: float | None = None,
    orientations: int = 1,
    workers: int | None = None,
    work: Path | None = None,
    n_a_shard: int = 20,
    on_progress: OnProgress | None = None,
    on_scored: OnScored | None = None,
) -> UnpickReport:
    """Score the picks of all STAR files of a folder, and write a file of the rows that are kept, as they were.

    Parameters
    ----------
    output
        Folder that `X<unpick_suffix>.star` is written to.
    scored_suffix
        Where given, `X<scored_suffix>.star` is written too: all rows, with the probability as
        `rlnAutopickFigureOfMerit`, for RELION to display and to cut at any threshold.
    doubtful_suffix
        Where given, `X<doubtful_suffix>.star` is written too: the rows of doubtful picks.
    work
        Folder for the results of shards; None takes `.cryoflow-unpick` in `output`. It is removed at the end.
    on_progress, on_scored
        See `unpick`.

    Raises
    ------
    BadInput
        Where there is no file of picks, or it would be written over.
    """
    from cryoflow.unpicker.unpick_shards import score_all

    written = tuple(s for s in (unpick_suffix, scored_suffix, doubtful_suffix) if s is not None)
    refuse_overwriting(folder, output, read=(suffix,), written=written)
    found, bad = read_star_folder(
        folder,
        suffix,
        diameter_A=diameter_A or bundle.diameter_A,
        pixel_size_A=pixel_size_A,
        micrographs_dir=micrographs_dir,
        ctf_star=ctf_star,
    )
    micrographs = [p.micrograph for p in found]
    require_ctf(bundle.preprocessing, micrographs)
    work = work or output / WORK
    results = score_all(
        bundle,
        micrographs,
        work,
        "picks",
        n_a_shard=n_a_shard,
        orientations=orientations,
        workers=workers,
        on_progress=on_progress,
    )
    sources = {id(p.micrograph): p for p in found}

    def write(result: Result) -> None:
        if isinstance(result, ScoredMicrograph):
            picks = sources[id(result.micrograph)]
            _write_star(picks, result, output, unpick_suffix, scored_suffix, doubtful_suffix)
        if on_scored:
            on_scored(result)

    report = _report(bundle, [*bad, *results], _goal(goal, threshold), (), write)
    if work == output / WORK:
        remove_folder(work)
    return report


WORK = ".cryoflow-unpick"
"""Folder of finished shards in the output of un-picking STAR files, while it is not finished."""


def _write_star(
    picks: StarPicks,
    scored: ScoredMicrograph,
    output: Path,
    unpick_suffix: str,
    scored_suffix: str | None,
    doubtful_suffix: str | None,
) -> None:
    name = scored.micrograph.name
    write_atomically(output / f"{name}{suffix_of(unpick_suffix)}", _encoded(picks.rows.where(scored.kept)))
    if scored_suffix is not None:
        values = [f"{p:.6f}" for p in scored.probabilities]
        write_atomically(output / f"{name}{suffix_of(scored_suffix)}", _encoded(picks.rows.with_column(FOM, values)))
    if doubtful_suffix is not None:
        write_atomically(output / f"{name}{suffix_of(doubtful_suffix)}", _encoded(picks.rows.where(scored.doubtful)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
