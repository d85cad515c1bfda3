"""Improve a picker without labels of its own: pick, clean the picks, train on them, and keep the model if it is better.

    FOLDER/improve.json           the rounds that are done; a stopped run goes on behind them
    FOLDER/picks/                 database of the picks of each round
    FOLDER/round1/training/       training set and model of a round
    FOLDER/round1/picked/         output of the picker

Round 0 is the base model. Each later round labels the micrographs by the cleaned picks of the best model so far, trains
the picker from its base again (a model trained from its own successor compounds its bias), and picks anew. Models are
compared on held-out micrographs, which no round learns from. A round without a gain is the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from cryoflow.database.lock import locked
from cryoflow.database.store import Database
from cryoflow.errors import BadInput
from cryoflow.learning.improve_record import ImproveRecord, ImproveRound, read_record, write_record
from cryoflow.learning.learner import Say
from cryoflow.learning.picks_scorer import PicksScorer, on_micrographs
from cryoflow.models.gate import MicrographCounts, compare
from cryoflow.picks import PickSet
from cryoflow.storage.folders import make_folder

PICKS = "picks"
"""Database of the picks of all rounds, below the folder of an improvement."""


class ImproveSteps(Protocol):
    """Steps of a round with one picker and one set of micrographs."""

    def first(self, folder: Path) -> tuple[str, PickSet]:
        """Return the base model, and its picks; or no model, and the picks of an entry."""

    def pick(self, model: str, folder: Path, name: str) -> PickSet:
        """Pick all micrographs with a model; all picks are returned, however low their score."""

    def labels(self, number: int, picks: PickSet, folder: Path) -> PickSet:
        """Return picks with labels (`label` 1 particle, 0 not known) for a round, from the best picks so far."""

    def train(self, labels: PickSet, folder: Path) -> str:
        """Train from the picker's base and return the model; a training that came to its end is not repeated."""


@dataclass(frozen=True)
class ImproveResult:
    """Rounds of an improvement, and the best of them.

    Attributes
    ----------
    measure
        What the score is.
    picks
        Of the best model, on all micrographs.
    ended
        Why no further round was done.
    """

    rounds: tuple[ImproveRound, ...]
    best: ImproveRound
    picks: PickSet
    measure: str
    ended: str


def improve(
    steps: ImproveSteps,
    scorer: PicksScorer,
    learned: Sequence[str],
    folder: Path,
    *,
    key: str,
    rounds: int,
    least_gain: float,
    say: Say = print,
) -> ImproveResult:
    """Do the rounds that are not done yet, up to the first without a gain.

    Parameters
    ----------
    learned
        Names of the micrographs that rounds learn from.
    key
        Fingerprint of everything that must be the same when a stopped run goes on.
    rounds
        Most rounds of training.
    least_gain
        A round is better where its score is higher by more than this.

    Raises
    ------
    BadInput
        Where the folder holds another improvement, or a round has no picks to learn from.
    DatabaseBusy
        Where another process works in the folder.
    """
    if both := sorted(set(learned) & set(scorer.contents)):
        raise ValueError(f"{both[0]} is held out, and must not be learned from")
    make_folder(folder)
    with locked(folder):
        return _Improvement(steps, scorer, learned, folder, key, least_gain, say).run(rounds)


@dataclass
class _Improvement:
    """An improvement under way, while its lock is held."""

    steps: ImproveSteps
    scorer: PicksScorer
    learned: Sequence[str]
    folder: Path
    key: str
    least_gain: float
    say: Say

    def run(self, rounds: int) -> ImproveResult:
        """Do the missing rounds and return all."""
        record = read_record(self.folder, self.key)
        if record is None:
            model, picks = self.steps.first(self.folder / "round0")
            numbers = self.scorer.numbers(picks)
            if not any(numbers.values()):
                raise BadInput(
                    self.folder, "nothing is to be found on the held-out micrographs, so no model is better."
                )
            record = self._scored(ImproveRecord(self.key, numbers), 0, model, picks)
        while len(record.rounds) <= rounds and record.rounds[-1].better:
            record = self._round(record, len(record.rounds))
        ended = f"{rounds} rounds are done" if record.rounds[-1].better else "the last round gained nothing"
        best = record.best
        return ImproveResult(record.rounds, best, self._picks.load(best.entry), self.scorer.measure, ended)

    @property
    def _picks(self) -> Database:
        return Database(self.folder / PICKS)

    def _round(self, record: ImproveRecord, number: int) -> ImproveRecord:
        place = self.folder / f"round{number}"
        best = self._picks.load(record.best.entry)
        labels = self.steps.labels(number, on_micrographs(best, self.learned), place)
        positives = int((labels.picks["label"] == 1).sum())
        if not positives:
            raise BadInput(place, "cannot be trained: no pick is taken for a particle.", "Use another un-picker.")
        self.say(f"round {number}: learning from {positives} picks on {len(labels.micrographs)} micrographs")
        model = self.steps.train(labels, place)
        return self._scored(record, number, model, self.steps.pick(model, place / "picked", f"round{number}"))

    def _scored(self, record: ImproveRecord, number: int, model: str, picks: PickSet) -> ImproveRecord:
        """Score the picks of a round, keep them, and write the record: the round is done."""
        counts = tuple(self.scorer.counts(picks, record.numbers))
        better, why = self._compared(record, counts)
        self.say(f"round {number}: {why}")
        entry = self._picks.add(picks).name
        record = record.with_round(ImproveRound(number, model, entry, counts, better, why))
        write_record(self.folder, record)
        return record

    def _compared(self, record: ImproveRecord, counts: Sequence[MicrographCounts]) -> tuple[bool, str]:
        measure = self.scorer.measure
        if not record.rounds:
            change = compare(counts, counts, known_projects=()).changes[0]
            return True, f"{measure} {change.f1_after:.3f} on {change.n_micrographs} held-out micrographs"
        change = compare(record.best.counts, counts, known_projects=()).changes[0]
        return change.change > self.least_gain, (
            f"{measure} {change.f1_before:.3f} -> {change.f1_after:.3f} ({change.low:+.3f} to {change.high:+.3f} on "
            f"{change.n_micrographs} held-out micrographs)"
        )
