"""The steps of an improvement with a real picker: its programs pick and train, an un-picker or other pickers clean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor, OnLine
from cryoflow.learning.picks_scorer import Clean, on_micrographs, picks_per_micrograph
from cryoflow.pickers.comparing.consensus import labels_by_agreement
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.run_picker import pick
from cryoflow.pickers.running.train_and_pick import export_and_train
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import PickSet


@dataclass(frozen=True)
class PickerSteps:
    """One picker on the micrographs of one set; see `cryoflow.learning.improve.ImproveSteps`.

    Attributes
    ----------
    source
        Micrographs to pick; its picks are not used.
    model
        The base model, a file or a name; "" where `entry` has the first picks.
    entry
        The first picks.
    clean
        Returns the picks that are particles.
    selected
        Picks that a 2D classification kept, by round from the first; other rounds are cleaned.
    agreeing
        Other pickers and their models; the first round learns from the picks on which `at_least` agree.
    """

    picker: str
    source: PickSet
    diameter_A: float
    executor: Executor
    clean: Clean
    model: str = ""
    entry: PickSet | None = None
    selected: Sequence[PickSet] = ()
    agreeing: Mapping[str, str] = field(default_factory=dict)
    at_least: int = 2
    settings: Mapping[str, object] = field(default_factory=dict)
    validation: float = 0.2
    seed: int = 0
    executors: Mapping[str, Executor] = field(default_factory=dict)
    """Of the agreeing pickers, where they run elsewhere than the improved one."""
    on_line: OnLine | None = None

    def first(self, folder: Path) -> tuple[str, PickSet]:
        """Return the base model, and its picks; or no model, and the picks of an entry."""
        if self.entry is not None:
            return "", on_micrographs(self.entry, self.source.micrographs["name"])
        return self.model, self.pick(self.model, folder / "picked", "round0")

    def pick(self, model: str, folder: Path, name: str) -> PickSet:
        """Pick all micrographs with a model; all picks are returned, however low their score."""
        return self._picked(self.picker, model, folder, name)

    def labels(self, number: int, picks: PickSet, folder: Path) -> PickSet:
        """Return picks with labels: of a 2D selection, of several pickers, or of the un-picker.

        Candidates that are not kept have the label 0, not known: an un-picker's mistakes must not become truth.
        """
        names = picks.micrographs["name"]
        if number <= len(self.selected):
            kept = on_micrographs(self.selected[number - 1], names)
            if not len(kept):
                raise BadInput(
                    self.selected[number - 1].provenance.entry_name,
                    "has no picks on the micrographs that this run learns from.",
                )
            return _labeled(kept, np.ones(len(kept), bool))
        if number == 1 and self.agreeing:
            sets = [self.candidates(number, picks)]
            for other, model in self.agreeing.items():
                found = self._picked(other, model, folder / "agreeing" / other, f"agreeing-{other}", threshold=True)
                sets.append(on_micrographs(found, names))
            return labels_by_agreement(
                sets, at_least=self.at_least, diameter_A=self.diameter_A, name=f"improve-{self.picker}"
            )
        candidates = self.candidates(number, picks)
        return _labeled(candidates, _in(candidates, self.clean(candidates)))

    def train(self, labels: PickSet, folder: Path) -> str:
        """Train from the picker's base and return the model; a training that came to its end is not repeated."""
        _, trained = export_and_train(
            self.picker,
            [labels],
            folder,
            self.executor,
            diameter_A=self.diameter_A,
            split=Fractions(self.validation),
            seed=self.seed,
            settings=self.settings,
            on_line=self.on_line,
        )
        assert trained.model is not None  # no script was asked for
        return str(trained.model)

    def _picked(self, name: str, model: str, folder: Path, run: str, *, threshold: bool = False) -> PickSet:
        done = pick(
            name,
            model,
            [self.source],
            folder,
            self.executors.get(name, self.executor),
            name=run,
            diameter_A=self.diameter_A,
            keep_all=not threshold,
            overwrite=True,
            on_line=self.on_line,
        )
        return done.picksets[0]

    def candidates(self, number: int, picks: PickSet) -> PickSet:
        """Return the picks above the picker's threshold; those of an entry were chosen before."""
        if "score" not in picks.picks or (number == 1 and self.entry is not None):
            return picks
        scores = picks.picks["score"].to_numpy(np.float64)
        least = picker(self.picker).threshold_of(scores)
        return picks if least is None else picks.where(scores >= least)


def _labeled(picks: PickSet, positive: npt.NDArray[np.bool_]) -> PickSet:
    return replace(picks, picks=picks.picks.assign(label=positive.astype(np.int8)))


def _in(picks: PickSet, kept: PickSet) -> npt.NDArray[np.bool_]:
    """Return which picks of a set are in another one that was taken from it, (n,) bool."""
    there = set(zip(_names(kept), kept.picks["x_px"], kept.picks["y_px"], strict=True))
    rows = zip(_names(picks), picks.picks["x_px"], picks.picks["y_px"], strict=True)
    return np.array([row in there for row in rows], bool)


def _names(picks: PickSet) -> list[str]:
    per = picks_per_micrograph(picks)
    return [name for name, n in per.items() for _ in range(n)]
