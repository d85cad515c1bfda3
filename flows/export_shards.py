"""Exports where stages are jobs: cut them into shards, write the shards at the same time, gather them.

A shard's files are complete or absent, so the export writes the files of failed shards, and a second run writes only
missing files. `cryoflow.pickers.training_sets.export_shards` defines a shard, and refuses one of another content.
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
class ExportShard(Parameters):
    """A shard of an export."""

    file: Annotated[
        Path, Option(examples=("/data/training/.warp.cryoflow-parts/0000000-0001000-0123456789abcdef.npz",))
    ]
    """File of the shard, which `cut export` wrote."""


@flow(name="cut export", flow_run_name=run_name("cut export", lambda p: p.picker))
def cut_export(parameters: ExportParameters) -> None:
    """Fix the settings of an export, and cut it into shards of `shard_micrographs` micrographs; write nothing else.

    An export that exists, or that is no larger than one shard, is not cut.
    """
    cut_one.with_options(task_run_name=f"cut {parameters.picker}")(parameters)


@task
def cut_one(parameters: ExportParameters) -> None:
    """Cut one export."""
    p = parameters
    shards = shards_of_export(p)
    log.info("%s: %d shards, of which %d are done", p.picker, len(shards), len(shards) - len(remaining(shards)))


@flow(name="write shard", flow_run_name=run_name("write shard", lambda p: _title(p.file)))
def write_shard(parameters: ExportShard) -> None:
    """Write pictures, links and labels of some micrographs, so that the export only has to gather them."""
    write_one_shard.with_options(task_run_name=f"write {_title(parameters.file)}")(parameters)


@task
def write_one_shard(parameters: ExportShard) -> None:
    """Write one shard, unless it exists."""
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
        (len(shard), Work(f"{p.picker} {shard.first}-{shard.last}", ExportShard(file=plan_of(shard))))
        for p in large
        for shard in remaining(shards_in(p.output.absolute()))
    )
    return run_remaining("write shard", jobs, 0)


def _is_large(p: ExportParameters) -> bool:
    if not picker(p.picker).writes_micrographs:
        return False
    database = Database(p.database)
    return (
        sum(database.entry(name).n_micrographs for name in dict.fromkeys(entries_to_train_on(p))) > p.shard_micrographs
    )


def _title(file: Path) -> str:
    shard = shard_of(file)
    return f"{output_name(shard)} {shard.first}-{shard.last}"
