"""Promise 5: a record of JSON on disk that is hostile or damaged is one clear error that names the file.

Sealed records get a checksum that fits, as their author would make it: the checksum must not be the only guard.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_promise_02_kill_anywhere import small_bundle

from cryoflow.detector import checkpoint
from cryoflow.detector.bundle import Detector, is_detector
from cryoflow.errors import BadInput
from cryoflow.learning import improve_record, items, update_records
from cryoflow.models.card import ModelCard, read_card
from cryoflow.models.held_out import HeldOut
from cryoflow.models.registry import ModelRegistry
from cryoflow.preparation.model_folder import npz_bytes
from cryoflow.report.sections import ReportedEvaluation
from cryoflow.shards import Shard
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.sealing import sealed
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.unpick_shards import read_shard
from cryoflow.view.journal import Journal

Write = Callable[[object], None]


@dataclass(frozen=True)
class Reader:
    """A sound record, how it is written, and what reads it; `field` is the first name that must be there."""

    sound: Any
    write: Write
    read: Callable[[], object]
    file: str


def plain(path: Path) -> Write:
    """Write a record as JSON; NaN and infinity as Python does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda record: path.write_text(json.dumps(record)) and None


def with_seal(path: Path) -> Write:
    """Write a record with a checksum that fits; what is no object cannot be sealed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda record: path.write_text(sealed(record) if isinstance(record, dict) else json.dumps(record)) and None


def in_npz(path: Path, name: str) -> Write:
    """Write a record as an array of bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return lambda record: (
        path.write_bytes(npz_bytes({name: np.frombuffer(json.dumps(record).encode(), np.uint8)})) and None
    )


def evaluation(folder: Path) -> Reader:
    one = {"name": "m.mrc", "n_reference": 3, "n_picks": 4, "n_matched": 2}
    row = {"entry": "P/A_J1", "n_reference": 3, "n_picks": 4, "n_matched": 2, "micrographs": [one]}
    sound = {"entries": [row], "reference_database": "/x", "radius": 20.0, "model": None}
    file = folder / "evaluation.json"
    return Reader(sound, plain(file), lambda: ReportedEvaluation.read(file), file.name)


def unpicker(folder: Path) -> Reader:
    small_bundle().save(folder / "model")
    file = folder / "model/bundle.json"
    return Reader(unsealed(file), with_seal(file), lambda: ModelBundle.load(file.parent), file.name)


def unpicker_metrics(folder: Path) -> Reader:
    small_bundle().save(folder / "model")
    home = folder / "model"
    description = unsealed(home / "bundle.json")

    def write(record: object) -> None:
        (home / "metrics.json").write_text(json.dumps(record))
        sums = description["checksums"] | {"metrics.json": checksum(home / "metrics.json")}
        (home / "bundle.json").write_text(sealed(description | {"checksums": sums}))

    return Reader({"validation_f1": 0.5}, write, lambda: ModelBundle.load(home), "metrics.json")


def detector(folder: Path) -> Reader:
    Detector.general().save(folder / "model")
    file = folder / "model/bundle.json"

    def read() -> None:
        is_detector(file.parent)
        Detector.load(file.parent)

    return Reader(unsealed(file), with_seal(file), read, file.name)


def checkpoint_of_detector(folder: Path) -> Reader:
    file = folder / "state.npz"
    sound = {"fingerprint": "f", "history": [{"loss": 1.0}]}
    return Reader(sound, in_npz(file, "described"), lambda: checkpoint.finished(folder, "f", 9), file.name)


def shard(folder: Path) -> Reader:
    made = Shard(0, 1, folder / "shard.json")
    sound = {"micrographs": [0, 1], "results": [None]}
    return Reader(sound, plain(made.result), lambda: read_shard(small_bundle(), [None], made), made.result.name)


def quarantined(folder: Path) -> Reader:
    file = folder / "quarantined.json"
    return Reader({"P": ["f", "why"]}, plain(file), lambda: update_records.read_quarantined(file), file.name)


def counts(folder: Path) -> Reader:
    file = folder / "counts.json"
    sound = {"measure": "f1", "counts": [["P", "m", 3, 2, 1, 0, 0]]}
    return Reader(sound, plain(file), lambda: update_records.read_counts(file, "f1"), file.name)


def learned(folder: Path) -> Reader:
    file = folder / "P.npz"
    sound = {"format": 1, "project": "P", "pieces": [], "learned": ["a"]}
    return Reader(sound, in_npz(file, items.DESCRIBED), lambda: items.read_pieces(file, folder / "u"), file.name)


def improvement(folder: Path) -> Reader:
    file = folder / improve_record.NAME
    row = {"number": 0, "model": "m", "entry": "e", "counts": [], "better": True, "why": "first"}
    sound = {"format": 1, "key": "k", "numbers": {"m": 3}, "rounds": [row]}
    return Reader(sound, with_seal(file), lambda: improve_record.read_record(folder, "k"), file.name)


def card(folder: Path) -> Reader:
    file = folder / "card.json"
    text = ModelCard("detector", "d", 1, "now", "0", None, (), {"P": {"f1": 0.5}}, "accepted").text()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return Reader(unsealed(file), with_seal(file), lambda: read_card(file), file.name)


def held_out(folder: Path) -> Reader:
    made = HeldOut(folder)
    return Reader({"format": 1, "projects": {"P": ["a"]}}, with_seal(made.path), made.read, made.path.name)


def versions(folder: Path) -> Reader:
    file = folder / "d/current.json"
    sound = {"format": 1, "history": [{"version": 1, "when": "now", "reason": "first"}]}
    return Reader(sound, with_seal(file), lambda: ModelRegistry(folder).history("d"), file.name)


def journal(folder: Path) -> Reader:
    file = folder / "j.jsonl"
    sound = {"n": 1, "at": "now", "by": "me", "window": "w", "do": {"kind": "x"}}
    head = json.dumps({"format": 1, "entry": "P/A", "fingerprint": "f"}) + "\n"
    file.parent.mkdir(parents=True, exist_ok=True)

    def read() -> None:
        assert len(Journal(file, "P/A", "f").read()) == 1

    return Reader(sound, lambda record: file.write_text(head + json.dumps(record) + "\n") and None, read, file.name)


READERS = (
    *(evaluation, unpicker, unpicker_metrics, detector, checkpoint_of_detector, shard, quarantined, counts, learned),
    *(improvement, card, held_out, versions, journal),
)


def unsealed(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text())
    del values["checksum"]
    return values


def hostile(sound: Any) -> list[object]:
    """Return records of which none is sound: each value exchanged, at any depth, and each field left out."""
    others: tuple[object, ...] = (None, True, -1, 1e999, float("nan"), 10**400, "x" * 10, [], {}, [[]], {"a": {}})
    found: list[object] = [other for other in others if type(other) is not type(sound)]
    for change in _exchanged(sound, others):
        found.append(change)
    return found


def _exchanged(value: Any, others: tuple[object, ...], depth: int = 0) -> list[object]:
    if depth > 3:
        return []
    found: list[object] = []
    if isinstance(value, dict):
        for name, inner in value.items():
            found.append({k: v for k, v in value.items() if k != name})
            found += [value | {name: other} for other in others if type(other) is not type(inner)]
            found += [value | {name: other} for other in _exchanged(inner, others, depth + 1)]
    elif isinstance(value, list) and value:
        found += [[other, *value[1:]] for other in others if type(other) is not type(value[0])]
        found += [[other, *value[1:]] for other in _exchanged(value[0], others, depth + 1)]
    return found


@pytest.mark.parametrize("reader", READERS, ids=lambda f: f.__name__)
def test_a_hostile_record_is_read_or_is_one_clear_error_that_names_its_file(
    reader: Callable[[Path], Reader], tmp_path: Path
) -> None:
    made = reader(tmp_path)
    made.write(made.sound)
    made.read()
    errors, bad = [], []
    for record in hostile(made.sound):
        made.write(record)
        try:
            made.read()
        except BadInput as error:
            errors.append(str(error))
        except Exception as error:
            bad.append(f"{error!r} for {str(record)[:300]}")
    assert bad == []
    assert len(errors) >= 10
    assert [error for error in errors if str(tmp_path) not in error or len(error) > 2000] == []


@pytest.mark.parametrize("reader", READERS, ids=lambda f: f.__name__)
def test_another_type_in_place_of_a_record_is_refused(reader: Callable[[Path], Reader], tmp_path: Path) -> None:
    made = reader(tmp_path)
    wrong: tuple[object, ...] = (None, 3, "text", [1], {"a": 1} if isinstance(made.sound, list) else [[]])
    for record in wrong:
        made.write(record)
        with pytest.raises(BadInput, match=made.file.replace(".", r"\.")):
            made.read()


@pytest.mark.parametrize("value", [None, "much", [], {}, float("nan"), 1e999, -1.0, 10**400])
@pytest.mark.parametrize(
    ("reader", "name"),
    [(unpicker, "threshold"), (unpicker, "temperature"), (unpicker, "diameter_A"), (detector, "threshold")],
)
def test_a_model_whose_numbers_cannot_be_is_refused(
    reader: Callable[[Path], Reader], name: str, value: object, tmp_path: Path
) -> None:
    """A threshold of NaN would keep no pick, or all of them, without a word."""
    made = reader(tmp_path)
    made.write(made.sound | {name: value})
    with pytest.raises(BadInput, match=rf"bundle\.json: {name}: "):
        made.read()
