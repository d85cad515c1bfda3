"""`cryoflow report`."""

from __future__ import annotations

from cryoflow.cli.declared import declared
from cryoflow.cli.output import Json, emit_record
from cryoflow.report.parameters import ReportParameters


@declared
def report(parameters: ReportParameters, *, json: Json = False) -> None:
    """Write the report of a database as one HTML page that fetches nothing."""
    from cryoflow.report.stage import report as write

    emit_record({"report": write(parameters)}, as_json=json)
