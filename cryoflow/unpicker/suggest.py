"""Which micrographs to clean by hand next: those that the model is least sure of, spread over the defocus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.model_manifest import ManifestRow
from cryoflow.unpicker.scoring import ScoredMicrograph


@dataclass(frozen=True)
class Suggestion:
    """A micrograph, and why cleaning it would teach much.

    Attributes
    ----------
    n_doubtful
        Picks whose probability lies in the doubtful band.
    n_errors
        Expected number of wrong decisions.
    defocus_gap_A
        How far its defocus is from any that was learned from; 0 where unknown.
    """

    name: str
    data_set: str
    n_picks: int
    n_kept: int
    n_doubtful: int
    n_errors: float
    defocus_A: float
    defocus_gap_A: float
    why: str


def suggest(bundle: ModelBundle, scored: Sequence[ScoredMicrograph], *, number: int = 5) -> tuple[Suggestion, ...]:
    """Return the micrographs whose hand-cleaning would teach most, best first.

    A pick of probability p will be scored wrongly with min(p, 1 - p); the sum over a micrograph is its expected
    number of mistakes. Micrographs whose defocus the training did not cover count up to twice as much. Those
    that have labels already (`not_cleaned`) are left out, and each one chosen makes its neighbors in defocus count
    less.
    """
    free = {id(m) for m in not_cleaned(bundle, [j.micrograph for j in scored])}
    open_ = [j for j in scored if id(j.micrograph) in free and len(j.kept)]
    trained = np.array([r.defocus_A for r in bundle.manifest if r.part == "train" and np.isfinite(r.defocus_A)])
    doubt = np.array([float(np.minimum(j.probabilities, 1 - j.probabilities).sum()) for j in open_])
    defocus = np.array([j.micrograph.defocus_A for j in open_])
    gaps = np.array([float(np.abs(trained - d).min()) if len(trained) and np.isfinite(d) else 0.0 for d in defocus])
    worth = doubt * (1 + np.minimum(gaps / 5000, 1))
    chosen: list[int] = []
    while len(chosen) < min(number, len(open_)):
        best = int(np.argmax(worth))
        chosen.append(best)
        with np.errstate(invalid="ignore"):
            near = np.abs(defocus - defocus[best]) < 2000
        worth = np.where(near, worth * 0.7, worth)
        worth[best] = -np.inf
    return tuple(
        Suggestion(
            name=open_[i].micrograph.name,
            data_set=open_[i].micrograph.data_set,
            n_picks=len(open_[i].kept),
            n_kept=int(open_[i].kept.sum()),
            n_doubtful=int(open_[i].doubtful.sum()),
            n_errors=round(float(doubt[i]), 2),
            defocus_A=float(defocus[i]),
            defocus_gap_A=float(gaps[i]),
            why=_sentence(open_[i], float(doubt[i]), float(gaps[i])),
        )
        for i in chosen
    )


def _sentence(scored: ScoredMicrograph, n_errors: float, gap_A: float) -> str:
    n, n_doubtful = len(scored.kept), int(scored.doubtful.sum())
    are = "is" if n_doubtful == 1 else "are"
    text = f"{n_doubtful} of its {n} picks {are} doubtful, and about {n_errors:.0f} would be decided wrongly"
    if gap_A > 1000:
        text += f"; its defocus is {gap_A / 1e4:.1f} um from that of any micrograph the model learned from"
    return f"{text}."


def not_cleaned(bundle: ModelBundle, micrographs: Sequence[PickedMicrograph]) -> list[PickedMicrograph]:
    """Return those that a model has no labels of, or only a test micrograph's with picks that are not known.

    A micrograph is known by its name; one of a data set that the model was not trained on, by its content.
    """
    cleaned = [r for r in bundle.manifest if not _is_open(r)]
    names, contents = {(r.data_set, r.name) for r in cleaned}, {r.content for r in cleaned}
    data_sets = {r.data_set for r in bundle.manifest}

    def is_cleaned(m: PickedMicrograph) -> bool:
        if m.data_set in data_sets:
            return (m.data_set, m.name) in names
        return m.path.is_file() and checksum(m.path) in contents

    return [m for m in micrographs if not is_cleaned(m)]


def _is_open(row: ManifestRow) -> bool:
    """Return whether cleaning adds information: a refinement leaves the picks that it dropped unlabeled."""
    return row.part == "test" and row.n_unlabeled > 0
