"""Lone tables of picks into the database: files that no project explains, with the folder of their micrographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cryoflow.database import Database, Orientation
from cryoflow.errors import DatabaseBusy, NotWritten
from cryoflow.ingest.look import look
from cryoflow.ingest.report import IngestLine, IngestReport, explained, line_of_entries, with_dropped
from cryoflow.picks import PickSet
from cryoflow.projects.flip import NO_FLIP, Flip
from cryoflow.projects.tables import corner, read_table_of_picks


def ingest_tables(
    tables: Sequence[str | Path],
    database: Database | str | Path,
    *,
    micrographs: str | Path | None = None,
    name: str | None = None,
    flip: Flip | None = None,
    scale: float = 1.0,
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
    scale
        What their positions are multiplied with: how many times smaller the micrographs were that they were made on.

    Raises
    ------
    DatabaseBusy, NotWritten
        Where the database cannot be written. What is wrong with a table is in its line of the report.
    """
    database = database if isinstance(database, Database) else Database(database)
    lines = []
    for table in tables:
        try:
            pickset = read_table_of_picks(table, micrographs, remaps=remaps or {}, scale=scale, flip=flip or NO_FLIP)
            if name:
                pickset = replace(pickset, provenance=replace(pickset.provenance, project_name=name))
            line = _stored(pickset, database, check_orientation, flip or NO_FLIP) if len(pickset) else _empty(pickset)
        except (DatabaseBusy, NotWritten):
            raise
        except Exception as error:
            why = explained(error, Path(table))
            line = IngestLine(name or Path(table).absolute().parent.name, Path(table).name, "", "failed", why, 0, 0, ())
        lines.append(line)
        if on_line:
            on_line(line)
    return IngestReport(tuple(lines))


def _stored(pickset: PickSet, database: Database, check_orientation: bool, flip: Flip) -> IngestLine:
    """Write the entry of a table, and give its line."""
    if in_a_corner := corner(pickset):
        pickset = replace(pickset, notes=(*pickset.notes, in_a_corner))
    verdict, pictures = look(pickset, flip) if check_orientation else (Orientation(), {})
    entry = database.add(pickset, orientation=verdict, pictures=pictures)
    line = with_dropped(line_of_entries([entry], "read", ""), [pickset])
    if in_a_corner:
        return replace(line, warning=f"{entry.name}: {in_a_corner}")
    if verdict.verdict == "contradicted":
        line = replace(line, warning=f"{entry.name}: look at its overlay pictures: {verdict.detail}")
    return line


def _empty(pickset: PickSet) -> IngestLine:
    """The line of a table that gives no entry."""
    who, n = pickset.provenance, len(pickset.micrographs)
    line = IngestLine(who.project_name, who.job, who.kind.value, "skipped", "no picks", 0, n, ())
    return with_dropped(line, [pickset])
