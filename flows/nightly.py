"""Retraining by itself: a new unpicker when enough new picks have come into the database."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from prefect import flow, task
from pydantic import Field

from cryoflow.database import Database
from cryoflow.unpicker.sources import label_sources
from flows.parameters import Database as DatabaseFolder
from flows.parameters import Form, TrainingParameters
from flows.unpicker import train_unpicker
from flows.watching import run_name, show_text


class RetrainingParameters(Form):
    """When to train anew, and where models lie."""

    database: DatabaseFolder
    models: Path = Field(description="folder of models; each training adds unpicker-<date>", examples=["/data/models"])
    min_new_picks: int = Field(
        default=20_000, ge=1, description="train when the database has so many picks more than the newest model saw"
    )
    epochs: int = Field(default=30, ge=1, description="at most so many passes over the picks")


@flow(name="retrain", flow_run_name=run_name("retrain", lambda p: p.models.name))
def retrain(parameters: RetrainingParameters) -> Path | None:
    """Train a new unpicker if enough new picks have come since the newest one was trained, else do nothing.

    The older models stay: nothing that is in use changes.
    """
    p = parameters
    newest = newest_model(p.models)
    new = count_new_picks(p.database, newest)
    show_text("retrain", f"{new} picks are new since {newest or 'ever'}; {p.min_new_picks} are needed.")
    if new < p.min_new_picks:
        return None
    model = p.models / f"unpicker-{datetime.now():%Y-%m-%d}"
    train_unpicker(TrainingParameters(database=p.database, model=model, epochs=p.epochs))
    return model


def newest_model(models: Path) -> Path | None:
    """The newest finished model of a folder, by the date in its name."""
    from cryoflow.errors import CryoflowError
    from cryoflow.unpicker.bundle import ModelBundle

    for folder in sorted(models.glob("unpicker-*"), reverse=True):
        try:
            ModelBundle.load(folder)
        except CryoflowError:
            continue  # a training that was stopped
        return folder
    return None


@task(task_run_name="count new picks")
def count_new_picks(database: Path, model: Path | None) -> int:
    """Picks that can be learnt from, less those that a model has learnt from."""
    from cryoflow.unpicker.bundle import ModelBundle

    sources, _ = label_sources(Database(database).entries())
    here = sum(source.candidates.n_picks for source in sources)
    if model is None:
        return here
    seen = sum(row.n_right + row.n_wrong + row.n_not_known for row in ModelBundle.load(model).manifest)
    return max(0, here - seen)
