"""What each stage of a run cost: time in the queue and at work, CPU, memory, exit status, SLURM job. As `trace.tsv`.

States and names come from Prefect, figures from SLURM's accounting. What is not known stays empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from cryoflow.cluster.accounting import JobRecord, job_records
from cryoflow.files import write_atomically

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun


@dataclass(frozen=True)
class TraceRow:
    """One run of a stage, as a line of `trace.tsv`."""

    stage: str
    name: str
    status: str
    slurm_job: int | None = None
    slurm_state: str = ""
    exit: str = ""
    submitted: str = ""
    started: str = ""
    ended: str = ""
    queued_s: float | None = None
    elapsed_s: float | None = None
    cpus: int | None = None
    cpu_percent: float | None = None
    """100 is one core, all the time."""
    requested_mb: float | None = None
    peak_mb: float | None = None
    partition: str = ""
    nodes: str = ""
    flow_run: str = ""


def trace(flow_run_id: UUID) -> tuple[TraceRow, ...]:
    """One row for each stage and shard that a run has started, in the order in which they were started."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    only = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    runs: list[FlowRun] = []
    stages: dict[UUID, str] = {}
    with get_client(sync_client=True) as client:
        while True:
            page = client.read_flow_runs(
                flow_run_filter=only, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200, offset=len(runs)
            )
            runs += page
            if len(page) < 200:
                break
        for flow_id in {flow_run.flow_id for flow_run in runs}:
            stages[flow_id] = client.read_flow(flow_id).name
    pids = {run.id: run.infrastructure_pid or "" for run in runs}
    numbers = {run_id: int(pid) for run_id, pid in pids.items() if pid.isdigit()}
    records = job_records(set(numbers.values()))
    return tuple(
        _row(flow_run, stages[flow_run.flow_id], records.get(numbers.get(flow_run.id, -1))) for flow_run in runs
    )


def _row(flow_run: FlowRun, stage: str, record: JobRecord | None) -> TraceRow:
    status = flow_run.state_name or ""
    if record is None:
        started, ended = flow_run.start_time, flow_run.end_time
        return TraceRow(
            stage,
            flow_run.name,
            status,
            started=_clock(started),
            ended=_clock(ended),
            elapsed_s=(ended - started).total_seconds() if started and ended else None,
            flow_run=str(flow_run.id),
        )
    cpu_percent = None
    if record.cpu_s is not None and record.elapsed_s:
        cpu_percent = round(100 * record.cpu_s / record.elapsed_s, 1)
    return TraceRow(
        stage=stage,
        name=flow_run.name,
        status=status,
        slurm_job=record.job_id,
        slurm_state=record.state,
        exit=record.exit,
        submitted=record.submitted,
        started=record.started,
        ended=record.ended,
        queued_s=_between(record.submitted, record.started),
        elapsed_s=record.elapsed_s,
        cpus=record.cpus,
        cpu_percent=cpu_percent,
        requested_mb=record.requested_mb,
        peak_mb=None if record.peak_mb is None else round(record.peak_mb, 1),
        partition=record.partition,
        nodes=record.nodes,
        flow_run=str(flow_run.id),
    )


def write_trace(path: Path, rows: Iterable[TraceRow]) -> None:
    """Write rows as text with tabs between the values and one head line."""
    head = "\t".join(field.name for field in fields(TraceRow))
    lines = ["\t".join("" if v is None else re.sub(r"\s+", " ", str(v)) for v in astuple(row)) for row in rows]
    write_atomically(path, "\n".join([head, *lines]) + "\n")


def _clock(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%dT%H:%M:%S") if time else ""


def _between(first: str, last: str) -> float | None:
    try:
        return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    except ValueError:
        return None
