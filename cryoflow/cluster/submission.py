"""Submitting the SLURM job of a flow run: once and only once, also where sbatch gets no answer."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from uuid import UUID

import anyio
import anyio.to_thread
from prefect.client.schemas.objects import FlowRun

from cryoflow.cluster import watch
from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.errors import ToolFailed
from cryoflow.execution import stage_script
from cryoflow.execution.slurm import Scheduler, SchedulerSilent
from cryoflow.storage.files import write_atomically
from cryoflow.storage.safe_names import safe_name

SUBMIT_AT_ONCE = 4
SUBMIT_ATTEMPTS = 3


class Submission:
    """Submits jobs, some at the same time."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._at_once = asyncio.Semaphore(SUBMIT_AT_ONCE)

    async def submit(self, flow_run: FlowRun, configuration: SlurmJobConfiguration, log: Path) -> int:
        """Write the job's script and submit it; the job's number.

        Raises
        ------
        ToolFailed
            Where sbatch refuses.
        """
        name = _told_apart(flow_run, configuration)
        job = configuration.stage_job(name=name, flow_run_id=flow_run.id, log=log)
        text = stage_script.script(job)
        script = log.with_suffix(".sbatch")
        environment = stage_script.environment(job, os.environ)
        async with self._at_once:
            await anyio.to_thread.run_sync(write_atomically, script, text)
            for attempt in range(1, SUBMIT_ATTEMPTS + 1):
                try:
                    return await anyio.to_thread.run_sync(self.scheduler.submit, script, environment)
                except ToolFailed as error:
                    if attempt == SUBMIT_ATTEMPTS or not _may_pass(error.tail):
                        raise
                if (job_id := await self._submitted_without_an_answer(flow_run.id)) is not None:
                    return job_id
        raise AssertionError("the last attempt returns or raises")

    async def _submitted_without_an_answer(self, flow_run_id: UUID) -> int | None:
        """The job of a run after a failed sbatch. Waits until SLURM can tell: a second job must not be made."""
        while True:
            await anyio.sleep(watch.LOOK_EVERY_S)
            try:
                queue = await anyio.to_thread.run_sync(self.scheduler.queue)
            except SchedulerSilent:
                continue
            return stage_script.find(queue.values(), flow_run_id)


def log_file(flow_run: FlowRun, configuration: SlurmJobConfiguration) -> Path:
    """Where the output of a run's job goes."""
    name = safe_name(_told_apart(flow_run, configuration).replace(" ", "_"), longest=60)
    return Path(configuration.log_folder) / f"{name}.{flow_run.id}.log"


def _told_apart(flow_run: FlowRun, configuration: SlurmJobConfiguration) -> str:
    """A name for squeue and the log: what the stage is, before the words that Prefect invents for a run."""
    stage = configuration.labels.get("prefect.io/flow-name") or ""
    return flow_run.name if flow_run.name.startswith(stage) else f"{stage} {flow_run.name}"


def _may_pass(tail: str) -> bool:
    """Whether sbatch failed for a reason that may be gone in a moment."""
    signs = ("socket timed out", "unable to contact", "temporarily", "connection refused", "try again", "ran longer")
    return any(sign in tail.lower() for sign in signs)
