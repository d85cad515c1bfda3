"""Tables of picks that no project explains, into the database: files and folders, with the folder of micrographs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cryoflow.database import Database, OrientationRecord
from cryoflow.errors import DatabaseBusy, NotWritten
from cryoflow.ingest.ingest_report import IngestLine, IngestReport, explained, line_of_entries, with_dropped
from cryoflow.ingest.orientation_check import check_entry
from cryoflow.picks import PickSet
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention
from cryoflow.projects.tables import corner, read_tables


def ingest_tables(
    tables: Sequence[str | Path],
    database: Database | str | Path,
    *,
    micrographs: str | Path | None = None,
    name: str | None = None,
    flip: AxisConvention | None = None,
    scale: float = 1.0,
    remaps: Mapping[str, str] | None = None,
    check_orientation: bool = True,
    on_line: Callable[[IngestLine], None] | None = None,
) -> IngestReport:
    """Read tables of any format of `cryoflow.formats.pick_tables`, or folders of them, into a database.

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
    flip = flip or AS_STORED
    lines: list[IngestLine] = []

    def add(line: IngestLine) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    for table in tables:
        try:
            reading = read_tables(table, micrographs, remaps=remaps or {}, scale=scale, flip=flip)
            for i, pickset in enumerate(reading.picksets):
                if name:
                    pickset = replace(pickset, provenance=replace(pickset.provenance, project_name=name))
                if i == 0 and reading.failures:
                    pickset = replace(pickset, notes=(*pickset.notes, *reading.failures))
                line = _stored(pickset, database, check_orientation, flip) if len(pickset) else _empty(pickset)
                if i == 0 and reading.failures:
                    warnings = [*filter(None, [line.warning]), *reading.failures]
                    line = replace(line, warning="; ".join(warnings), is_incomplete=True)
                add(line)
        except (DatabaseBusy, NotWritten):
            raise
        except Exception as error:
            why = explained(error, Path(table))
            add(IngestLine(name or Path(table).absolute().parent.name, Path(table).name, "", "failed", why, 0, 0, ()))
    return IngestReport(tuple(lines))


def _stored(pickset: PickSet, database: Database, check_orientation: bool, flip: AxisConvention) -> IngestLine:
    """Write the entry of a table, and return its line."""
    if in_a_corner := corner(pickset):
        pickset = replace(pickset, notes=(*pickset.notes, in_a_corner))
    verdict, pictures = check_entry(pickset, flip) if check_orientation else (OrientationRecord(), {})
    entry = database.add(pickset, orientation=verdict, pictures=pictures)
    line = with_dropped(line_of_entries([entry], "read", ""), [pickset])
    if in_a_corner:
        return replace(line, warning=f"{entry.name}: {in_a_corner}")
    if verdict.verdict == "contradicted":
        line = replace(line, warning=f"{entry.name}: look at its overlay pictures: {verdict.detail}")
    return line


def _empty(pickset: PickSet) -> IngestLine:
    """Return the line of a table that gives no entry."""
    who, n = pickset.provenance, len(pickset.micrographs)
    line = IngestLine(who.project_name, who.job, who.kind.value, "skipped", "no picks", 0, n, ())
    return with_dropped(line, [pickset])
