"""Gather runs with the same requests into packs, so that many small stages are one job of the scheduler."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from prefect.client.schemas.objects import FlowRun

from cryoflow.execution import pack_script
from cryoflow.execution.job_script import job_name
from cryoflow.execution.pack_script import Member, Pack
from cryoflow.execution.stage_script import TAG, StageJob

GATHER_S = 15.0
"""Seconds after its last member at which a pack that is not full is submitted."""

_OF_RUN = "PREFECT__"
"""Start of the variables that name a flow run; they differ among the members of a pack."""
_PREPARED_MINUTES = 1
"""Minutes of the job beside those of its members, for starting and ending each."""

IsCancelled = Callable[[], Awaitable[bool]]
Submit = Callable[[str, StageJob, Path, IsCancelled], Awaitable[int]]
"""Submits the job of a pack: its id, the job, the log of the job itself, and whether all of its runs are cancelled."""


@dataclass
class _Open:
    """A pack that runs are still added to."""

    size: int
    job: StageJob
    members: dict[str, Member] = field(default_factory=dict)
    is_cancelled: list[IsCancelled] = field(default_factory=list)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    job_id: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def is_full(self) -> bool:
        return len(self.members) >= self.size

    async def all_cancelled(self) -> bool:
        return all([await is_cancelled() for is_cancelled in self.is_cancelled])


class Gatherer:
    """The packs that are being filled.

    Parameters
    ----------
    submit
        Submits the job of a pack, and returns its number.
    """

    def __init__(self, submit: Submit) -> None:
        self.submit = submit
        self._open: dict[str, _Open] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def add(
        self, flow_run: FlowRun, job: StageJob, log: Path, is_cancelled: IsCancelled, *, size: int, at_once: int
    ) -> int:
        """Add a run to a pack of runs with the same requests, and return the number of its job once that is submitted.

        Parameters
        ----------
        size
            Number of runs in a full pack.
        at_once
            Number of them that run at the same time; the job asks for so many times the resources of one.
        """
        like = _without_run(job)
        pack = self._open.get(like)
        if pack is None:
            pack = self._open[like] = _Open(size, job)
            task = asyncio.ensure_future(self._fill(like, pack, at_once))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        own = {name: value for name, value in job.environment.items() if name.startswith(_OF_RUN)}
        pack.members[str(flow_run.id)] = Member(log, own)
        pack.is_cancelled.append(is_cancelled)
        if pack.is_full:
            del self._open[like]  # the next run opens another
        pack.changed.set()
        return await asyncio.shield(pack.job_id)

    async def _fill(self, like: str, pack: _Open, at_once: int) -> None:
        """Wait until a pack is full or no more runs come, and submit it."""
        while not pack.is_full:
            pack.changed.clear()
            try:
                await asyncio.wait_for(pack.changed.wait(), GATHER_S)
            except TimeoutError:
                break
        if self._open.get(like) is pack:
            del self._open[like]
        try:
            pack.job_id.set_result(await self._submit(pack, at_once))
        except BaseException as error:
            if not pack.job_id.done():
                pack.job_id.set_exception(error)
            if not isinstance(error, Exception):
                raise

    async def _submit(self, pack: _Open, at_once: int) -> int:
        pack_id = str(uuid.uuid4())
        job, log = packed(pack.job, tuple(pack.members.values()), at_once, pack_id)
        for member in pack.members.values():
            await asyncio.to_thread(pack_script.write_pack, member.log, pack_id, list(pack.members))
        return await self.submit(pack_id, job, log, pack.all_cancelled)


def packed(job: StageJob, members: tuple[Member, ...], at_once: int, pack_id: str) -> tuple[StageJob, Path]:
    """Return the job of a pack whose members each ask for the same as `job`, and the log of the job itself."""
    request = job.request
    pack = Pack(members, min(at_once, len(members)), request.all_minutes, request.gpus, request.warn_s)
    threads = str(request.cpus)
    counts = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    log = pack_log(members[0].log, pack_id)
    request = replace(
        request,
        name=job_name(f"{len(members)} x {request.name}"),
        log=str(log),
        comment=f"{TAG}{pack_id}",
        cpus=request.cpus * pack.at_once,
        memory_mb=request.memory_mb and request.memory_mb * pack.at_once,
        gpus=request.gpus * pack.at_once,
        minutes=(request.all_minutes + _PREPARED_MINUTES) * pack.rounds,
        time_factor=1.0,
        warn_s=0,
    )
    return replace(job, request=request, environment=counts | dict(job.environment), pack=pack), log


def pack_log(member_log: Path, pack_id: str) -> Path:
    """Return the log of a pack's own job."""
    return member_log.with_name(f"pack.{pack_id}.log")


def _without_run(job: StageJob) -> str:
    """Return the text of a job without what names its run: equal for all that may share a pack."""
    environment = {name: value for name, value in job.environment.items() if not name.startswith(_OF_RUN)}
    return repr(replace(job, request=replace(job.request, name="", log="", comment=""), environment=environment))


@dataclass(frozen=True)
class CancelledRun:
    """A run that a user cancelled, its job, and its log where that is known."""

    run_id: str
    job_id: int
    log: Path | None


def jobs_to_cancel(cancelled: Sequence[CancelledRun]) -> list[int]:
    """Return the jobs to end, and ask packs with further members to end the cancelled ones alone."""
    ids = {run.run_id for run in cancelled}
    jobs = []
    for run in cancelled:
        pack = pack_script.pack_of(run.log) if run.log else None
        if run.log is None or pack is None:
            jobs.append(run.job_id)
            continue
        others = (other for other in pack[1] if other not in ids)
        if any(pack_script.end_of_member(run.job_id, _log_of(other, run)) is None for other in others):
            pack_script.cancel_member(run.log)
        else:
            jobs.append(run.job_id)
    return sorted(set(jobs))


def _log_of(run_id: str, neighbor: CancelledRun) -> Path:
    """Return the log of another member of a run's pack: they lie in one folder, and the run's id ends their names."""
    assert neighbor.log is not None
    folder = neighbor.log.parent
    return next(folder.glob(f"*.{run_id}.pack"), folder / f"{run_id}.pack").with_suffix(".log")
