"""Cut large stages into shards that run as jobs of their own; the stage itself then gathers their results.

A shard's result is a file that is complete or absent. So the gathering stage repeats failed shards, and a second run
does only what is missing. Where stages run in this process, the functions of this module do nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge
from prefect import flow, task

from cryoflow.cluster.dispatch import Done, Work, dispatches, run_shards
from cryoflow.database import Database
from cryoflow.ingest import Plan, plan_jobs
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.ingest.stage import options_of
from cryoflow.parameters import (
    CHUNK_MICROGRAPHS,
    ChunkMicrographs,
    Count,
    DatabaseFolder,
    ModelFolder,
    Option,
    Parameters,
)
from cryoflow.shards import cut, groups, run, unfinished
from cryoflow.unpicker.parameters import UnpickParameters
from flows.run_page import run_name, show_table, shown_progress

if TYPE_CHECKING:
    from cryoflow.unpicker.bundle import ModelBundle


@dataclass(frozen=True, kw_only=True)
class ScoreParameters(Parameters):
    """Which micrographs of one entry to score with a model."""

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
    from cryoflow.database.diameter import load_with_diameter
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


def score_in_shards(parameters: UnpickParameters, entries: Sequence[str], shard_micrographs: int) -> tuple[Done, ...]:
    """Score the micrographs of entries in jobs of their own, unless one job is enough for the rest."""
    if not dispatches():
        return ()
    from cryoflow.unpicker.bundle import ModelBundle

    p = parameters
    bundle = ModelBundle.load(p.model) if any(p.work_folder.glob("*.json")) else None  # nothing was scored yet
    ranges = [(entry, *some) for entry in entries for some in ranges_to_score(p, bundle, entry, shard_micrographs)]
    if sum(last - first for _, first, last in ranges) <= shard_micrographs:
        return ()
    works = [
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
        )
        for entry, first, last in ranges
    ]
    return run_jobs("score", works)


def ranges_to_score(
    parameters: UnpickParameters, bundle: ModelBundle | None, entry: str, shard_micrographs: int
) -> list[tuple[int, int]]:
    """Return the first micrograph and the one after the last, of each shard of an entry that is not scored yet.

    Without a model nothing was scored, and no pick is read.
    """
    from cryoflow.database.diameter import load_with_diameter
    from cryoflow.unpicker.unpick_shards import entry_shards

    p = parameters
    database = Database(p.database_folder)
    ranges = list(cut(database.entry(entry).n_micrographs, shard_micrographs, p.chunk_micrographs))
    if bundle is None:
        return ranges
    picks = load_with_diameter(database, entry)
    _, shards = entry_shards(bundle, picks, p.chunk_micrographs, p.work_folder)
    return unfinished(ranges, shards)


def ingest_in_shards(parameters: IngestParameters, shard_micrographs: int) -> tuple[Done, ...]:
    """Read groups of projects in jobs of their own, of so many micrographs or more; not where there is one group."""
    if not dispatches():
        return ()
    of_jobs = group_projects(plan_ingest(parameters), shard_micrographs)
    if len(of_jobs) < 2:
        return ()
    works = [Work(", ".join(project.name for project in group), replace(parameters, roots=group)) for group in of_jobs]
    return run_jobs("ingest", works)


@task(task_run_name="crawl and plan shards")
def plan_ingest(parameters: IngestParameters) -> Plan:
    """Find the jobs that are new or changed."""
    return plan_jobs(parameters.roots, Database(parameters.database), options_of(parameters))


def group_projects(plan: Plan, n_micrographs: int) -> list[tuple[Path, ...]]:
    """Projects with something to read, in groups of at least so many micrographs (a job of unknown number counts 1)."""
    sizes: dict[Path, int] = {}
    for planned in plan.jobs:
        if planned.action == "read":
            known = [output.n_micrographs or 1 for output in planned.job.outputs]
            sizes[planned.job.project] = sizes.get(planned.job.project, 0) + max(known, default=1)
    return groups(dict(sorted(sizes.items())), n_micrographs)


def run_jobs(stage: str, works: Sequence[Work]) -> tuple[Done, ...]:
    """Run shards as jobs, show how many are done, and show a table of how each ended."""
    count = 0
    with shown_progress(f"{stage} shards", f"shards of {stage}") as report:

        def note(_done: Done) -> None:
            nonlocal count
            count += 1
            report(count, len(works))

        done = run_shards(stage, works, on_done=note)
    failed = sum(not d.succeeded for d in done)
    show_table(f"{stage} shards", done, f"{len(done)} shards of {stage}, {failed} failed")
    return done
