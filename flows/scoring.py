"""Scoring of micrographs in jobs of their own, so that un-picking only has to gather."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from prefect import flow, task

from cryoflow.cluster.dispatch import Done, Work
from cryoflow.database import Database
from cryoflow.parameters import (
    CHUNK_MICROGRAPHS,
    ChunkMicrographs,
    Count,
    DatabaseFolder,
    ModelFolder,
    Option,
    Parameters,
)
from cryoflow.shards import cut, run, unfinished
from cryoflow.unpicker.parameters import UnpickParameters
from flows.run_page import run_name, shown_progress
from flows.shards import run_remaining


@dataclass(frozen=True, kw_only=True)
class ScoreParameters(Parameters):
    """Micrographs of one entry to score with a model."""

    database: DatabaseFolder
    model: ModelFolder
    work: Annotated[Path, Option(examples=("/data/work/unpicking",))]
    """Folder for the micrographs scored so far."""
    entry: Annotated[str, Option(examples=("P190/AutoPick_job005",))]
    """Entry of the database."""
    first: Annotated[int, Ge(0)]
    """Number of the first micrograph, from 0."""
    last: Count
    """Number of the micrograph after the last one."""
    chunk_micrographs: ChunkMicrographs = CHUNK_MICROGRAPHS


@flow(name="score", flow_run_name=run_name("score", lambda p: f"{p.entry} {p.first}-{p.last}"))
def score(parameters: ScoreParameters) -> None:
    """Score micrographs of an entry, so that un-picking it only has to gather."""
    score_part(parameters)


@task(task_run_name="score")
def score_part(parameters: ScoreParameters) -> None:
    """Score the shards of one range of an entry; those that are done are skipped."""
    from cryoflow.database.project_diameter import load_with_diameter
    from cryoflow.system.tensorflow_import import load_tensorflow

    load_tensorflow()
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick_shards import entry_shards, score_shard

    p = parameters
    bundle = ModelBundle.load(p.model)
    picks = load_with_diameter(Database(p.database), p.entry)
    items, shards = entry_shards(bundle, picks, p.chunk_micrographs, p.work)
    with shown_progress(f"score {p.entry} {p.first}", f"micrographs of {p.entry}") as report:
        mine = [s for s in shards if p.first <= s.first < p.last]
        failed = run(mine, lambda shard: score_shard(bundle, items, shard), on_progress=report)
    if failed:
        raise failed[0]


def score_in_shards(parameters: UnpickParameters, shard_micrographs: int) -> tuple[Done, ...]:
    """Score the micrographs of entries in jobs of their own, unless one job is enough for the rest."""
    p = parameters
    jobs = (
        (
            last - first,
            Work(
                f"{entry} {first}-{last}",
                ScoreParameters(
                    database=p.database_folder,
                    model=p.model,
                    work=p.work_folder,
                    entry=entry,
                    first=first,
                    last=last,
                    chunk_micrographs=p.chunk_micrographs,
                ),
            ),
        )
        for entry, first, last in ranges_to_score(p, shard_micrographs)
    )
    return run_remaining("score", jobs, shard_micrographs)


def ranges_to_score(parameters: UnpickParameters, shard_micrographs: int) -> Iterator[tuple[str, int, int]]:
    """Return entry, first micrograph and the one after the last, of each range with a shard that is not scored yet.

    Where nothing was scored, no model is loaded and no pick is read.
    """
    from cryoflow.database.project_diameter import load_with_diameter
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick_shards import entry_shards

    p, database = parameters, Database(parameters.database_folder)
    bundle = ModelBundle.load(p.model) if any(p.work_folder.glob("*.json")) else None
    for entry in database.matching(p.entries):
        ranges = list(cut(database.entry(entry).n_micrographs, shard_micrographs, p.chunk_micrographs))
        if bundle is not None:
            picks = load_with_diameter(database, entry)
            _, shards = entry_shards(bundle, picks, p.chunk_micrographs, p.work_folder)
            ranges = unfinished(ranges, shards)
        yield from ((entry, first, last) for first, last in ranges)
