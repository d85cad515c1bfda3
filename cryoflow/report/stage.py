"""The report as a function of its parameters."""

from __future__ import annotations

from pathlib import Path

from cryoflow import __version__
from cryoflow.database import Database
from cryoflow.models.find_model import with_model
from cryoflow.report.execution import read_trace
from cryoflow.report.page import write_report
from cryoflow.report.parameters import ReportParameters
from cryoflow.report.sections import ReportedEvaluation, report_sections
from cryoflow.unpicker.bundle import ModelBundle


def report(parameters: ReportParameters) -> Path:
    """Write the report of a database as one HTML page that fetches nothing; return its path."""
    p = with_model(parameters)
    sections = report_sections(
        Database(p.database),
        model=ModelBundle.load(p.model) if p.model else None,
        exports=p.exports,
        evaluation=ReportedEvaluation.read(p.evaluation) if p.evaluation else None,
        trace=read_trace(p.trace) if p.trace else (),
        masks=p.masks,
    )
    return write_report(p.output, p.title, sections, subtitle=str(p.database), footer=f"cryoflow {__version__}")
