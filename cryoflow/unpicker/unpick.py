"""Un-picking: score the picks of many micrographs with a model, and keep those above its threshold.

Micrographs are read and cut in threads while the network looks at the ones before; a few are in memory at a time, so
that neither memory nor the time of one grows with their number.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.scratch import local_copy
from cryoflow.picks import Kind, PickSet
from cryoflow.preparation.patches import Patches, load_patches, require_ctf
from cryoflow.preparation.picked import PickedMicrograph, picked_micrographs
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.star_folder import StarPicks, read_star_folder, refuse_overwriting, suffix_of
from cryoflow.unpicker.star_rows import FOM

log = logging.getLogger(__name__)

SCORE_KIND = "cryoflow/probability"


@dataclass(frozen=True)
class ScoredMicrograph:
    """A micrograph whose picks were scored.

    Attributes
    ----------
    probabilities : (n,) float
        That each pick is right, in their order.
    kept : (n,) bool
        Those of at least the threshold.
    """

    micrograph: PickedMicrograph
    probabilities: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]

    def __str__(self) -> str:
        n, all_ = int(self.kept.sum()), len(self.kept)
        return f"{self.micrograph.name}: kept {n}/{all_} ({n / max(all_, 1):.1%})".replace("%)", " %)")


@dataclass(frozen=True)
class UnpickReport:
    """What came of un-picking: one entry a micrograph, and what could not be scored."""

    scored: tuple[ScoredMicrograph, ...]
    failed: tuple[BadInput, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_picks(self) -> int:
        """ScoredMicrograph."""
        return sum(len(j.kept) for j in self.scored)

    @property
    def n_kept(self) -> int:
        """Of them."""
        return sum(int(j.kept.sum()) for j in self.scored)


OnScored = Callable[[ScoredMicrograph | BadInput], None]


def score(
    bundle: ModelBundle,
    micrographs: Iterable[PickedMicrograph],
    *,
    threshold: float | None = None,
    orientations: int = 1,
    workers: int | None = None,
) -> Iterator[ScoredMicrograph | BadInput]:
    """Score the picks of micrographs one by one, in their order.

    Parameters
    ----------
    threshold
        None takes the model's.
    orientations
        1, 2, 4 or 8: the mean over so many views of each box, a little better and as many times slower.
    workers
        Micrographs prepared at a time; None takes as many as there are cores, at most 8.

    Yields
    ------
    What was scored, or the error that tells why a micrograph could not be.
    """
    from cryoflow.system.cpus import available_cpus

    limit = bundle.threshold if threshold is None else threshold
    network = bundle.network  # built before the threads start
    assert network is not None
    n_workers = workers or min(8, available_cpus())

    def patches_of(micrograph: PickedMicrograph) -> Patches | BadInput:
        try:
            with local_copy(micrograph.path) as path:
                return load_patches(bundle.preprocessing, replace(micrograph, path=path))
        except BadInput as error:
            return error
        except OSError as error:
            return BadInput(micrograph.path, f"cannot be read: {error.strerror or error}.")

    def finished(micrograph: PickedMicrograph, boxes: Patches | BadInput) -> ScoredMicrograph | BadInput:
        if isinstance(boxes, BadInput):
            return boxes
        probabilities = bundle.probabilities(boxes, orientations=orientations)
        return ScoredMicrograph(micrograph, probabilities, probabilities >= limit)

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


def unpick(
    bundle: ModelBundle,
    picks: PickSet,
    *,
    threshold: float | None = None,
    orientations: int = 1,
    workers: int | None = None,
    on_scored: OnScored | None = None,
) -> tuple[PickSet, UnpickReport]:
    """Judge the picks of a pick set and keep the right ones.

    Returns
    -------
    kept : PickSet
        Of kind Unpicked, with the probability as `score`. Picks on micrographs that could not be scored are left out;
        `counts["not_scored"]` is their number.
    report : UnpickReport
    """
    micrographs, notes = picked_micrographs(picks, diameter_A=bundle.diameter_A)
    require_ctf(bundle.preprocessing, micrographs)
    report = _collect(
        score(bundle, micrographs, threshold=threshold, orientations=orientations, workers=workers), on_scored, notes
    )
    scores = scores_of(picks, report.scored)
    return keep_above(bundle, picks, scores, threshold=threshold, notes=report.notes, failed=report.failed), report


def scores_of(picks: PickSet, scored: Sequence[ScoredMicrograph]) -> npt.NDArray[np.float64]:
    """The probability of each pick of a set, (n,); NaN on micrographs that were not scored."""
    row_of = {name: i for i, name in enumerate(picks.micrographs["name"])}
    offsets = picks.offsets
    scores = np.full(len(picks), np.nan)
    for one in scored:
        i = row_of[one.micrograph.name]
        scores[offsets[i] : offsets[i + 1]] = one.probabilities
    return scores


def keep_above(
    bundle: ModelBundle,
    picks: PickSet,
    scores: npt.NDArray[np.float64],
    *,
    threshold: float | None = None,
    notes: Sequence[str] = (),
    failed: Sequence[BadInput] = (),
) -> PickSet:
    """The picks of at least the threshold (None takes the model's), as a set of kind UnpickReport."""
    limit = bundle.threshold if threshold is None else threshold
    with np.errstate(invalid="ignore"):
        keep = scores >= limit
    counts = {**picks.counts, "removed": int((np.isfinite(scores) & ~keep).sum())}
    if lost := int(np.isnan(scores).sum()):
        counts["not_scored"] = lost
    source = picks.provenance
    return replace(
        picks,
        provenance=replace(
            source,
            program="cryoflow",
            kind=Kind.UNPICKED,
            job_type="cryoflow.unpicker",
            output_group=source.entry_name,
            suffix="",
            title=f"{source.entry_name} un-picked at {limit:.3f}",
        ),
        picks=picks.picks.drop(columns="label", errors="ignore").assign(score=scores)[keep].reset_index(drop=True),
        diameter_A=picks.diameter_A or bundle.diameter_A,
        score_kind=SCORE_KIND,
        counts=counts,
        notes=(*picks.notes, *notes, *(f"not scored: {e}" for e in failed)),
    )


def unpick_star_folder(
    bundle: ModelBundle,
    folder: Path,
    output: Path,
    *,
    suffix: str = "_autopick",
    unpick_suffix: str = "_autopick_unpick",
    scored_suffix: str | None = None,
    diameter_A: float | None = None,
    pixel_size_A: float | None = None,
    micrographs_dir: Path | None = None,
    ctf_star: Path | None = None,
    threshold: float | None = None,
    orientations: int = 1,
    workers: int | None = None,
    on_scored: OnScored | None = None,
) -> UnpickReport:
    """Judge all STAR files of a folder, and write beside each other the rows that are kept, as they were.

    Parameters
    ----------
    output
        Folder that `X<unpick_suffix>.star` is written to.
    scored_suffix
        Where given, `X<scored_suffix>.star` is written too: all rows, with the probability as
        `rlnAutopickFigureOfMerit`, for RELION to display and to cut at any threshold.

    Raises
    ------
    BadInput
        Where there is no file of picks, or it would be written over.
    """
    written = (unpick_suffix,) if scored_suffix is None else (unpick_suffix, scored_suffix)
    refuse_overwriting(folder, output, read=(suffix,), written=written)
    found, bad = read_star_folder(
        folder,
        suffix,
        diameter_A=diameter_A or bundle.diameter_A,
        pixel_size_A=pixel_size_A,
        micrographs_dir=micrographs_dir,
        ctf_star=ctf_star,
    )
    require_ctf(bundle.preprocessing, [p.micrograph for p in found])
    sources = {id(p.micrograph): p for p in found}

    def write(scored: ScoredMicrograph | BadInput) -> None:
        if isinstance(scored, ScoredMicrograph):
            _write_star(sources[id(scored.micrograph)], scored, output, unpick_suffix, scored_suffix)
        if on_scored:
            on_scored(scored)

    for error in bad:
        write(error)
    results = score(
        bundle, [p.micrograph for p in found], threshold=threshold, orientations=orientations, workers=workers
    )
    report = _collect(results, write, ())
    return replace(report, failed=(*bad, *report.failed))


def _collect(
    results: Iterable[ScoredMicrograph | BadInput], on_scored: OnScored | None, notes: Sequence[str]
) -> UnpickReport:
    scored: list[ScoredMicrograph] = []
    failed: list[BadInput] = []
    for result in results:
        if isinstance(result, BadInput):
            failed.append(result)
        else:
            scored.append(result)
        if on_scored:
            on_scored(result)
    return UnpickReport(tuple(scored), tuple(failed), tuple(notes))


def _write_star(
    picks: StarPicks, scored: ScoredMicrograph, output: Path, unpick_suffix: str, scored_suffix: str | None
) -> None:
    name = scored.micrograph.name
    write_atomically(output / f"{name}{suffix_of(unpick_suffix)}", _encoded(picks.rows.where(scored.kept)))
    if scored_suffix is not None:
        values = [f"{p:.6f}" for p in scored.probabilities]
        write_atomically(output / f"{name}{suffix_of(scored_suffix)}", _encoded(picks.rows.with_column(FOM, values)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogateescape")
