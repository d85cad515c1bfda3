"""Numbers to trust: how good a model is on micrographs that were used for nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.preparation.calibration import Goal
from cryoflow.preparation.patches import require_ctf
from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED, PickedMicrograph
from cryoflow.preparation.score_metrics import (
    Counts,
    Interval,
    average_precision,
    bootstrap,
    calibration_curve,
    calibration_error,
    precision_recall,
    roc_auc,
)
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.decision import Decision
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.unpicker.scoring import OnScored, ScoredMicrograph, score
from cryoflow.unpicker.unpick import decided

Float = npt.NDArray[np.float64]
_DEFOCUS_STEP_A = 5000.0


@dataclass(frozen=True)
class Row:
    """One line of a table by micrograph or by defocus."""

    name: str
    n: int
    n_positive: int
    n_kept: int
    error: float
    precision: float
    recall: float
    roc_auc: float
    defocus_A: float


@dataclass(frozen=True)
class Evaluation:
    """Measures on test micrographs.

    Attributes
    ----------
    error, roc_auc, average_precision, precision, recall, f1, calibration_error
        With 95 % intervals from a bootstrap over micrographs.
    threshold
        The model's.
    micrographs, defocus
        Tables.
    precision_recall : (2, m) float
        The curve: recall and precision.
    calibration : (3, 10) float
        Mean probability (confidence), share of positives (accuracy) and number in each bin.
    probabilities, positive : (n,)
        Of all picks with a label.
    warnings
        What should be known before the numbers are believed.
    """

    error: Interval
    roc_auc: Interval
    average_precision: Interval
    precision: Interval
    recall: Interval
    f1: Interval
    calibration_error: Interval
    threshold: float
    n_picks: int
    n_positive: int
    micrographs: tuple[Row, ...]
    defocus: tuple[Row, ...]
    precision_recall: Float = field(repr=False)
    calibration: Float = field(repr=False)
    probabilities: Float = field(repr=False)
    positive: npt.NDArray[np.bool_] = field(repr=False)
    scored: tuple[ScoredMicrograph, ...] = field(default=(), repr=False)
    failed: tuple[BadInput, ...] = ()
    decisions: tuple[Decision, ...] = ()
    warnings: tuple[str, ...] = ()

    def numbers(self) -> dict[str, Interval]:
        """Return the measures by name, in the order that they are shown in."""
        names = ("error", "roc_auc", "average_precision", "precision", "recall", "f1", "calibration_error")
        return {name: getattr(self, name) for name in names}


def evaluate(
    bundle: ModelBundle,
    training_set: LabeledSet,
    *,
    orientations: int = 1,
    workers: int | None = None,
    on_scored: OnScored | None = None,
) -> Evaluation:
    """Measure a model on labeled micrographs that it has not seen.

    Micrographs that the model was trained or validated on are left out: those that its manifest names as test are
    taken, and those that it does not name.

    Raises
    ------
    BadInput
        Where no such micrograph is left, or they have labels of one kind only.
    """
    unseen = unseen_micrographs(bundle, [m for m in training_set.micrographs if len(m.labels)])
    where = bundle.folder or "model"
    if not unseen:
        raise BadInput(
            where,
            f"all {len(training_set.micrographs)} micrographs were used in its training.",
            "Label others, or train with a share for the test (--test).",
        )
    require_ctf(bundle.preprocessing, unseen)
    scored: list[ScoredMicrograph] = []
    failed: list[BadInput] = []
    for result in score(bundle, unseen, orientations=orientations, workers=workers):
        if isinstance(result, BadInput):
            failed.append(result)
        else:
            scored.append(result)
        if on_scored:
            on_scored(result)
    if not scored:
        raise failed[0]
    final, decisions = decided(bundle.projects, scored, Goal())
    return measure(final, bundle, decisions=decisions, failed=tuple(failed))


def unseen_micrographs(bundle: ModelBundle, micrographs: Sequence[PickedMicrograph]) -> list[PickedMicrograph]:
    """Return those that are not in the training or validation part of a model, by name or, under another name, by
    content."""
    names = {(r.data_set, r.name) for r in bundle.manifest if r.part != "test"}
    contents = {r.content for r in bundle.manifest if r.part != "test"}
    others = [m for m in micrographs if (m.data_set, m.name) not in names]
    return [m for m in others if not m.path.is_file() or checksum(m.path) not in contents]


def measure(
    scored: Sequence[ScoredMicrograph],
    bundle: ModelBundle,
    *,
    failed: tuple[BadInput, ...] = (),
    decisions: tuple[Decision, ...] = (),
) -> Evaluation:
    """Return all numbers about picks that were scored."""
    labels = np.concatenate([j.micrograph.labels for j in scored])
    probabilities = np.concatenate([j.probabilities for j in scored])
    micrograph = np.repeat(np.arange(len(scored)), [len(j.kept) for j in scored])
    warnings = []
    if (labels == NEGATIVE).any():
        known = labels != UNLABELED
    else:
        known = np.ones(len(labels), bool)
        warnings.append("no pick is labeled wrong: those not known are counted as wrong, so true precision is higher")
    positive, p, m = labels[known] == POSITIVE, probabilities[known], micrograph[known]
    if positive.all() or not positive.any():
        raise BadInput(
            bundle.folder or "model", f"the {len(positive)} test picks are all of one kind: nothing to measure."
        )
    kept = np.concatenate([j.kept for j in scored])[known]

    def interval(measure_one: Callable[[Float], float]) -> Interval:
        return bootstrap(measure_one, m)

    warnings += _coverage(bundle, [j.micrograph for j in scored])
    precision, recall, _ = precision_recall(positive, p)
    return Evaluation(
        error=interval(lambda w: Counts.of(positive, kept, w).error),
        roc_auc=interval(lambda w: roc_auc(positive, p, w)),
        average_precision=interval(lambda w: average_precision(positive, p, w)),
        precision=interval(lambda w: Counts.of(positive, kept, w).precision),
        recall=interval(lambda w: Counts.of(positive, kept, w).recall),
        f1=interval(lambda w: Counts.of(positive, kept, w).f1),
        calibration_error=interval(lambda w: calibration_error(positive, p, w)),
        threshold=bundle.threshold,
        n_picks=len(p),
        n_positive=int(positive.sum()),
        micrographs=tuple(
            _row(scored[i].micrograph.name, positive[m == i], p[m == i], kept[m == i], scored[i].micrograph.defocus_A)
            for i in range(len(scored))
            if (m == i).any()
        ),
        defocus=_by_defocus(scored, positive, p, m, kept),
        precision_recall=np.stack((recall, precision)),
        calibration=np.stack(calibration_curve(positive, p)),
        probabilities=p,
        positive=positive,
        scored=tuple(scored),
        failed=failed,
        decisions=decisions,
        warnings=tuple(warnings),
    )


def _row(name: str, positive: npt.NDArray[np.bool_], p: Float, kept: npt.NDArray[np.bool_], defocus_A: float) -> Row:
    counts = Counts.of(positive, kept)
    return Row(
        name=name,
        n=len(p),
        n_positive=int(positive.sum()),
        n_kept=int(kept.sum()),
        error=counts.error,
        precision=counts.precision,
        recall=counts.recall,
        roc_auc=roc_auc(positive, p),
        defocus_A=float(defocus_A),
    )


def _by_defocus(
    scored: Sequence[ScoredMicrograph],
    positive: npt.NDArray[np.bool_],
    p: Float,
    micrograph: npt.NDArray[np.intp],
    kept: npt.NDArray[np.bool_],
) -> tuple[Row, ...]:
    """Return one row each half micrometre; micrographs of unknown defocus are left out."""
    defocus = np.array([j.micrograph.defocus_A for j in scored])
    with np.errstate(invalid="ignore"):
        bins = np.floor(defocus / _DEFOCUS_STEP_A)
    rows = []
    for b in np.unique(bins[np.isfinite(bins)]):
        these = np.isin(micrograph, np.flatnonzero(bins == b))
        if these.any():
            name = f"{b * _DEFOCUS_STEP_A / 1e4:.1f} to {(b + 1) * _DEFOCUS_STEP_A / 1e4:.1f} um"
            rows.append(_row(name, positive[these], p[these], kept[these], (b + 0.5) * _DEFOCUS_STEP_A))
    return tuple(rows)


def _coverage(bundle: ModelBundle, micrographs: Sequence[PickedMicrograph]) -> list[str]:
    """Return a warning where the defocus of the data goes beyond that of the labels by more than a tenth of a
    micrometre."""
    low, high = bundle.defocus_range_A
    defocus = np.array([m.defocus_A for m in micrographs])
    known = defocus[np.isfinite(defocus)]
    if not len(known) or not np.isfinite(low):
        return []
    beyond = int(((known < low - 1000) | (known > high + 1000)).sum())
    if not beyond:
        return []
    return [
        f"{beyond} of {len(known)} micrographs have a defocus outside {low / 1e4:.1f} to {high / 1e4:.1f} um, which "
        "the labels cover: label some there"
    ]


def coverage_warnings(bundle: ModelBundle, micrographs: Sequence[PickedMicrograph]) -> list[str]:
    """Return what to say before a model is used on micrographs whose defocus it was not trained at."""
    return _coverage(bundle, micrographs)
