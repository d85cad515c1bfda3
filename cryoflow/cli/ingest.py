"""`cryoflow crawl` and `cryoflow ingest`: what finished projects hold, and their picks into a database."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from cryoflow.cli import output as out

Projects = Annotated[tuple[str, ...], Parameter(negative="", consume_multiple=True)]


def crawl(
    *roots: Path,
    quick: Annotated[bool, Parameter(negative="")] = False,
    json: out.Json = False,
) -> int:
    """List the RELION and CryoSPARC projects and jobs below folders. Nothing is written.

    Each job is one line: what it is, how many picks and micrographs it has, whether it can be used, and why not.

    Parameters
    ----------
    roots
        Folders above projects, or projects.
    quick
        Leave out numbers for which tables have to be read through.
    """
    from cryoflow.errors import ExitCode
    from cryoflow.projects.crawl import crawl as crawl_projects
    from cryoflow.projects.crawl import jobs_of
    from cryoflow.projects.found import JobStatus

    if not roots:
        raise out.UsageError("name one folder or more to search.")
    with out.progress("projects found") as advance:
        found = crawl_projects(roots, on_project=lambda project: advance(1, note=project.name))
    with out.progress("jobs counted") as advance:
        listed = jobs_of(found.projects, count=not quick, on_job=lambda job: advance(1, note=job.job))
    called = {} if json else _told_apart(sorted({project.path for project in found.projects}))
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
    told = ", ".join(f"{tally[status]} {status.value}" for status in JobStatus if tally[status]) or "none"
    out.say(f"{len(found.projects)} projects, {len(listed.jobs)} jobs: {told}")
    for error in unreadable:
        out.say(f"warning: {error}")
    return ExitCode.PARTLY_FAILED if unreadable else ExitCode.OK


def ingest(
    *roots: Path,
    database: Annotated[Path, Parameter(name=["--database", "--db"])],
    workers: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1,
    micrographs: Path | None = None,
    name: str | None = None,
    scale: Annotated[float, Parameter(validator=validators.Number(gt=0))] = 1.0,
    remap: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    flip_x: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    flip_y: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    swap_xy: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    include_unfinished: Annotated[bool, Parameter(negative="")] = False,
    check_orientation: bool = True,
    again: Annotated[bool, Parameter(negative="")] = False,
    json: out.Json = False,
) -> int:
    """Read the picks of finished projects into a database. Projects are never written to.

    A second run reads only what is new or changed. A job that cannot be read is one line that says why; the others are
    read, and the exit code is 3.

    Parameters
    ----------
    roots
        Folders above projects, projects, or lone tables of picks (STAR, .cs, .csg, .box, .cbox, Topaz text, CSV).
    database
        The database's folder; made where it is not there.
    workers
        Jobs that are read at the same time.
    micrographs
        Folder of the micrographs of lone tables.
    name
        What to call the project of lone tables; by default after their folder.
    scale
        What positions of lone tables are multiplied with: 8 for a Topaz table of micrographs downsampled 8 times.
    remap
        OLD=NEW: a folder of micrographs that has moved. May be given several times.
    flip_x
        Project (its name or path; any word for lone tables) whose x counts from the other side. May be repeated.
    flip_y
        Project whose y counts from the other side.
    swap_xy
        Project whose x and y are exchanged (before any flip).
    include_unfinished
        Read jobs that run or failed, too.
    check_orientation
        Compare the picks with the pixels of a few micrographs, and draw them.
    again
        Read unchanged jobs again, too.
    """
    from cryoflow.database import Database
    from cryoflow.errors import BadInput
    from cryoflow.ingest import IngestLine, IngestReport
    from cryoflow.ingest import ingest as ingest_projects
    from cryoflow.ingest.options import flips_by_project
    from cryoflow.ingest.tables import ingest_tables
    from cryoflow.micrographs.find import parse_remaps
    from cryoflow.projects.flip import Flip

    if not roots:
        raise out.UsageError("name one folder or file or more to read.")
    tables = [root for root in roots if root.is_file()]
    folders = [root for root in roots if not root.is_file()]
    if micrographs is not None and folders:  # a folder of tables, one a micrograph
        tables, folders = list(roots), []
    if not tables and (name is not None or scale != 1):
        raise out.UsageError("--name and --scale are for lone tables: name a file, or a folder with --micrographs.")
    flips, remaps = flips_by_project(flip_x, flip_y, swap_xy), parse_remaps(remap)
    store = Database(database)
    lines: list[IngestLine] = []
    unreadable: list[BadInput] = []
    with out.progress("jobs") as advance:

        def tell(line: IngestLine) -> None:
            lines.append(line)
            advance(1, note=f"{line.project} {line.job}")

        if tables:
            flip = Flip(bool(flip_x), bool(flip_y), bool(swap_xy))
            ingest_tables(
                tables,
                store,
                micrographs=micrographs,
                name=name,
                flip=flip,
                scale=scale,
                remaps=remaps,
                check_orientation=check_orientation,
                on_line=tell,
            )
        if folders:
            report = ingest_projects(
                folders,
                store,
                workers=workers,
                include_unfinished=include_unfinished,
                remaps=remaps,
                flips=flips,
                check_orientation=check_orientation,
                reread=again,
                on_line=tell,
            )
            unreadable += report.unreadable
    report = IngestReport(tuple(lines), tuple(unreadable))
    shown = [line for line in lines if json or not line.reason.startswith("not of interest")]
    columns = ["project", "job", "kind", "status", "n_picks", "n_micrographs", "entries", "reason"]
    if json:
        out.emit_json({"jobs": shown, "unreadable": unreadable, "summary": report.summary})
    else:
        out.emit_table(shown, columns=columns, title="Ingest", empty="no job of interest")
    for line in lines:
        if line.warning:
            out.say(f"warning: {line.warning}")
    for error in unreadable:
        out.say(f"warning: {error}")
    out.say(report.summary)
    return report.exit_code


def _told_apart(projects: list[Path]) -> dict[Path, str]:
    """What to call projects on a terminal: by name, and those of one name by as many folders above as it takes."""
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
