"""Ingest as a function of its parameters."""

from __future__ import annotations

from collections.abc import Callable

from cryoflow.database import Database
from cryoflow.ingest.ingest_report import IngestLine, IngestReport
from cryoflow.ingest.options import IngestOptions, flips_by_project
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.ingest.read_jobs import ingest
from cryoflow.ingest.standalone_tables import ingest_tables
from cryoflow.remaps import parse_remaps


def options_of(parameters: IngestParameters) -> IngestOptions:
    """Return how jobs are read."""
    p = parameters
    flips = flips_by_project(p.flip_x, p.flip_y, p.swap_xy)
    return IngestOptions(p.include_unfinished, parse_remaps(p.remaps), flips, p.check_orientation, p.again)


def ingest_roots(parameters: IngestParameters, *, on_line: Callable[[IngestLine], None] | None = None) -> IngestReport:
    """Read projects and tables of picks into the database.

    Parameters
    ----------
    on_line
        Called with what became of each job.
    """
    p, options = parameters, options_of(parameters)
    tables, folders = p.tables_and_folders()
    database = Database(p.database)
    reports = []
    if tables:
        anything = flips_by_project(*(("",) if axis else () for axis in (p.flip_x, p.flip_y, p.swap_xy)))
        reports.append(
            ingest_tables(
                tables,
                database,
                micrographs=p.micrographs,
                name=p.name,
                flip=anything.get(""),
                scale=p.scale,
                remaps=options.remaps,
                check_orientation=p.check_orientation,
                on_line=on_line,
            )
        )
    if folders:
        reports.append(
            ingest(
                folders,
                database,
                workers=p.workers,
                include_unfinished=options.include_unfinished,
                remaps=options.remaps,
                flips=options.flips,
                check_orientation=options.check_orientation,
                reread=options.reread,
                on_line=on_line,
            )
        )
    lines = [line for report in reports for line in report.lines]
    return IngestReport(tuple(lines), tuple(error for report in reports for error in report.unreadable))
