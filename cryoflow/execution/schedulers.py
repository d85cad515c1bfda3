"""Which scheduler runs the jobs of a site, and what all of them can do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryoflow.execution.slurm import EndedJob, QueuedJob, Scheduler
from cryoflow.execution.template_scheduler import SchedulerTemplates, TemplateScheduler

if TYPE_CHECKING:
    from cryoflow.execution.stage_script import StageJob
    from cryoflow.settings.site import Site


class AnyScheduler(Protocol):
    """Submit, list and cancel jobs, whatever the scheduler. All methods block."""

    lists_comments: bool
    """Whether `queue` returns the comment of each job, which names its run."""

    def script(self, job: StageJob) -> str:
        """Return the whole job script of a stage."""

    def submit(self, script: Path, environment: Mapping[str, str]) -> int:
        """Submit a job script and return the job's number."""

    def queue(self) -> dict[int, QueuedJob]:
        """Return the jobs of this user that wait or run, or raise `SchedulerSilent`."""

    def ended(self, job_ids: Collection[int]) -> dict[int, EndedJob]:
        """Return those of some jobs that have ended."""

    def cancel(self, job_ids: Collection[int]) -> None:
        """End jobs; ended ones are no error."""


def scheduler_of(site: Site, min_interval_s: float) -> AnyScheduler:
    """Return the scheduler of a site: templates, slurmrestd, or the commands of SLURM.

    Parameters
    ----------
    min_interval_s
        Seconds between two requests for SLURM's queue.
    """
    if site.scheduler:
        return TemplateScheduler(SchedulerTemplates.of(site.scheduler))
    if site.slurmrestd:
        from cryoflow.execution.slurm_rest import RestScheduler

        return RestScheduler(site.slurmrestd, site.slurmrestd_version, min_interval_s=min_interval_s)
    return Scheduler(min_interval_s=min_interval_s)
