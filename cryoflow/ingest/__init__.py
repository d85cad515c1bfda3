"""The stage between projects and the database: crawl, decide what changed, read, write, tell what became of each."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryoflow.ingest.ingest_report import IngestLine as IngestLine
    from cryoflow.ingest.ingest_report import IngestReport as IngestReport
    from cryoflow.ingest.options import IngestOptions as IngestOptions
    from cryoflow.ingest.plan import Plan as Plan
    from cryoflow.ingest.plan import PlannedJob as PlannedJob
    from cryoflow.ingest.plan import plan_jobs as plan_jobs
    from cryoflow.ingest.read_jobs import ingest as ingest
    from cryoflow.ingest.read_jobs import ingest_job as ingest_job
    from cryoflow.ingest.read_jobs import mark_gone as mark_gone
    from cryoflow.ingest.standalone_tables import ingest_tables as ingest_tables
    from cryoflow.projects.axis_convention import AxisConvention as AxisConvention

_HOMES = {
    "AxisConvention": "cryoflow.projects.axis_convention",
    "IngestLine": "cryoflow.ingest.ingest_report",
    "IngestOptions": "cryoflow.ingest.options",
    "IngestReport": "cryoflow.ingest.ingest_report",
    "Plan": "cryoflow.ingest.plan",
    "PlannedJob": "cryoflow.ingest.plan",
    "ingest": "cryoflow.ingest.read_jobs",
    "ingest_job": "cryoflow.ingest.read_jobs",
    "ingest_tables": "cryoflow.ingest.standalone_tables",
    "mark_gone": "cryoflow.ingest.read_jobs",
    "plan_jobs": "cryoflow.ingest.plan",
}
"""Public name -> module that defines it. Imported at its first use: declarations of this package stay cheap."""

__all__ = [
    "AxisConvention",
    "IngestLine",
    "IngestOptions",
    "IngestReport",
    "Plan",
    "PlannedJob",
    "ingest",
    "ingest_job",
    "ingest_tables",
    "mark_gone",
    "plan_jobs",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
