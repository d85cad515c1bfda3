"""`cryoflow crawl` and `cryoflow ingest`: list finished projects, and read their picks into a database."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.ingest.parameters import CrawlParameters, IngestParameters

if TYPE_CHECKING:
    from cryoflow.ingest import IngestLine


@declared
def crawl(parameters: CrawlParameters, *, json: out.Json = False) -> int:
    """List the RELION and CryoSPARC projects and jobs below folders. Nothing is written.

    Each job is one line: what it is, how many picks and micrographs it has, whether it can be used, and why not.
    """
    from cryoflow.errors import ExitCode
    from cryoflow.projects.crawl import crawl as crawl_projects
    from cryoflow.projects.crawl import jobs_of
    from cryoflow.projects.found import JobStatus

    with out.progress("projects found") as advance:
        found = crawl_projects(parameters.roots, on_project=lambda project: advance(1, note=project.name))
    with out.progress("jobs counted") as advance:
        listed = jobs_of(found.projects, count=not parameters.quick, on_job=lambda job: advance(1, note=job.job))
    called = {} if json else _disambiguated(sorted({project.path for project in found.projects}))
    rows = [
        {
            "project": called.get(job.project, job.project_name),
            "job": job.job,
            "kind": job.kind.value,
            "status": job.status.value,
            "picks": _sum([o.n_picks for o in job.outputs]),
            "micrographs": _largest([o.n_micrographs for o in job.outputs]),
            "outputs": len(job.outputs),
            "reason": job.reason,
            "type": job.job_type,
            "title": job.alias or job.title,
            "path": job.folder,
        }
        for job in listed.jobs
    ]
    columns = ["project", "job", "kind", "status", "picks", "micrographs", "reason", "title"]
    unreadable = [*found.unreadable, *listed.unreadable]
    if json:
        projects = [
            {"name": p.name, "program": p.program, "version": p.program_version, "path": p.path, "notes": p.notes}
            for p in found.projects
        ]
        out.emit_json({"projects": projects, "jobs": rows, "unreadable": unreadable})
    else:
        out.emit_table(rows, columns=columns, title="Jobs", empty="no job")
    tally = Counter(job.status for job in listed.jobs)
    counts = ", ".join(f"{tally[status]} {status.value}" for status in JobStatus if tally[status]) or "none"
    out.say(f"{len(found.projects)} projects, {len(listed.jobs)} jobs: {counts}")
    for error in unreadable:
        out.say(f"warning: {error}")
    return ExitCode.PARTLY_FAILED if unreadable else ExitCode.OK


@declared
def ingest(parameters: IngestParameters, *, json: out.Json = False) -> int:
    """Read the picks of finished projects into a database. Projects are never written to.

    A second run reads only what is new or changed. A job that cannot be read is one line that says why; the others are
    read, and the exit code is 3.
    """
    from cryoflow.ingest.stage import ingest_roots

    with out.progress("jobs") as advance:

        def count(line: IngestLine) -> None:
            advance(1, note=f"{line.project} {line.job}")

        report = ingest_roots(parameters, on_line=count)
    shown = [line for line in report.lines if json or not line.reason.startswith("not of interest")]
    columns = ["project", "job", "kind", "status", "n_picks", "n_micrographs", "entries", "reason"]
    if json:
        out.emit_json({"jobs": shown, "unreadable": report.unreadable, "summary": report.summary})
    else:
        out.emit_table(shown, columns=columns, title="Ingest", empty="no job of interest")
    for line in report.lines:
        if line.warning:
            out.say(f"warning: {line.warning}")
    for error in report.unreadable:
        out.say(f"warning: {error}")
    out.say(report.summary)
    return report.exit_code


def _disambiguated(projects: list[Path]) -> dict[Path, str]:
    """Return what to call projects on a terminal: by name, and those of one name by as many folders above as it
    takes."""
    names = {}
    for project in projects:
        n, alike = 1, [other for other in projects if other.name == project.name]
        while sum(other.parts[-n:] == project.parts[-n:] for other in alike) > 1:
            n += 1
        names[project] = "/".join(project.parts[-n:])
    return names


def _sum(numbers: list[int | None]) -> int | None:
    known = [n for n in numbers if n is not None]
    return sum(known) if known else None


def _largest(numbers: list[int | None]) -> int | None:
    return max((n for n in numbers if n is not None), default=None)
