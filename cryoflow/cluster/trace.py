"""What each stage of a run cost: time in the queue and at work, CPU, memory, exit status, SLURM job.

States and names come from Prefect, figures from SLURM's accounting. What is not known stays empty.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

from cryoflow.cluster.accounting import JobRecord, job_records
from cryoflow.errors import BadInput
from cryoflow.execution.slurm import TERMINAL
from cryoflow.report.execution import TraceRow

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun


def trace(flow_run_id: UUID) -> tuple[TraceRow, ...]:
    """Return one row for each stage and shard that a run and its descendants started, in order of time.

    Runs that another had started and that one of these waited for are among them.

    Raises
    ------
    BadInput
        Where the server has no such run.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    stages: dict[UUID, str] = {}
    with get_client(sync_client=True) as client:
        try:
            whole = client.read_flow_run(flow_run_id)
        except ObjectNotFound:
            raise BadInput(
                str(flow_run_id), f"is no run that {client.api_url} knows.", "See its page's address."
            ) from None
        known, parents = {flow_run_id: whole}, [whole]
        while parents:
            below = _children(client, [run.id for run in parents]) + _taken_over(client, parents)
            parents = list({run.id: run for run in below if run.id not in known}.values())
            known |= {run.id: run for run in parents}
        runs = [run for run in known.values() if run is not whole]
        for flow_id in {flow_run.flow_id for flow_run in runs}:
            stages[flow_id] = client.read_flow(flow_id).name
    pids = {run.id: run.infrastructure_pid or "" for run in runs}
    numbers = {run_id: int(pid) for run_id, pid in pids.items() if pid.isdigit()}
    records = job_records(set(numbers.values()))
    rows = [_row(run, stages[run.flow_id], numbers.get(run.id), records.get(numbers.get(run.id, -1))) for run in runs]
    return tuple(sorted(rows, key=lambda row: (row.submitted or row.started, row.name)))


def final_trace(flow_run_id: UUID) -> tuple[TraceRow, ...]:
    """Return the trace once the jobs of ended runs have ended too, some seconds later: then SLURM has their memory."""
    end = time.monotonic() + 60
    while True:
        rows = trace(flow_run_id)
        if all(row.slurm_state in ("", *TERMINAL) for row in rows) or time.monotonic() > end:
            return rows
        time.sleep(2)


def _children(client: SyncPrefectClient, parents: list[UUID]) -> list[FlowRun]:
    """Return the runs that some runs have started, 200 a request."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort

    found: list[FlowRun] = []
    for first in range(0, len(parents), 200):
        some = FlowRunFilterParentFlowRunId(any_=parents[first : first + 200])
        offset = 0
        while True:
            page = client.read_flow_runs(
                flow_run_filter=FlowRunFilter(parent_flow_run_id=some),
                sort=FlowRunSort.ID_DESC,
                limit=200,
                offset=offset,
            )
            found += page
            offset += len(page)
            if len(page) < 200:
                break
    return found


def _taken_over(client: SyncPrefectClient, parents: list[FlowRun]) -> list[FlowRun]:
    """Return the runs that some runs found at work and waited for; runs deleted since are left out."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    from cryoflow.cluster.exit_reason import TOOK_OVER

    ids = [
        UUID(label.removeprefix(TOOK_OVER)) for run in parents for label in run.labels if label.startswith(TOOK_OVER)
    ]
    pages = [FlowRunFilter(id=FlowRunFilterId(any_=ids[i : i + 200])) for i in range(0, len(ids), 200)]
    return [run for page in pages for run in client.read_flow_runs(flow_run_filter=page, limit=200)]


def _row(flow_run: FlowRun, stage: str, slurm_job: int | None, record: JobRecord | None) -> TraceRow:
    status = flow_run.state_name or ""
    if record is None:  # no SLURM job, or no accounting
        started, ended = flow_run.start_time, flow_run.end_time
        return TraceRow(
            stage,
            flow_run.name,
            status,
            slurm_job,
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


def _clock(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%dT%H:%M:%S") if moment else ""


def _between(first: str, last: str) -> float | None:
    try:
        return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()
    except ValueError:
        return None
