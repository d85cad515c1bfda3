"""Ingest: finished projects into the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from prefect import flow, task
from prefect.futures import as_completed

from cryoflow.cluster.dispatch import Done, Work
from cryoflow.database import Database
from cryoflow.ingest import IngestLine, IngestReport, Plan, PlannedJob, ingest_job, mark_gone, plan_jobs
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.ingest.stage import options_of
from cryoflow.shards import groups
from flows.run_page import run_name, show_table, shown_progress
from flows.shards import run_remaining


@flow(name="ingest", flow_run_name=run_name("ingest", lambda p: ", ".join(root.name for root in p.roots)))
def ingest(parameters: IngestParameters) -> IngestReport:
    """Read every new or changed finished job below some folders into the database.

    A job that cannot be read is one line of the table; the others are read.
    """
    plan = plan_what_to_read(parameters)
    lines = finalize(parameters, plan)
    to_read = [planned for planned in plan.jobs if planned.action == "read"]
    with shown_progress("ingest", "jobs read") as report:
        futures = [
            read_job.with_options(task_run_name=f"{p.job.job} of {p.job.project_name}").submit(parameters, p)
            for p in to_read
        ]
        for done, _ in enumerate(as_completed(futures), 1):
            report(done, len(futures))
    lines += [future.result() for future in futures]
    result = IngestReport(tuple(sorted(lines, key=lambda line: (line.project, line.job))), plan.unreadable)
    rows = [  # the most important columns first: the page shows as many as fit
        {
            "project": line.project,
            "job": line.job,
            "kind": line.kind,
            "status": line.status,
            "picks": line.n_picks,
            "micrographs": line.n_micrographs,
            "reason": line.warning or line.reason,
            "entries": ", ".join(line.entries),
        }
        for line in result.lines
    ]
    show_table("ingest", rows, f"ingest: {result.summary}")
    return result


@task(task_run_name="crawl and plan")
def plan_what_to_read(parameters: IngestParameters) -> Plan:
    """Find the jobs that are new or changed."""
    return plan_jobs(parameters.roots, Database(parameters.database), options_of(parameters))


@task(task_run_name="unchanged and unusable jobs")
def finalize(parameters: IngestParameters, plan: Plan) -> list[IngestLine]:
    """Return the lines of the jobs that are not read, and mark entries whose jobs are gone."""
    database = Database(parameters.database)
    lines = [ingest_job(planned, database) for planned in plan.jobs if planned.action != "read"]
    return lines + mark_gone(plan, database)


@task
def read_job(parameters: IngestParameters, planned: PlannedJob) -> IngestLine:
    """Read one job into the database."""
    return ingest_job(planned, parameters.database, options_of(parameters))


def ingest_in_shards(parameters: IngestParameters, shard_micrographs: int) -> tuple[Done, ...]:
    """Read groups of projects in jobs of their own, of so many micrographs or more; not where there is one group."""
    return run_remaining("ingest", _jobs(parameters, shard_micrographs), 0)


def _jobs(parameters: IngestParameters, shard_micrographs: int) -> Iterator[tuple[int, Work]]:
    for group in group_projects(plan_what_to_read(parameters), shard_micrographs):
        yield len(group), Work(", ".join(project.name for project in group), replace(parameters, roots=group))


def group_projects(plan: Plan, n_micrographs: int) -> list[tuple[Path, ...]]:
    """Return projects with something to read, in groups of at least so many micrographs.

    A job of an unknown number counts as one micrograph.
    """
    sizes: dict[Path, int] = {}
    for planned in plan.jobs:
        if planned.action == "read":
            known = [output.n_micrographs or 1 for output in planned.job.outputs]
            sizes[planned.job.project] = sizes.get(planned.job.project, 0) + max(known, default=1)
    return groups(dict(sorted(sizes.items())), n_micrographs)
