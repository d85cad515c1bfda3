"""Picking: a picker trained on the best jobs, and a new dataset picked with it."""

from __future__ import annotations

from prefect import flow, task

from cryoflow.cluster.dispatch import dispatches
from cryoflow.database import Database
from cryoflow.database.update import add_if_changed
from cryoflow.errors import BadInput
from cryoflow.pickers.running.run import micrographs_to_pick
from cryoflow.pickers.running.train_and_pick import TrainedAndPicked, best_entries, load_entries, train_and_pick
from cryoflow.pickers.training_sets.split import Fractions
from flows.parameters import PickingParameters
from flows.picking_parts import executor_of, train_and_pick_as_jobs
from flows.watching import log, run_name, show_table


@flow(name="train and pick", flow_run_name=run_name("train and pick", lambda p: p.picker))
def train_picker_and_pick(parameters: PickingParameters) -> tuple[str, ...]:
    """Train a picker on the best job of each project, and pick new micrographs with it; names of the new entries.

    A second run takes the training set and the model that are there, and picks again. Where stages are jobs, training
    is one and picking is cut into some at the same time; a second run then picks what is missing.
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
def train_then_pick(parameters: PickingParameters) -> TrainedAndPicked:
    """The picker's own programs, one after the other."""
    p = parameters
    database = Database(p.database)
    new = load_entries(database, p.to_pick)
    if p.micrographs:
        new.append(micrographs_to_pick(p.micrographs, pixel_size_A=p.pixel_size_A))
    if not new:
        raise BadInput("to_pick", "is empty, and so is micrographs.", "Say what to pick.")
    return train_and_pick(
        p.picker,
        load_entries(database, p.entries or best_entries(database, p.projects)),
        new,
        p.output,
        executor_of(p),
        diameter_A=p.diameter_A,
        split=Fractions(p.validation),
        seed=p.seed,
        settings=p.settings,
        threshold=p.threshold,
        on_stage=log.info,
        on_line=log.info,
    )
