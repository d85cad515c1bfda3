"""Report: one HTML page on what was read, trained and cleaned."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from cryoflow import __version__
from cryoflow.database import Database
from flows.parameters import ReportParameters
from flows.watching import run_name, show_link


@flow(name="report", flow_run_name=run_name("report", lambda p: p.database.name))
def report(parameters: ReportParameters) -> Path:
    """Write the page; it is one file that fetches nothing."""
    page = write_page(parameters)
    show_link("report", page, "the report")
    return page


@task(task_run_name="write the page")
def write_page(parameters: ReportParameters) -> Path:
    """Figures, tables and pictures."""
    from cryoflow.report.execution import read_trace
    from cryoflow.report.page import write_report
    from cryoflow.report.sections import Evaluation, report_sections
    from cryoflow.unpicker.bundle import ModelBundle

    sections = report_sections(
        Database(parameters.database),
        model=ModelBundle.load(parameters.model) if parameters.model else None,
        exports=parameters.exports,
        evaluation=Evaluation.read(parameters.evaluation) if parameters.evaluation else None,
        trace=read_trace(parameters.trace) if parameters.trace else (),
    )
    return write_report(
        parameters.output,
        parameters.title,
        sections,
        subtitle=str(parameters.database),
        footer=f"cryoflow {__version__}",
    )
