"""Picks against reference picks of the same micrographs: what was found, what was missed, what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.matching import match_picks
from cryoflow.picks import FloatArray, PickSet


@dataclass(frozen=True)
class Compared:
    """One micrograph.

    Attributes
    ----------
    name
        As the picks' project has it.
    n_reference, n_picks, n_matched
        Reference picks, picks, and pairs of them.
    """

    name: str
    n_reference: int
    n_picks: int
    n_matched: int


@dataclass(frozen=True)
class Comparison:
    """All micrographs that both have."""

    entry: str
    micrographs: tuple[Compared, ...]

    @property
    def n_reference(self) -> int:
        """Reference picks."""
        return sum(m.n_reference for m in self.micrographs)

    @property
    def n_picks(self) -> int:
        """Picks that were judged."""
        return sum(m.n_picks for m in self.micrographs)

    @property
    def n_matched(self) -> int:
        """Of them, those that are a reference pick."""
        return sum(m.n_matched for m in self.micrographs)

    @property
    def precision(self) -> float:
        """Share of the picks that are right; NaN where there are none."""
        return self.n_matched / self.n_picks if self.n_picks else float("nan")

    @property
    def recall(self) -> float:
        """Share of the reference that was found; NaN where there is none."""
        return self.n_matched / self.n_reference if self.n_reference else float("nan")


def compare(
    picks: PickSet,
    reference: PickSet,
    *,
    radius: float = 0.25,
    diameter_A: float | None = None,
    only: Collection[str] | None = None,
) -> Comparison:
    """Match picks with reference picks, one to one, on every micrograph that both have.

    Parameters
    ----------
    radius
        A pick is right within so many particle diameters of a reference pick.
    diameter_A
        None takes the reference's, then the picks'.
    only
        Names of the micrographs to count; None counts all.

    Raises
    ------
    MissingMetadata
        Where the diameter or a pixel size is not known.
    BadInput
        Where they have no micrograph in common.
    """
    entry = f"{picks.provenance.project_name}/{picks.provenance.entry_name}"
    diameter = diameter_A or reference.diameter_A or picks.diameter_A
    if diameter is None:
        raise MissingMetadata(entry, "the particle diameter is not known.", "Give it in angstrom.")
    compared = []
    for i, j in same_micrographs(picks, reference):
        row = picks.micrographs.iloc[i]
        if only is not None and row["name"] not in only:
            continue
        size = row["pixel_size_A"]
        if not np.isfinite(size):
            raise MissingMetadata(entry, f"the pixel size of {row['name']} is not known.")
        right, found = centers_of(reference, j), centers_of(picks, i)
        pairs = match_picks(right, found, radius * diameter / size)
        compared.append(Compared(str(row["name"]), len(right), len(found), len(pairs.pick)))
    if not compared:
        raise BadInput(entry, "has no micrograph in common with the reference.")
    return Comparison(entry, tuple(compared))


def same_micrographs(picks: PickSet, reference: PickSet) -> Iterator[tuple[int, int]]:
    """Rows of the micrographs that both have: the same file where both were found, else the same name."""
    row_of: dict[str, int] = {}
    for j, (name, file) in enumerate(_names_and_files(reference)):
        row_of.setdefault(name, j)
        if file:
            row_of[file] = j
    for i, (name, file) in enumerate(_names_and_files(picks)):
        there = row_of.get(file, row_of.get(name))
        if there is not None:
            yield i, there


def _names_and_files(picks: PickSet) -> Iterator[tuple[str, str]]:
    """Each micrograph's name and its real file, empty where it is missing."""
    for name, path in zip(picks.micrographs["name"], picks.micrographs["path"], strict=True):
        yield str(name), "" if path is None else str(Path(path).resolve())


def centers_of(picks: PickSet, micrograph: int) -> FloatArray:
    """Positions of the picks of one micrograph, (n, 2), x first."""
    offsets = picks.offsets
    return picks.centers_xy_px[offsets[micrograph] : offsets[micrograph + 1]]
