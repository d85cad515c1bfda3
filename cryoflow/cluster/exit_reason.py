"""Exit reasons: what the end of a SLURM job means for its flow run, and the message that a user reads."""

from __future__ import annotations

import signal
from collections import deque
from enum import StrEnum
from pathlib import Path

from prefect.client.schemas.objects import StateType

from cryoflow.cluster.start_stage import SERVER_AWAY
from cryoflow.execution.slurm import EndedJob
from cryoflow.execution.stage_script import WARNED

LABEL_JOB, LABEL_LOG, LABEL_END, LABEL_NODE = "slurm.job", "slurm.log", "slurm.end", "slurm.node"
"""Labels of a flow run: its job's number and log, and once the job has ended an `ExitReason` and the node."""

SLURM_TYPE, OLD_SLURM_TYPE = "cryoflow-slurm", "slurm"
"""Type of our SLURM worker. Another package registers `slurm` too, and the import order decided who served a pool."""

END_LABELS = {SLURM_TYPE: LABEL_END, OLD_SLURM_TYPE: LABEL_END, "cryoflow-docker": "docker.end"}
"""Type of worker -> the label of a run in which it says how the run's job or container ended."""
TOOK_OVER = "cryoflow.took-over."
"""Start of labels of a run that waits for a run which another one started; that one's id follows."""


class ExitReason(StrEnum):
    """Reason for the end of a job, as far as running it again is concerned. Kept as a label of the flow run."""

    DONE = "done"
    """The command came to its end; the flow run's own state says how."""
    MEMORY = "memory"
    TIME = "time"
    NODE = "node"
    """The node failed, or something outside the stage ended it with SIGTERM."""
    PREEMPTED = "preempted"
    """The job had to make room for another."""
    SERVER = "server"
    """The Prefect server was away for longer than a starting job waits."""
    WARNED = "warned"
    """It was told to stop before its time limit, and goes on from its checkpoint in another job."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """SLURM does not know the job any more."""


_ENDS = {
    "TIMEOUT": ExitReason.TIME,
    "DEADLINE": ExitReason.TIME,
    "NODE_FAIL": ExitReason.NODE,
    "BOOT_FAIL": ExitReason.NODE,
    "PREEMPTED": ExitReason.PREEMPTED,
    "CANCELLED": ExitReason.CANCELLED,
    "REVOKED": ExitReason.CANCELLED,
    "UNKNOWN": ExitReason.LOST,
}

_UNREPORTED = (StateType.RUNNING, StateType.PENDING)

_ADVICE = {
    ExitReason.MEMORY: "It used more memory than it asked for: give it more (memory_gb), or work on smaller shards.",
    ExitReason.TIME: "It ran out of time: give it more (time_minutes), or work on smaller shards.",
    ExitReason.NODE: "The node failed or was taken away: run it again.",
    ExitReason.PREEMPTED: "It had to make room for another job: run it again.",
    ExitReason.WARNED: "Its time limit was near: it goes on in another job.",
    ExitReason.SERVER: "The Prefect server did not answer the node; it may have been restarting: run it again.",
    ExitReason.CANCELLED: "Somebody cancelled the job with SLURM's own commands.",
    ExitReason.LOST: "SLURM does not know this job any more; its log may.",
}


class Action(StrEnum):
    """Action of the worker for a flow run whose job has ended."""

    KEEP = "keep"
    CANCEL = "cancel"
    CRASH = "crash"


def exit_reason_of(job: EndedJob) -> ExitReason:
    """Return how a job ended.

    >>> exit_reason_of(EndedJob(7, "FAILED", exit_code=0, signal=9))
    <ExitReason.MEMORY: 'memory'>
    """
    if job.out_of_memory:
        return ExitReason.MEMORY
    if job.state == "FAILED" and (job.signal == signal.SIGTERM or job.exit_code == 128 + signal.SIGTERM):
        return ExitReason.NODE  # as when a node shuts down, or an administrator ends the step
    if job.state == "FAILED" and job.exit_code == WARNED:
        return ExitReason.WARNED
    if job.state == "FAILED" and job.exit_code == SERVER_AWAY:
        return ExitReason.SERVER
    return _ENDS.get(job.state, ExitReason.DONE)


def action(state: StateType | None, end: ExitReason, *, cancelled: bool = False) -> Action:
    """Return what to do with a flow run in `state` whose job ended so, and that a user may have `cancelled`.

    The engine reports the state itself wherever it can. It cannot where it was killed; and where SLURM asked it to stop
    it says Crashed without knowing why, so such a state is replaced by one with SLURM's reason.
    """
    if state == StateType.CANCELLING or (cancelled and state in (*_UNREPORTED, StateType.CRASHED)):
        return Action.CANCEL
    if state in _UNREPORTED:
        return Action.CRASH
    if state == StateType.CRASHED and end not in (ExitReason.DONE, ExitReason.LOST):
        return Action.CRASH
    return Action.KEEP


def explain(job: EndedJob) -> str:
    """Return why a flow run crashed, for its state's message.

    >>> explain(EndedJob(7, "NODE_FAIL", 0, None, "cpu1", 61))
    'SLURM job 7 ended NODE_FAIL on cpu1 after 0:01:01. The node failed or was taken away: run it again.'
    """
    state = "OUT_OF_MEMORY" if job.out_of_memory else job.state
    text = f"SLURM job {job.job_id} ended {state}"
    if job.state == "FAILED" and not job.out_of_memory:
        text += f" (signal {job.signal})" if job.signal else f" (exit code {job.exit_code})"
    if job.nodes:
        text += f" on {job.nodes}"
    if job.elapsed_s is not None:
        minutes, seconds = divmod(job.elapsed_s, 60)
        text += f" after {minutes // 60}:{minutes % 60:02}:{seconds:02}"
    end = exit_reason_of(job)
    if end == ExitReason.DONE:
        advice = (
            "The command ended before it could report to Prefect; see the end of its log."
            if job.state != "COMPLETED"
            else "It could not report its end to Prefect: was the server reachable from the node?"
        )
    else:
        advice = _ADVICE[end]
    return f"{text}. {advice}"


_TAIL_LINES, _TAIL_WIDTH = 40, 500


def tail(log: Path) -> str:
    """Return the last lines of a job's log, or why there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_LINES * _TAIL_WIDTH))
            end = deque(file.read().decode(errors="replace").splitlines(), maxlen=_TAIL_LINES)
    except OSError as error:
        return f"(the log {log} cannot be read: {error.strerror})"
    return "\n".join(line[:_TAIL_WIDTH] for line in end) or f"(the log {log} is empty)"
