"""Exports where stages are jobs: cut them into parts, write the parts at the same time, gather them.

A part's files are complete or absent, so the export writes the files of failed parts, and a second run writes only
missing files. `cryoflow.pickers.training_sets.export_shards` defines a part, and refuses one of another content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from prefect import flow, task

from cryoflow.cluster.dispatch import Done, Work, dispatches
from cryoflow.database import Database
from cryoflow.parameters import Option, Parameters
from cryoflow.pickers.parameters import ExportParameters
from cryoflow.pickers.registry import picker
from cryoflow.pickers.stages import entries_to_train_on, shards_of_export
from cryoflow.pickers.training_sets.export_shards import output_name, plan_of, shard_of, shards_in
from cryoflow.pickers.training_sets.export_shards import write_shard as write_files
from cryoflow.pickers.training_sets.manifest import NAME as MANIFEST
from cryoflow.shards import remaining
from flows.run_page import log, run_name
from flows.shards import run_jobs, run_remaining


@dataclass(frozen=True, kw_only=True)
class ExportPart(Parameters):
    """A part of an export."""

    file: Annotated[
        Path, Option(examples=("/data/training/.warp.cryoflow-parts/0000000-0001000-0123456789abcdef.npz",))
    ]
    """File of the part, which `cut export` wrote."""


@flow(name="cut export", flow_run_name=run_name("cut export", lambda p: p.picker))
def cut_export(parameters: ExportParameters) -> None:
    """Fix the settings of an export, and cut it into parts of `shard_micrographs` micrographs; write nothing else.

    An export that exists, or that is no larger than one part, is not cut.
    """
    cut_one.with_options(task_run_name=f"cut {parameters.picker}")(parameters)


@task
def cut_one(parameters: ExportParameters) -> None:
    """Cut one export."""
    p = parameters
    parts = shards_of_export(p)
    log.info("%s: %d parts, of which %d are done", p.picker, len(parts), len(parts) - len(remaining(parts)))


@flow(name="write part", flow_run_name=run_name("write part", lambda p: _title(p.file)))
def write_part(parameters: ExportPart) -> None:
    """Write pictures, links and labels of some micrographs, so that the export only has to gather them."""
    write_one_part.with_options(task_run_name=f"write {_title(parameters.file)}")(parameters)


@task
def write_one_part(parameters: ExportPart) -> None:
    """Write one part, unless it exists."""
    write_files(shard_of(parameters.file))


def write_exports_in_shards(exports: Sequence[ExportParameters]) -> tuple[Done, ...]:
    """Write the files of large exports' micrographs in jobs of their own; skip exports that exist."""
    if not dispatches():
        return ()
    large = [p for p in exports if not (p.output / MANIFEST).exists() and _is_large(p)]
    if not large:
        return ()
    # An export reports its own error: one that cannot be cut fails there again.
    run_jobs("cut export", [Work(f"cut {p.picker}", p) for p in large])
    jobs = (
        (len(part), Work(f"{p.picker} {part.first}-{part.last}", ExportPart(file=plan_of(part))))
        for p in large
        for part in remaining(shards_in(p.output.absolute()))
    )
    return run_remaining("write part", jobs, 0)


def _is_large(p: ExportParameters) -> bool:
    if not picker(p.picker).writes_micrographs:
        return False
    database = Database(p.database)
    return (
        sum(database.entry(name).n_micrographs for name in dict.fromkeys(entries_to_train_on(p))) > p.shard_micrographs
    )


def _title(file: Path) -> str:
    part = shard_of(file)
    return f"{output_name(part)} {part.first}-{part.last}"
