"""Scheduled retraining: a new unpicker once the database has enough new picks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Annotated

from prefect import flow, task

from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.parameters import Count, DatabaseFolder, Option, Parameters
from cryoflow.storage.files import write_atomically
from cryoflow.storage.parsing import read_record
from cryoflow.unpicker.label_sources import label_sources
from cryoflow.unpicker.parameters import TrainUnpickerParameters, UnpickerEpochs
from flows.run_page import run_name, show_text
from flows.unpicker import train_unpicker

RECORD = "retrained.json"
_NAME = re.compile(r"unpicker-(\d{4}-\d\d-\d\d)(?:-(\d+))?")


@dataclass(frozen=True, kw_only=True)
class RetrainParameters(Parameters):
    """Database and folder of models of a retraining, and when to train."""

    database: DatabaseFolder
    models: Annotated[Path, Option(examples=("/data/models",))]
    """Folder of models; each training adds unpicker-DATE."""
    min_new_picks: Count = 20_000
    """Train when the database has so many picks more than the newest model was trained on."""
    epochs: UnpickerEpochs | None = None


@flow(name="retrain", flow_run_name=run_name("retrain", lambda p: p.models.name))
def retrain(parameters: RetrainParameters) -> Path | None:
    """Train a new unpicker if the database has enough new picks since the newest one was trained.

    Older models stay.
    """
    p = parameters
    newest = newest_model(p.models)
    here = count_picks(p.database)
    new = here - (picks_seen(newest) if newest else 0)
    show_text("retrain", f"{max(0, new)} picks are new since {newest or 'ever'}; {p.min_new_picks} are needed.")
    if new < p.min_new_picks:
        return None
    model = next_model(p.models)
    train_unpicker(TrainUnpickerParameters(database=p.database, model=model, epochs=p.epochs, models=p.models))
    write_atomically(model / RECORD, json.dumps({"picks_in_database": here}) + "\n")
    return model


def next_model(models: Path) -> Path:
    """Return today's folder: a new one, or one whose training was stopped and goes on."""
    today = f"unpicker-{datetime.now():%Y-%m-%d}"  # the reader's day
    names = (today if i == 1 else f"{today}-{i}" for i in count(1))
    return next(folder for name in names if not _is_finished(folder := models / name))


def newest_model(models: Path) -> Path | None:
    """Return the newest finished model of a folder, by the date in its name."""
    found = [(m[1], int(m[2] or 1), f) for f in models.glob("unpicker-*") if (m := _NAME.fullmatch(f.name))]
    return next((folder for *_, folder in sorted(found, reverse=True) if _is_finished(folder)), None)


@dataclass(frozen=True)
class _NightRecord:
    picks_in_database: int


def picks_seen(model: Path) -> int:
    """Return the number of picks in the database when a model was trained, those without micrographs included."""
    from cryoflow.unpicker.bundle import ModelBundle

    try:
        return read_record(model / RECORD, _NightRecord).picks_in_database
    except BadInput:  # trained by hand
        return sum(row.n_positive + row.n_negative + row.n_unlabeled for row in ModelBundle.load(model).manifest)


@task(task_run_name="count picks")
def count_picks(database: Path) -> int:
    """Count the picks that a training could use."""
    sources, _ = label_sources(Database(database).entries())
    return sum(source.candidates.n_picks for source in sources)


def _is_finished(model: Path) -> bool:
    from cryoflow.errors import CryoflowError
    from cryoflow.unpicker.bundle import ModelBundle

    try:
        ModelBundle.load(model)
    except CryoflowError:
        return False
    return True
