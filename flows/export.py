"""Export: training sets for pickers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefect import flow, task

from cryoflow.cluster.dispatch import dispatches, run_stages
from cryoflow.database import Database
from cryoflow.database.select import select_best
from cryoflow.pickers.parameters import ExportParameters
from cryoflow.pickers.stages import entries_to_train_on, write_export
from cryoflow.pickers.training_sets.export import ExportResult
from flows.export_shards import write_exports_in_shards
from flows.run_page import run_name, show_table


@flow(name="export", flow_run_name=run_name("export", lambda p: p.picker))
def export(parameters: ExportParameters) -> Path:
    """Write the picks of entries in the files of a picker; an export with the same content is left as it is.

    Where stages are jobs, a large export is cut into jobs that run at the same time and one that gathers their files.
    """
    if dispatches():
        export_as_jobs([parameters])
        return parameters.output
    return export_here(parameters)


@flow(name="write training set", flow_run_name=run_name("write training set", lambda p: p.picker))
def write_training_set(parameters: ExportParameters) -> Path:
    """Write an export as one job; shards of it that other jobs wrote are gathered and then removed."""
    return export_here(parameters)


def export_all(exports: Sequence[ExportParameters]) -> None:
    """Write several exports, at the same time where stages are jobs."""
    if dispatches():
        export_as_jobs(exports)
    else:
        for parameters in exports:
            export(parameters)


def export_as_jobs(exports: Sequence[ExportParameters]) -> None:
    """Write the shards of large exports first, then each export as one job that gathers its shards."""
    write_exports_in_shards(exports)
    run_stages(write_training_set, exports)


def export_here(parameters: ExportParameters) -> Path:
    """Write one export in this process."""
    p = parameters if parameters.entries else replace(parameters, entries=best_entries(parameters))
    result = write_for_picker.with_options(task_run_name=f"write for {p.picker}")(p)
    what = f"{parameters.picker}: {result.n_picks} picks on {result.n_micrographs} micrographs, in {result.folder}"
    show_table(f"export {parameters.picker} settings", result.settings, f"training set for {what}")
    return result.folder


@task(task_run_name="best entry of each project")
def best_entries(parameters: ExportParameters) -> tuple[str, ...]:
    """Choose the entries to train from, and show why."""
    selections = select_best(Database(parameters.database))
    show_table(
        "best jobs",
        [{"project": s.project, "best": s.entry and s.entry.name, "why": s.reason} for s in selections],
        "Best job of each project",
    )
    return entries_to_train_on(parameters)


@task
def write_for_picker(parameters: ExportParameters) -> ExportResult:
    """Write one training set."""
    return write_export(parameters)
