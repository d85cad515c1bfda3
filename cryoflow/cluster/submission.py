"""Submit the SLURM job of a flow run exactly once: also where sbatch gives no answer, and where a limit is reached."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
from prefect.client.schemas.objects import FlowRun

from cryoflow.cluster.job import SlurmJobConfiguration
from cryoflow.cluster.packs import Gatherer, pack_log
from cryoflow.errors import CryoflowError, ToolFailed
from cryoflow.execution import stage_script
from cryoflow.execution.pack_script import forget_pack, pack_of
from cryoflow.execution.schedulers import AnyScheduler
from cryoflow.execution.slurm import SchedulerSilent
from cryoflow.storage.files import write_atomically
from cryoflow.storage.safe_names import safe_name

SCRIPT = ".sbatch"
"""Suffix of a job's script, which lies beside its log."""
SUBMIT_AT_ONCE = 4
SUBMIT_ATTEMPTS = 3
LIMIT_PAUSE_S = 30.0
"""Between two attempts while a limit of the site is reached: it passes when a job of this user ends."""

_MAY_PASS = re.compile(r"socket timed out|unable to contact|connection refused|try again|ran longer", re.IGNORECASE)
_NOT_SENT = re.compile(r"connection refused|connect failure", re.IGNORECASE)
_LIMIT = re.compile(r"job submit limit|temporarily", re.IGNORECASE)
_REASON = re.compile(r"\b(?:Assoc|QOS)[A-Z]\w*")
"""Name of the limit that a job violates. SLURM's sentence is the same for all: it contains "job submit limit" too."""
_NO_NODES = re.compile(r"node configuration is not available|node count specification invalid", re.IGNORECASE)

log = logging.getLogger(__name__)


class CancelledBeforeSubmission(CryoflowError):
    """The run was cancelled while it waited for a submit limit to pass: it has no job."""


class AnswerLost(CryoflowError):
    """A job may have been submitted, and the scheduler's queue does not show for which run a job is."""

    def __init__(self, why: object) -> None:
        super().__init__(
            f"A job may have been submitted for this run, and the queue does not show which: {why}. If there is one, "
            "the run goes on when it starts. Look for it before you start the run again."
        )


def can_be_found(scheduler: AnyScheduler, leave_out: Collection[str]) -> bool:
    """Return whether the queue shows the comment of a job without these options, by which its run is found."""
    return scheduler.lists_comments and "comment" not in leave_out


class Submission:
    """Submits jobs, some at the same time."""

    def __init__(self, scheduler: AnyScheduler, *, poll_s: float) -> None:
        self.scheduler, self.poll_s = scheduler, poll_s
        self._at_once = asyncio.Semaphore(SUBMIT_AT_ONCE)
        self.packs = Gatherer(self._submit)

    async def submit(
        self,
        flow_run: FlowRun,
        configuration: SlurmJobConfiguration,
        log_file: Path,
        is_cancelled: Callable[[], Awaitable[bool]],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = log,
    ) -> int:
        """Write the job's script, submit it, and return the job's number: that of a pack where runs share jobs.

        Raises
        ------
        ToolFailed
            Where sbatch refuses.
        CancelledBeforeSubmission
            Where a user cancelled the run while a submit limit was waited for.
        AnswerLost
            Where sbatch gave no answer, and a second job might be made.
        """
        name = _stage_and_name(flow_run, configuration)
        job = configuration.stage_job(name=name, flow_run_id=flow_run.id, log=log_file)
        if configuration.pack > 1:
            size, at_once = configuration.pack, configuration.pack_at_once
            return await self.packs.add(flow_run, job, log_file, is_cancelled, size=size, at_once=at_once)
        await anyio.to_thread.run_sync(forget_pack, log_file)
        log_file.with_suffix(SCRIPT).unlink(missing_ok=True)  # of an earlier job
        return await self._submit(str(flow_run.id), job, log_file, is_cancelled, logger)

    async def _submit(
        self,
        tag: str,
        job: stage_script.StageJob,
        log_file: Path,
        is_cancelled: Callable[[], Awaitable[bool]],
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger] = log,
    ) -> int:
        """Submit a job, waiting for limits to pass. `tag` is the id of its run or pack, which its comment ends with."""
        is_first = True
        while True:
            try:
                return await self._submit_now(tag, job, log_file)
            except ToolFailed as error:
                if job.request.exclude and _NO_NODES.search(error.tail):
                    logger.warning("No other node than %s can run it: they are allowed again", job.request.exclude)
                    job = replace(job, request=replace(job.request, exclude=()))
                    continue
                if not _is_submit_limit(error.tail):
                    raise
                if is_first:
                    logger.warning("SLURM accepts no more jobs of this user for now, it is tried again: %s", error.tail)
                is_first = False
            await anyio.sleep(LIMIT_PAUSE_S)
            if await is_cancelled():
                raise CancelledBeforeSubmission("The run was cancelled before it had a SLURM job.")

    async def _submit_now(self, tag: str, job: stage_script.StageJob, log_file: Path) -> int:
        script = log_file.with_suffix(SCRIPT)
        environment = stage_script.environment(job, os.environ)
        async with self._at_once:
            await anyio.to_thread.run_sync(write_atomically, script, self.scheduler.script(job))
            for attempt in range(1, SUBMIT_ATTEMPTS + 1):
                try:
                    return await self._sbatch(script, environment)
                except ToolFailed as error:
                    if not can_be_found(self.scheduler, job.request.leave_out) and _is_answer_lost(error):
                        raise AnswerLost(error) from error
                    if attempt == SUBMIT_ATTEMPTS or not _MAY_PASS.search(error.tail):
                        script.unlink(missing_ok=True)
                        raise
                if (job_id := await self._submitted_without_an_answer(tag)) is not None:
                    return job_id
        raise AssertionError("the last attempt returns or raises")

    async def _sbatch(self, script: Path, environment: Mapping[str, str]) -> int:
        return await anyio.to_thread.run_sync(self.scheduler.submit, script, environment)

    async def _submitted_without_an_answer(self, tag: str) -> int | None:
        """Return the job of a run or pack after a failed sbatch.

        It waits for SLURM's answer: a second job must not be made.
        """
        while True:
            await anyio.sleep(self.poll_s)
            try:
                queue = await anyio.to_thread.run_sync(self.scheduler.queue)
            except SchedulerSilent:
                continue
            return stage_script.find(queue.values(), tag)


def _is_answer_lost(error: ToolFailed) -> bool:
    """Return whether a failed submission may have made a job."""
    no_number = error.returncode == 0
    return no_number or bool(_MAY_PASS.search(error.tail) and not _NOT_SENT.search(error.tail))


def may_have_job(log_file: Path) -> bool:
    """Return whether the job of a run with this log may have been submitted: the script of a refused one is removed."""
    pack = pack_of(log_file)
    job_log = pack_log(log_file, pack[0]) if pack else log_file
    return job_log.with_suffix(SCRIPT).exists()


def _is_submit_limit(refusal: str) -> bool:
    """Return whether a refusal passes when a job of this user ends, or a full queue gets shorter.

    >>> _is_submit_limit("QOSMaxWallDurationPerJobLimit: policy (job submit limit, user's size and/or time limits)")
    False
    """
    if reasons := _REASON.findall(refusal):  # `AssocMaxSubmitJobLimit`, `QOSMaxSubmitJobPerUserLimit`, ...
        return any("Submit" in reason for reason in reasons)
    return bool(_LIMIT.search(refusal))


def log_file(flow_run: FlowRun, configuration: SlurmJobConfiguration) -> Path:
    """Return where the output of a run's job goes."""
    name = safe_name(_stage_and_name(flow_run, configuration).replace(" ", "_"), longest=60)
    return Path(configuration.log_folder) / f"{name}.{flow_run.id}.log"


def _stage_and_name(flow_run: FlowRun, configuration: SlurmJobConfiguration) -> str:
    """Return a name for squeue and the log: the stage's, before the words that Prefect invents for a run."""
    stage = configuration.labels.get("prefect.io/flow-name") or ""
    return flow_run.name if flow_run.name.startswith(stage) else f"{stage} {flow_run.name}"
