"""Register deployments with a Prefect server, and keep what users did to those that are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cryoflow.cluster.deployments import deployments
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import EARLIER_FLOWS, INTERNAL, INTERNAL_FLOWS, ProfileName, plain_deployment_name

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.deployments.runner import RunnerDeployment


def register(settings: Settings, profile: ProfileName) -> Iterator[RunnerDeployment]:
    """Register all deployments of a profile; what users did to the schedules of earlier ones stays."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        for deployment in deployments(settings, profile):
            _keep_schedules(client, deployment)
            deployment.apply()
            for name in _earlier_names(deployment.flow_name, profile):
                _remove(client, name)
            yield deployment


def _earlier_names(flow_name: str | None, profile: ProfileName) -> tuple[str, ...]:
    """Return what earlier versions called the deployment of an internal flow, as `FLOW/DEPLOYMENT`."""
    if flow_name is None or flow_name not in INTERNAL_FLOWS:
        return ()
    names = [f"{flow_name}/{plain_deployment_name(flow_name, profile)}"]
    for flow in (old for old, new in EARLIER_FLOWS.items() if new == flow_name):
        plain = plain_deployment_name(flow, profile)
        names += [f"{flow}/{plain}", f"{flow}/{INTERNAL}{plain}"]
    return tuple(names)


def _remove(client: SyncPrefectClient, name: str) -> None:
    """Remove a deployment, if it is there, once none of its runs is at work."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType
    from prefect.exceptions import ObjectNotFound

    try:
        old = client.read_deployment_by_name(name).id
    except ObjectNotFound:
        return
    unfinished = FlowRunFilterState(
        type=FlowRunFilterStateType(any_=[s for s in StateType if s not in TERMINAL_STATES])
    )
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[old]))
    if not client.read_flow_runs(deployment_filter=of_it, flow_run_filter=FlowRunFilter(state=unfinished), limit=1):
        client.delete_deployment(old)


def _keep_schedules(client: SyncPrefectClient, deployment: RunnerDeployment) -> None:
    """Keep the schedules that users changed: registering would switch them off, or move them back."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.exceptions import ObjectNotFound

    try:
        there = client.read_deployment_by_name(f"{deployment.flow_name}/{deployment.name}").schedules
    except ObjectNotFound:
        return
    if there and deployment.schedules:
        deployment.schedules = [
            DeploymentScheduleCreate(schedule=s.schedule, active=s.active, parameters=s.parameters, slug=s.slug)
            for s in there
        ]
