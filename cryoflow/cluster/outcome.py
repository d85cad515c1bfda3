"""What the end of a SLURM job means for its flow run: pure decisions, and the words a user reads."""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from pathlib import Path

from prefect.client.schemas.objects import StateType

from cryoflow.execution.slurm import EndedJob

LABEL_JOB, LABEL_LOG, LABEL_END = "slurm.job", "slurm.log", "slurm.end"
"""Labels of a flow run: its job's number, its log, and (once the job has ended) an `End`."""

END_LABELS = {"slurm": LABEL_END, "cryoflow-docker": "docker.end"}
"""Type of worker -> the label of a run in which it says how the run's job or container ended."""
TOOK_OVER = "cryoflow.took-over."
"""Start of labels of a run that waits for a run which another one started; that one's id follows."""


class End(StrEnum):
    """How a job ended, as far as running it again is concerned. Kept as a label of the flow run."""

    DONE = "done"
    """The command came to its end; the flow run's own state says how."""
    MEMORY = "memory"
    TIME = "time"
    NODE = "node"
    """The node failed, or the job had to make room for another."""
    CANCELLED = "cancelled"
    LOST = "lost"
    """SLURM does not know the job any more."""


_ENDS = {
    "TIMEOUT": End.TIME,
    "DEADLINE": End.TIME,
    "NODE_FAIL": End.NODE,
    "BOOT_FAIL": End.NODE,
    "PREEMPTED": End.NODE,
    "CANCELLED": End.CANCELLED,
    "REVOKED": End.CANCELLED,
    "UNKNOWN": End.LOST,
}

_UNREPORTED = (StateType.RUNNING, StateType.PENDING)

_ADVICE = {
    End.MEMORY: "It used more memory than it asked for: give it more (memory_gb), or work on smaller shards.",
    End.TIME: "It ran out of time: give it more (time_minutes), or work on smaller shards.",
    End.NODE: "The node failed or was taken away: run it again.",
    End.CANCELLED: "Somebody cancelled the job with SLURM's own commands.",
    End.LOST: "SLURM does not know this job any more; its log may.",
}


class Action(StrEnum):
    """What the worker does with a flow run whose job has ended."""

    KEEP = "keep"
    CANCEL = "cancel"
    CRASH = "crash"


def end_of(job: EndedJob) -> End:
    """How a job ended.

    >>> end_of(EndedJob(7, "FAILED", exit_code=0, signal=9))
    <End.MEMORY: 'memory'>
    """
    return End.MEMORY if job.out_of_memory else _ENDS.get(job.state, End.DONE)


def action(state: StateType | None, end: End, *, cancelled: bool = False) -> Action:
    """What to do with a flow run in `state` whose job ended so, and that a user may have `cancelled`.

    The engine reports the state itself wherever it can. It cannot where it was killed; and where SLURM asked it to stop
    it says Crashed without knowing why, so such a state is replaced by one with SLURM's reason.
    """
    if state == StateType.CANCELLING or (cancelled and state in (*_UNREPORTED, StateType.CRASHED)):
        return Action.CANCEL
    if state in _UNREPORTED:
        return Action.CRASH
    if state == StateType.CRASHED and end not in (End.DONE, End.LOST):
        return Action.CRASH
    return Action.KEEP


def explain(job: EndedJob) -> str:
    """Why a flow run crashed, for its state's message.

    >>> explain(EndedJob(7, "NODE_FAIL", 0, None, "cpu1", 61))
    'SLURM job 7 ended NODE_FAIL on cpu1 after 0:01:01. The node failed or was taken away: run it again.'
    """
    state = "OUT_OF_MEMORY" if job.out_of_memory else job.state
    text = f"SLURM job {job.job_id} ended {state}"
    if job.state == "FAILED" and not job.out_of_memory:
        text += f" (signal {job.signal})" if job.signal else f" (exit code {job.exit_code})"
    if job.nodes and job.nodes != "None assigned":
        text += f" on {job.nodes}"
    if job.elapsed_s is not None:
        minutes, seconds = divmod(job.elapsed_s, 60)
        text += f" after {minutes // 60}:{minutes % 60:02}:{seconds:02}"
    end = end_of(job)
    if end == End.DONE:
        advice = (
            "The command ended before it could report to Prefect; see the end of its log."
            if job.state != "COMPLETED"
            else "It could not report its end to Prefect: was the server reachable from the node?"
        )
    else:
        advice = _ADVICE[end]
    return f"{text}. {advice}"


def tail(log: Path, *, lines: int = 40, width: int = 500) -> str:
    """The last lines of a job's log, or why there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - lines * width))
            end = deque(file.read().decode(errors="replace").splitlines(), maxlen=lines)
    except OSError as error:
        return f"(the log {log} cannot be read: {error.strerror})"
    return "\n".join(line[:width] for line in end) or f"(the log {log} is empty)"
