"""What an update needs of a network: where its labels are, how it prepares, learns and is scored."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryoflow.errors import BadInput
from cryoflow.learning.item_rules import ItemRule
from cryoflow.learning.items import Item, Piece
from cryoflow.models.card import ModelKind
from cryoflow.models.gate import MicrographCounts

Say = Callable[[str], None]
LEAST_SIGMA = 2.0
"""Labels fit the pixels where they match by so many standard deviations more than labels that mean nothing."""


@dataclass(frozen=True)
class Source:
    """A project with labels.

    Attributes
    ----------
    fingerprint
        Of its labels: another one means that the project has changed.
    paths
        Its micrographs by name; the most that an update learns from.
    """

    project: str
    entries: tuple[str, ...]
    fingerprint: str
    diameter_A: float
    n_picks: int
    paths: Mapping[str, Path]


@dataclass(frozen=True)
class LabelFit:
    """Number of picks of a model that match the labels as given, and labels that mean nothing.

    Attributes
    ----------
    given
        Matches with the labels.
    otherwise
        Most matches with the same labels in another orientation (axes swapped, mirrored), or those expected by chance.
    variance
        Of the difference; None takes that of two independent counts.
    """

    given: int
    otherwise: int
    variance: float | None = None

    @property
    def sigma(self) -> float:
        """Return the difference in standard deviations of a count."""
        variance = self.given + self.otherwise if self.variance is None else self.variance
        return (self.given - self.otherwise) / math.sqrt(max(variance, 1))


class Learner(Protocol):
    """One kind of network."""

    kind: ModelKind
    rule: ItemRule

    @property
    def recipe(self) -> str:
        """Return a fingerprint of what decides the result, besides labels and micrographs."""

    @property
    def measure(self) -> str:
        """Return what `count` depends on besides model and item; counts of another measure are not compared."""

    def base(self) -> Path | None:
        """Return the model that joint training starts from; None starts from random weights."""

    def learned_by(self, model: Path) -> frozenset[str]:
        """Return the contents of the micrographs that a model lists as learned from; versions list theirs apart."""

    def sources(self) -> tuple[list[Source], list[str]]:
        """Return all projects with labels, and why others have none."""

    def prepare(
        self, source: Source, wanted: Mapping[str, str], folder: Path, *, held_out: bool = False
    ) -> tuple[list[Item], list[BadInput]]:
        """Prepare some micrographs (name -> content) with their labels; those done before are not done again.

        Parameters
        ----------
        held_out
            Whether they are only scored: views that only a training reads are not made.
        """

    def exemplars(self, items: Sequence[Item]) -> list[Piece]:
        """Choose what is kept of a project."""

    def train(
        self, start: Path | None, new: Sequence[Item], kept: Sequence[Item], work: Path, *, joint: bool, say: Say
    ) -> Path:
        """Train, or go on with a training that was stopped, and return the folder of the model.

        Parameters
        ----------
        joint
            Whether all projects count alike, and longer training from the base model is wanted.
        """

    def count(self, model: Path, items: Sequence[Item]) -> list[MicrographCounts]:
        """Score a model on held-out items, at a fixed number of picks of each."""

    def fit_of(self, model: Path, items: Sequence[Item]) -> LabelFit:
        """Compare the labels of items with ones that mean nothing."""


def names_in_drawn_order(names: Collection[str], project: str, at_most: int) -> list[str]:
    """Return at most so many names, drawn by a hash: a project that grows keeps those of before where it can."""
    from cryoflow.storage.fingerprints import fingerprint_of

    return sorted(sorted(names, key=lambda name: fingerprint_of(f"{project}/{name}"))[:at_most])
