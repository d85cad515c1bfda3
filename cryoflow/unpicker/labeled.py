"""Labeled micrographs of one or more projects, and their split into train, validation and test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.duplicate_files import leaders
from cryoflow.picks import PickSet, require_confirmed
from cryoflow.preparation.picked_micrograph import NEGATIVE, POSITIVE, UNLABELED, PickedMicrograph, picked_micrographs
from cryoflow.storage.fingerprints import Fingerprint

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class LabeledSet:
    """Labeled micrographs of one or more data sets, each with its own pixel size and particle diameter."""

    micrographs: tuple[PickedMicrograph, ...]
    notes: tuple[str, ...] = ()

    @classmethod
    def from_picks(cls, picksets: PickSet | Iterable[PickSet], *, diameter_A: float | None = None) -> LabeledSet:
        """Return the labeled micrographs of pick sets that have a `label` column.

        Parameters
        ----------
        diameter_A
            Particle diameter where a pick set does not know its own.

        Raises
        ------
        BadInput
            Where picks have no labels, or are unconfirmed (`picks.require_confirmed`).
        """
        sets = [picksets] if isinstance(picksets, PickSet) else list(picksets)
        micrographs: list[PickedMicrograph] = []
        notes: list[str] = []
        for picks in sets:
            if "label" not in picks.picks.columns:
                raise BadInput(
                    picks.provenance.project,
                    f"the picks of {picks.provenance.entry_name} have no labels.",
                    "Label them first (cryoflow unpicker label).",
                )
            require_confirmed(picks)
            found, more = picked_micrographs(picks, diameter_A=diameter_A)
            micrographs += found
            notes += more
        return cls(tuple(micrographs), tuple(notes))

    def without_held_out(self, registries: Sequence[Path]) -> LabeledSet:
        """Return the set without micrographs that a model of some folders of models holds out."""
        from cryoflow.models.held_out import without_held_out

        return replace(self, micrographs=tuple(without_held_out(self.micrographs, lambda m: m.path, registries)))

    def __add__(self, other: LabeledSet) -> LabeledSet:
        return LabeledSet(self.micrographs + other.micrographs, self.notes + other.notes)

    def count(self, label: int) -> int:
        """Return number of picks with a label."""
        return sum(m.count(label) for m in self.micrographs)

    def check(self) -> None:
        """Refuse what cannot be learned from.

        Raises
        ------
        BadInput
            Where there are no positives, neither negatives nor unlabeled picks, or two micrographs of one name.
        """
        where = self.micrographs[0].path.parent if self.micrographs else Path()
        positives, negatives, unknown = (self.count(label) for label in (POSITIVE, NEGATIVE, UNLABELED))
        if not positives:
            raise BadInput(
                where,
                f"no pick is positive ({negatives} negative, {unknown} unlabeled).",
                "Training needs examples of both kinds.",
            )
        if not negatives and not unknown:
            raise BadInput(
                where,
                f"all {positives} picks are positive: one class only.",
                "Add the picks that were removed, or the unlabeled picks of the autopick job.",
            )
        twice = [name for name, n in Counter(m.key for m in self.micrographs).items() if n > 1]
        if twice:
            raise BadInput(where, f"{len(twice)} micrographs are in the training set twice ({twice[0]}, ...).")


@dataclass(frozen=True)
class Split:
    """Micrographs for training, for validation and for the test."""

    train: tuple[PickedMicrograph, ...]
    validation: tuple[PickedMicrograph, ...]
    test: tuple[PickedMicrograph, ...]

    def parts(self) -> tuple[tuple[str, tuple[PickedMicrograph, ...]], ...]:
        """Return the three parts with their names."""
        return ("train", self.train), ("validation", self.validation), ("test", self.test)


def split_by_micrograph(
    training_set: LabeledSet, *, validation: float = 0.2, test: float = 0.2, seed: int = 0
) -> Split:
    """Divide the micrographs of each data set, evenly over the defocus.

    Micrographs of a data set are put in order of defocus and drawn from neighbors, so that each part sees the whole
    range. Validation and test each get at least one micrograph of a set of three or more; a test share of 0 is heeded.
    Copies of one micrograph, in whatever data sets, go to one part.

    Raises
    ------
    BadInput
        Where fewer than two micrographs carry labels, or the two shares leave nothing to learn from.
    """
    usable = [m for m in training_set.micrographs if len(m.labels)]
    if usable and validation + test >= 1:
        raise BadInput(
            usable[0].path.parent,
            f"shares of {validation:g} for validation and {test:g} for the test leave nothing to learn from.",
            "Give smaller ones.",
        )
    if len(usable) < 2:
        where = training_set.micrographs[0].path if training_set.micrographs else Path()
        raise BadInput(where, f"{len(usable)} micrograph with picks: training needs two at the very least.")
    part_of: dict[str, str] = {}
    for data_set in sorted({m.data_set for m in usable}):
        members = sorted((m for m in usable if m.data_set == data_set), key=lambda m: m.key)
        rng = np.random.default_rng([seed, *data_set.encode()])
        order = rng.permutation(len(members))
        defocus = np.array([members[i].defocus_A for i in order])
        order = order[np.argsort(defocus, kind="stable")]
        wanted = {
            "test": _share(len(members), test, 3),
            "validation": _share(len(members), validation, 2),
        }
        names = np.array(["train"] * len(members), dtype=object)
        for part, number in wanted.items():
            free = np.flatnonzero(names == "train")
            names[free[_spread(len(free), number, rng)]] = part
        part_of |= {members[i].key: str(part) for i, part in zip(order, names, strict=True)}
    ordered = sorted(usable, key=lambda m: m.key)
    leader = leaders([m.path for m in ordered], [m.data_set for m in ordered])
    drawn = [part_of[ordered[i].key] for i in leader]
    members_of = {name: tuple(m for m, part in zip(ordered, drawn, strict=True) if part == name) for name in PARTS}
    return Split(**members_of)


def balanced_draw(
    micrographs: Sequence[PickedMicrograph], n_positive: int, *, seed: int = 0
) -> tuple[PickedMicrograph, ...]:
    """Return at most `n_positive` positives, drawn evenly over the defocus, and as large a share of the others.

    Micrographs of unknown defocus make one bin of their own. Other picks are thinned by the same share, so that the
    balance of positives and negatives stays as it was.
    """
    rng = np.random.default_rng(seed)
    total = sum(m.count(POSITIVE) for m in micrographs)
    if total <= n_positive:
        return tuple(micrographs)
    defocus = np.array([m.defocus_A for m in micrographs])
    groups = _defocus_bins(defocus, 8)
    owners = [(i, j) for i, m in enumerate(micrographs) for j in np.flatnonzero(m.labels == POSITIVE)]
    pools = [rng.permutation([k for k, (i, _) in enumerate(owners) if groups[i] == g]) for g in np.unique(groups)]
    chosen: list[int] = []
    for depth in range(max(map(len, pools))):
        chosen += [int(pool[depth]) for pool in pools if depth < len(pool)]
        if len(chosen) >= n_positive:
            break
    keep = [m.labels != POSITIVE for m in micrographs]
    for k in chosen[:n_positive]:
        i, j = owners[k]
        keep[i][j] = True
    share = n_positive / total
    for i, m in enumerate(micrographs):
        others = np.flatnonzero(m.labels != POSITIVE)
        keep[i][others] = False
        keep[i][rng.permutation(others)[: round(share * len(others))]] = True
    thinned = (
        replace(m, centers_xy_px=m.centers_xy_px[k], labels=m.labels[k]) for m, k in zip(micrographs, keep, strict=True)
    )
    return tuple(m for m in thinned if len(m.labels))


def fingerprint(micrographs: Iterable[PickedMicrograph]) -> str:
    """Return a hash of names, positions, labels and scales: what changes where the training set does."""
    found = Fingerprint()
    for m in micrographs:
        found.add(f"{m.key}\0{m.pixel_size_A:.6g}\0{m.diameter_A:.6g}\0")
        found.add(np.ascontiguousarray(m.centers_xy_px, "<f8").data, np.ascontiguousarray(m.labels, "i1").data)
    return found.digits


def _share(n: int, share: float, least: int) -> int:
    if share <= 0 or n < least:
        return 0
    return max(1, min(round(share * n), n - 2 if least == 3 else n - 1))


def _spread(n: int, number: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """Return `number` of `n` places, one at random from each of `number` equal stretches."""
    edges = np.linspace(0, n, number + 1).astype(int)
    return np.array([rng.integers(a, b) for a, b in pairwise(edges)], dtype=np.intp)


def _defocus_bins(defocus_A: npt.NDArray[np.float64], bins: int) -> npt.NDArray[np.intp]:
    known = np.isfinite(defocus_A)
    groups = np.full(len(defocus_A), -1, np.intp)
    if known.any():
        edges = np.linspace(defocus_A[known].min(), defocus_A[known].max(), bins + 1)[1:-1]
        groups[known] = np.digitize(defocus_A[known], edges)
    return groups
