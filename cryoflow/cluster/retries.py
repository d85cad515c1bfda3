"""Retries of runs that a user started by hand: the worker schedules a crashed run again, as a pipeline does its stages.

Runs that a flow started are left to that flow (`dispatch`).
"""

from __future__ import annotations

import datetime

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry

from cryoflow.cluster.attempts import GROWTH, MOST_JOBS, next_variables, uses_up_attempt
from cryoflow.cluster.exit_reason import ExitReason

LABEL_ATTEMPTS = "cryoflow.attempts"
"""Label of a run: how many of its jobs have used up an attempt."""
LABEL_JOBS = "cryoflow.jobs"
"""Label of a run: how many of its jobs have died."""


async def retry(
    client: PrefectClient, flow_run: FlowRun, reason: ExitReason, message: str, *, most: int, node: str = ""
) -> bool:
    """Schedule a run again whose job died, where more resources or another node may help; return whether it did.

    It never becomes Crashed in between: a pipeline that waits for it would start a run of its own.

    Parameters
    ----------
    message
        Why the job died.
    most
        Jobs that one run may use up.
    node
        Where it ran.
    """
    if flow_run.parent_task_run_id or reason not in GROWTH:
        return False
    used = int(str(flow_run.labels.get(LABEL_ATTEMPTS, 0))) + uses_up_attempt(reason)
    jobs = int(str(flow_run.labels.get(LABEL_JOBS, 0))) + 1
    if used >= most or jobs > MOST_JOBS:
        return False
    variables = next_variables(reason, node, flow_run.job_variables or {})
    await client.update_flow_run_labels(flow_run.id, {LABEL_ATTEMPTS: used, LABEL_JOBS: jobs})
    message = f"{message} It is tried again."
    if variables != (flow_run.job_variables or {}):
        # Only a scheduled run's variables can be changed, and one that is due would start with the old ones.
        later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=10)
        waiting: State = AwaitingRetry(message=message, scheduled_time=later)
        await client.set_flow_run_state(flow_run.id, waiting, force=True)
        await client.update_flow_run(flow_run.id, job_variables=variables)
    again: State = AwaitingRetry(message=message)
    await client.set_flow_run_state(flow_run.id, again, force=True)
    return True
