"""One piece of work and the attempts at it: how one ended, and whether another is worth it. Asks no server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.client.schemas.objects import FlowRun, StateType
from pydantic import BaseModel

from cryoflow.cluster.exit_reason import END_LABELS, LABEL_NODE, ExitReason
from cryoflow.parameters import Parameters
from cryoflow.storage.fingerprints import fingerprint_of_values

REASON_PATIENCE_S = 60.0
"""How long a crashed run may wait for the reason, which its worker adds."""

GROWTH: dict[ExitReason, dict[str, float]] = {
    ExitReason.MEMORY: {"memory_factor": 2.0},
    ExitReason.TIME: {"time_factor": 2.0},
    ExitReason.NODE: {},
    ExitReason.PREEMPTED: {},
    ExitReason.WARNED: {},
    ExitReason.SERVER: {},
}
"""What another attempt gets more of. A run that ended for another reason is not tried again: more would not help."""


MOST_JOBS = 100
"""Jobs of one run that use up no attempt, after which it is given up all the same."""


def next_variables(reason: ExitReason, node: str, variables: Mapping[str, object]) -> dict[str, object]:
    """Return the job variables of the attempt after a crashed run: more of what ran out, and another node."""
    grown = dict(variables)
    for name, factor in GROWTH.get(reason, {}).items():
        grown[name] = float(str(grown.get(name, 1.0))) * factor
    if reason == ExitReason.NODE and node:
        avoided = grown.get("exclude_nodes", [])
        grown["exclude_nodes"] = sorted({*(avoided if isinstance(avoided, list) else []), node})
    return grown


def uses_up_attempt(reason: ExitReason | None) -> bool:
    """Return whether an end counts as one of the attempts.

    On scavenger partitions preemption is normal, and a long training may need many jobs of a short time limit.
    """
    return reason not in (ExitReason.PREEMPTED, ExitReason.WARNED)


@dataclass(frozen=True)
class Work:
    """One run to be made: what it is called, and the parameters of its flow."""

    name: str
    parameters: BaseModel | Parameters

    @property
    def values(self) -> dict[str, Any]:
        """Return the parameters as JSON holds them."""
        p = self.parameters
        return p.to_json() if isinstance(p, Parameters) else p.model_dump(mode="json")


@dataclass(frozen=True)
class Done:
    """Result of one piece of work."""

    name: str
    state: str
    message: str
    attempts: int
    flow_run: str
    slurm_job: str = ""

    @property
    def succeeded(self) -> bool:
        """Return whether the flow completed."""
        return self.state == "Completed"


@dataclass(frozen=True)
class Attempt:
    """One run of a piece of work.

    Attributes
    ----------
    generation
        How many runs of this attempt an earlier life of the parent left without success.
    variables
        Job variables of the run.
    preemptions
        Earlier runs of this attempt that had to make room for other jobs.
    ended_at
        When its run was first seen to have ended, where its reason is waited for.
    """

    work: Work
    number: int = 1
    generation: int = 0
    variables: dict[str, object] = field(default_factory=dict)
    preemptions: int = 0
    ended_at: float | None = None

    def waited_enough(self) -> bool:
        """Return whether the wait for a reason is over."""
        return self.ended_at is not None and time.monotonic() - self.ended_at > REASON_PATIENCE_S

    def another(self, flow_run: FlowRun, most: int) -> Attempt | None:
        """Return the next attempt, with more of what ran out; None where it would not help or enough were made."""
        end = end_of(flow_run)
        is_last = (self.number >= most and uses_up_attempt(end)) or self.preemptions >= MOST_JOBS
        if flow_run.state_type != StateType.CRASHED or end not in GROWTH or is_last:
            return None
        node = str(flow_run.labels.get(LABEL_NODE, ""))
        variables = next_variables(end, node, self.variables)
        if not uses_up_attempt(end):
            return Attempt(self.work, self.number, 0, variables, self.preemptions + 1)
        return Attempt(self.work, self.number + 1, 0, variables, self.preemptions)

    def done(self, flow_run: FlowRun) -> Done:
        """Return how the work ended."""
        state = flow_run.state.name if flow_run.state else "unknown"
        if flow_run.state is not None and flow_run.state.is_completed():
            state = "Completed"
        pid = flow_run.infrastructure_pid or ""
        job = pid if pid.isdigit() else ""
        return Done(self.work.name, state or "", message(flow_run), self.number, str(flow_run.id), job)


def digest(values: object) -> str:
    """Return a fingerprint of parameters: the same for the same work."""
    return fingerprint_of_values(values, digits=16)


def end_of(flow_run: FlowRun) -> ExitReason | None:
    """Return the exit reason that the worker reported; None as long as it has not."""
    label = flow_run.labels.get(END_LABELS.get(str(flow_run.labels.get("prefect.worker.type")), ""))
    return ExitReason(label) if label in set(ExitReason) else None


def reason_is_missing(flow_run: FlowRun) -> bool:
    """Return whether a run crashed whose worker has not reported the reason yet."""
    is_told = str(flow_run.labels.get("prefect.worker.type")) in END_LABELS and bool(flow_run.infrastructure_pid)
    return is_told and flow_run.state_type == StateType.CRASHED and end_of(flow_run) is None


def message(flow_run: FlowRun) -> str:
    """Return the message of a run's state."""
    return (flow_run.state.message if flow_run.state else None) or ""
