"""Report: one HTML page about the entries, the training and the clean picks."""

from __future__ import annotations

from pathlib import Path

from prefect import flow, task

from cryoflow.report.parameters import ReportParameters
from flows.run_page import run_name, show_link


@flow(name="report", flow_run_name=run_name("report", lambda p: p.database.name))
def report(parameters: ReportParameters) -> Path:
    """Write the report as one HTML file that loads nothing from elsewhere."""
    page = write_page(parameters)
    show_link("report", page, "the report")
    return page


@task(task_run_name="write the page")
def write_page(parameters: ReportParameters) -> Path:
    """Write figures, tables and pictures."""
    from cryoflow.report.stage import report as write

    return write(parameters)
