"""Register deployments with a Prefect server, and keep what users did to those that are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from cryoflow.cluster.deployments import deployments
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import INTERNAL_FLOWS, ProfileName, plain_deployment_name

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
            _remove_old_name(client, deployment.flow_name, profile)
            yield deployment


def _remove_old_name(client: SyncPrefectClient, flow_name: str | None, profile: ProfileName) -> None:
    """Remove an internal deployment of an earlier version, which had another name, once none of its runs is at work."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType
    from prefect.exceptions import ObjectNotFound

    if flow_name is None or flow_name not in INTERNAL_FLOWS:
        return
    try:
        old = client.read_deployment_by_name(f"{flow_name}/{plain_deployment_name(flow_name, profile)}").id
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
