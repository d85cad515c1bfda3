"""Lone tables of picks into the database: files that no project explains, with the folder of their micrographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cryoflow.database import Database, Orientation
from cryoflow.errors import DatabaseBusy, NotWritten
from cryoflow.ingest.look import look
from cryoflow.ingest.report import IngestLine, IngestReport, explained, line_of_entries
from cryoflow.projects.flip import NO_FLIP, Flip
from cryoflow.projects.tables import read_table_of_picks


def ingest_tables(
    tables: Sequence[str | Path],
    database: Database | str | Path,
    *,
    micrographs: str | Path | None = None,
    name: str | None = None,
    flip: Flip | None = None,
    remaps: Mapping[str, str] | None = None,
    check_orientation: bool = True,
    on_line: Callable[[IngestLine], None] | None = None,
) -> IngestReport:
    """Read tables (STAR, .cs, .csg, .box, .cbox, Topaz text, CSV; a folder of one file a micrograph) into a database.

    Parameters
    ----------
    micrographs
        Folder of the micrographs.
    name
        What to call the project; by default after the tables' folder.
    flip
        What brings their picks into the frame.

    Raises
    ------
    DatabaseBusy, NotWritten
        Where the database cannot be written. What is wrong with a table is in its line of the report.
    """
    database = database if isinstance(database, Database) else Database(database)
    lines = []
    for table in tables:
        try:
            pickset = read_table_of_picks(table, micrographs, remaps=remaps or {}, flip=flip or NO_FLIP)
            if name:
                pickset = replace(pickset, provenance=replace(pickset.provenance, project_name=name))
            seen = look(pickset) if check_orientation and len(pickset) else (Orientation(), {})
            entry = database.add(pickset, orientation=seen[0], pictures=seen[1])
            line = line_of_entries([entry], "read", "")
            if seen[0].verdict == "contradicted":
                line = replace(line, warning=f"{entry.name}: look at its overlay pictures: {seen[0].detail}")
        except (DatabaseBusy, NotWritten):
            raise
        except Exception as error:
            why = explained(error, Path(table))
            line = IngestLine(name or Path(table).parent.name, Path(table).name, "", "failed", why, 0, 0, ())
        lines.append(line)
        if on_line:
            on_line(line)
    return IngestReport(tuple(lines))
