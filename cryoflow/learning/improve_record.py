"""`improve.json`: the rounds of an improvement that are done, from which a run that was stopped goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.learning.update_records import f1_of
from cryoflow.models.gate import MicrographCounts
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import sealed, unsealed

NAME = "improve.json"
_FORMAT = 1
HINT = "Restore it from a copy, or name another folder."
_LARGEST_BYTES = 64 << 20


@dataclass(frozen=True)
class ImproveRound:
    """One round that is done.

    Attributes
    ----------
    number
        0 for the base model, which is not trained.
    model
        File of the model, or its name; "" where the first picks are an entry's.
    entry
        Its picks, an entry of the work database.
    counts
        On each held-out micrograph.
    better
        Whether it is better than all rounds before.
    """

    number: int
    model: str
    entry: str
    counts: tuple[MicrographCounts, ...]
    better: bool
    why: str

    @property
    def score(self) -> float:
        """Return the score over all held-out micrographs."""
        return f1_of(self.counts)


@dataclass(frozen=True)
class ImproveRecord:
    """Record of the rounds of an improvement so far.

    Attributes
    ----------
    key
        Fingerprint of everything that must not change between two calls.
    numbers
        Picks that count on each held-out micrograph.
    """

    key: str
    numbers: Mapping[str, int]
    rounds: tuple[ImproveRound, ...] = ()

    @property
    def best(self) -> ImproveRound:
        """Return the last round that was better than those before."""
        return next(r for r in reversed(self.rounds) if r.better)

    def with_round(self, done: ImproveRound) -> ImproveRecord:
        """Return the record with one more round."""
        return replace(self, rounds=(*self.rounds, done))


def write_record(folder: Path, record: ImproveRecord) -> None:
    """Write the record, complete or not at all."""
    write_atomically(folder / NAME, sealed({"format": _FORMAT, **_plain(asdict(record))}))


def read_record(folder: Path, key: str) -> ImproveRecord | None:
    """Return the record of a folder; None where there is none yet.

    Raises
    ------
    BadInput
        Where it was changed, or is of another improvement.
    """
    path = folder / NAME
    try:
        raw = inputs.read_bytes(path, at_most=_LARGEST_BYTES)
    except FileNotFoundError:
        return None
    fields = unsealed(path, raw, _FORMAT, HINT)
    fields.pop("format")
    record = validated(path, fields, ImproveRecord, HINT)
    if record.key != key:
        raise BadInput(
            folder,
            "holds an improvement with other micrographs, models or settings.",
            "Give the same options, or another folder.",
        )
    if record.rounds and not record.rounds[0].better:
        raise BadInput(path, "has no round to go on from: the first is always the best so far.", HINT)
    return record


def _plain(value: object) -> dict[str, object]:
    """Return the record as JSON reads it back: tuples are lists."""

    def plain(x: object) -> object:
        if isinstance(x, Mapping):
            return {str(k): plain(v) for k, v in x.items()}
        return [plain(v) for v in x] if isinstance(x, Sequence) and not isinstance(x, str) else x

    assert isinstance(value, Mapping)
    return {str(k): plain(v) for k, v in value.items()}
