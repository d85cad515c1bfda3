"""Picking: train a picker on the best jobs, and pick a new data set with it."""

from __future__ import annotations

from prefect import flow, task

from cryoflow.cluster.dispatch import dispatches
from cryoflow.database import Database
from cryoflow.database.add_entry import add_if_changed
from cryoflow.pickers import stages
from cryoflow.pickers.parameters import TrainAndPickParameters
from cryoflow.pickers.running.train_and_pick import TrainedAndPicked
from flows.picking_shards import train_and_pick_as_jobs
from flows.run_page import log, run_name, show_table


@flow(name="train and pick", flow_run_name=run_name("train and pick", lambda p: p.picker))
def train_picker_and_pick(parameters: TrainAndPickParameters) -> tuple[str, ...]:
    """Train a picker on the best job of each project, pick new micrographs with it, and return the new entries' names.

    A second run uses the training set and the model of the first, and picks again. Where stages are jobs, training is
    one job and picking is cut into jobs that run at the same time; a second run then picks only what is missing.
    """
    if dispatches():
        return train_and_pick_as_jobs(parameters)
    result = train_then_pick.with_options(task_run_name=f"{parameters.picker}: train and pick")(parameters)
    show_table(f"train {parameters.picker} settings", result.exported.settings, f"trained {result.trained.model}")
    assert result.picked is not None  # no script was asked for
    database = Database(parameters.database)
    entries = [add_if_changed(database, picks) for picks in result.picked.picksets]
    rows = [{"entry": e.name, "picks": e.n_picks, "micrographs": e.n_micrographs} for e in entries]
    show_table("picked", rows, f"picked with {parameters.picker}, in {result.picked.folder}")
    return tuple(e.name for e in entries)


@task
def train_then_pick(parameters: TrainAndPickParameters) -> TrainedAndPicked:
    """Run the picker's own programs, one after the other."""
    return stages.train_then_pick(parameters, on_stage=log.info, on_line=log.info)
