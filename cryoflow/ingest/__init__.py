"""The stage between projects and the database: crawl, decide what changed, read, write, tell what became of each."""

from cryoflow.ingest.options import IngestOptions
from cryoflow.ingest.plan import Plan, PlannedJob, plan_jobs
from cryoflow.ingest.report import IngestLine, IngestReport
from cryoflow.ingest.run import ingest, ingest_job, mark_gone
from cryoflow.ingest.tables import ingest_tables
from cryoflow.projects.flip import Flip

__all__ = [
    "Flip",
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
