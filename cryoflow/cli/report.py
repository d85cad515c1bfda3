"""`cryoflow report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cryoflow.cli.output import Json, emit_record


def report(
    *,
    database: Annotated[Path, Parameter(name=["--database", "--db"])],
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("report.html"),
    model: Path | None = None,
    training_set: tuple[Path, ...] = (),
    evaluation: Path | None = None,
    trace: Path | None = None,
    title: str = "cryoflow report",
    json: Json = False,
) -> None:
    """Write the report of a database as one HTML page that fetches nothing.

    Parameters
    ----------
    database
        The database's folder.
    output
        The page to write.
    model
        Folder of an unpicker's model: shows its training, and held-out micrographs.
    training_set
        Folder that `cryoflow export` wrote; may be given several times.
    evaluation
        JSON file of an evaluation (evaluation.json of a pipeline's output).
    trace
        What the stages of a run cost (trace.tsv of a pipeline's output).
    title
        Of the page.
    """
    from cryoflow.database import Database
    from cryoflow.report.execution import read_trace
    from cryoflow.report.page import write_report
    from cryoflow.report.sections import Evaluation, report_sections
    from cryoflow.unpicker.bundle import ModelBundle

    source = Database(database)
    sections = report_sections(
        source,
        model=ModelBundle.load(model) if model else None,
        exports=training_set,
        evaluation=Evaluation.read(evaluation) if evaluation else None,
        trace=read_trace(trace) if trace else (),
    )
    emit_record({"report": write_report(output, title, sections)}, as_json=json)
