"""Export: training sets for pickers."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from cryoflow.database import Database
from cryoflow.database.diameter import load_with_diameter
from cryoflow.database.select import select_best
from cryoflow.errors import BadInput
from cryoflow.pickers.export import ExportResult
from cryoflow.pickers.export import export as write_training_set
from cryoflow.pickers.split import Fractions
from flows.parameters import ExportParameters
from flows.watching import run_name, show_table


@flow(name="export", flow_run_name=run_name("export", lambda p: p.picker))
def export(parameters: ExportParameters) -> Path:
    """Write the picks of some entries as a picker wants them; what is there already with the same content is left."""
    entries = parameters.entries or best_entries(parameters.database)
    result = write_for_picker.with_options(task_run_name=f"write for {parameters.picker}")(parameters, entries)
    what = f"{parameters.picker}: {result.n_picks} picks on {result.n_micrographs} micrographs, in {result.folder}"
    show_table(f"export {parameters.picker} settings", result.settings, f"training set for {what}")
    return result.folder


@task(task_run_name="best entry of each project")
def best_entries(database: Path) -> tuple[str, ...]:
    """The entries to train from."""
    selections = select_best(Database(database))
    show_table(
        "best jobs",
        [{"project": s.project, "best": s.entry and s.entry.name, "why": s.reason} for s in selections],
        "Best job of each project",
    )
    if not (names := tuple(s.entry.name for s in selections if s.entry)):
        raise BadInput(database, "no project has an entry to train from.", "cryoflow database select tells why.")
    return names


@task
def write_for_picker(parameters: ExportParameters, entries: tuple[str, ...]) -> ExportResult:
    """One training set."""
    database = Database(parameters.database)
    return write_training_set(
        parameters.picker,
        [load_with_diameter(database, entry) for entry in entries],
        parameters.output,
        diameter_A=parameters.diameter_A,
        box_px=parameters.box_px,
        split=Fractions(parameters.validation, parameters.test),
        seed=parameters.seed,
    )
