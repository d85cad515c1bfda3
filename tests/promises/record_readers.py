"""Records of JSON on disk, how each is written, and what reads it: for test_promise_05_records.py."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from promise_tools import make_entry
from test_promise_02_kill_anywhere import small_bundle

from cryoflow.database import Database, layout
from cryoflow.database.entry import read_entry
from cryoflow.database.record import read_record as read_project_record
from cryoflow.detector import checkpoint
from cryoflow.detector.bundle import Detector, is_detector
from cryoflow.errors import BadInput
from cryoflow.learning import improve_record, items, update_records
from cryoflow.models.card import ModelCard, read_card
from cryoflow.models.held_out import HeldOut
from cryoflow.models.registry import ModelRegistry
from cryoflow.pickers.programs.detector import exported
from cryoflow.pickers.training_sets import contents
from cryoflow.preparation.model_folder import npz_bytes
from cryoflow.report.sections import ReportedEvaluation
from cryoflow.shards import Shard
from cryoflow.simulate.ground_truth import TRUTH_FILE, load_dataset
from cryoflow.simulate.simulation import simulate_dataset
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.sealing import sealed
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.unpick_shards import read_shard
from cryoflow.view import models
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
    sound = {"measure": "f1", "counts": [["P", "m", 3, 2, 1, 0, 0]], "labels": ["a"]}
    return Reader(sound, plain(file), lambda: update_records.read_counts(file), file.name)


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


def training_state(folder: Path) -> Reader:
    """The state of an unpicker's training; the model has no variables, so that the history is all."""
    from cryoflow.unpicker.training_state import restore_state

    file = folder / "state.npz"
    model: Any = SimpleNamespace(variables=[], optimizer=SimpleNamespace(variables=[]))
    sound = [{"loss": 1.0, "val_loss": 0.9}]
    return Reader(sound, in_npz(file, "history"), lambda: restore_state(model, file).best, file.name)


def shown_history(folder: Path) -> Reader:
    """The history of a training that is done, as the viewer's page of models reads it."""
    file = folder / "T/history.json"
    write = plain(file)
    (folder / "T/bundle.json").touch()
    (folder / "T/metrics.json").write_text("{}")
    return Reader([{"loss": 1.0, "val_loss": 0.9}], write, lambda: page_of(folder), file.name)


def shown_state(folder: Path) -> Reader:
    """The state of a detector's training under way, on the same page."""
    file = folder / "T/state.npz"
    sound = {"fingerprint": "f", "history": [{"loss": 1.0, "validation_loss": 0.9}]}
    return Reader(sound, in_npz(file, "described"), lambda: page_of(folder), file.name)


def page_of(folder: Path) -> None:
    """Read the trainings for the viewer, which shows a problem in place of the curves."""
    (training,) = models.trainings([folder])
    if training.problem:
        raise BadInput(folder, training.problem)


def curve_of_export(folder: Path) -> Reader:
    """The losses of a detector that was trained on an export; a damaged record costs the curve alone."""
    file = folder / "history.json"

    def read() -> None:
        with warnings_as_errors(exported.log):
            exported.training_curve(folder)

    return Reader([{"round": 1, "loss": 1.0, "validation_loss": 2.0}], plain(file), read, file.name)


@contextmanager
def warnings_as_errors(log: logging.Logger) -> Iterator[None]:
    """Raise what is logged as a warning."""

    def refuse(_: str, error: BadInput) -> None:
        raise error

    kept, log.warning = log.warning, refuse  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        log.warning = kept  # type: ignore[method-assign]


def truth(folder: Path) -> Reader:
    simulate_dataset(
        folder, specimen="barrel", n_micrographs=1, shape_yx=(180, 260), pixel_size_A=6.0, seed=3, workers=1
    )
    file = folder / TRUTH_FILE
    return Reader(json.loads(file.read_text()), plain(file), lambda: load_dataset(folder), file.name)


def contents_of_export(folder: Path) -> Reader:
    contents.write_contents(folder, "x", ())
    file = folder / contents.NAME
    return Reader(unsealed(file), with_seal(file), lambda: contents.verify(folder), file.name)


def mark(folder: Path) -> Reader:
    entry = Database(folder / "DB").add(make_entry(folder, n=1))
    Database(folder / "DB").mark(entry.name, "stale", "x")
    file = entry.folder / "mark.json"

    def read() -> None:
        if (found := read_entry(entry.folder)).status != "stale":
            raise BadInput(file, found.reason)

    return Reader(unsealed(file), with_seal(file), read, file.name)


def list_of_entries(folder: Path) -> Reader:
    entry = Database(folder / "DB").add(make_entry(folder, n=1))
    file = entry.folder.parents[1] / layout.RECORD
    return Reader(unsealed(file), with_seal(file), lambda: read_project_record(file.parent), file.name)


def list_of_projects(folder: Path) -> Reader:
    Database(folder / "DB").add(make_entry(folder, n=1))
    file = folder / "DB" / layout.MARKER
    return Reader(unsealed(file), with_seal(file), lambda: Database(folder / "DB").projects(), file.name)


def manifest_of_entry(folder: Path) -> Reader:
    entry = Database(folder / "DB").add(make_entry(folder, n=1))
    file = entry.folder / "manifest.json"
    return Reader(unsealed(file), with_seal(file), lambda: Database(folder / "DB").load(entry.name), file.name)


READERS = (
    *(evaluation, unpicker, unpicker_metrics, detector, checkpoint_of_detector, shard, quarantined, counts, learned),
    *(improvement, card, held_out, versions, journal, training_state, shown_history, shown_state, curve_of_export),
    *(truth, contents_of_export, mark, list_of_entries, list_of_projects, manifest_of_entry),
)


def unsealed(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text())
    del values["checksum"]
    return values
