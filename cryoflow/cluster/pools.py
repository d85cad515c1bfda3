"""Work pools on the Prefect server: created, brought up to date, and migrated from an old type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryoflow.cluster.deployments import pool_name, pools
from cryoflow.cluster.exit_reason import OLD_SLURM_TYPE, SLURM_TYPE
from cryoflow.cluster.forms import number_fields
from cryoflow.errors import BadInput
from cryoflow.settings.profiles import ProfileName

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool


def pool_form(kind: str, *, hands_on: bool = False) -> dict[str, Any]:
    """Return the form of a type of pool: its job template, with fields in the order that users need them.

    Parameters
    ----------
    hands_on
        Its runs hand variables on to stages of another pool, and refuse those of neither (`variables_for_stages`).
    """
    from prefect.workers.base import BaseJobConfiguration, BaseWorker

    worker = BaseWorker.get_worker_class_from_type(kind)
    assert worker is not None, kind
    form = number_fields(worker.get_default_base_job_template(), last=tuple(BaseJobConfiguration.model_fields))
    # The server checks the variables of a run against this when it makes the run; else it drops a misspelt one.
    form["variables"]["additionalProperties"] = hands_on
    return form


def make_pools(profile: ProfileName) -> None:
    """Create the pools of a profile; the form of one that is there is brought up to date, its defaults stay.

    Raises
    ------
    BadInput
        For a pool of that name and another type.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for name, kind in pools(profile).items():
            template = pool_form(kind, hands_on=name != pool_name(profile))
            try:
                there = client.read_work_pool(name)
            except ObjectNotFound:
                client.create_work_pool(WorkPoolCreate(name=name, type=kind, base_job_template=template))
            else:
                if (there.type, kind) == (OLD_SLURM_TYPE, SLURM_TYPE):
                    there = _migrate_pool(client, there)
                if there.type != kind:  # a pool's type cannot be changed
                    hint = f"Its runs over, remove it (prefect work-pool delete {name}) and deploy again."
                    raise BadInput(f"the pool {name}", f"is of the type {there.type}, and must be {kind}.", hint)
                _keep_defaults(template, there.base_job_template)
                client.update_work_pool(name, WorkPoolUpdate(base_job_template=template))


def _migrate_pool(client: SyncPrefectClient, there: WorkPool) -> WorkPool:
    """Make a pool of today's type in the place of one of the old type; its form's defaults and its state stay.

    Prefect cannot change a pool's type. Deleting the pool takes it from its deployments and from runs that wait, so
    this is refused while there are any; `deploy` registers the deployments again right after.

    Raises
    ------
    BadInput
        While runs of the pool have not ended.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        WorkPoolFilter,
        WorkPoolFilterName,
    )
    from prefect.client.schemas.objects import StateType

    types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING, StateType.SCHEDULED]
    unfinished = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[there.name])),
        limit=200,
    )
    if waiting := [run for run in unfinished if not run.auto_scheduled]:
        raise BadInput(
            f"the pool {there.name}",
            f"is of the type {there.type}, now called {SLURM_TYPE}, and {len(waiting)} of its runs have not ended.",
            "Wait for them or cancel them, then deploy again.",
        )
    client.delete_work_pool(there.name)
    values = WorkPoolCreate(
        name=there.name,
        type=SLURM_TYPE,
        description=there.description,
        base_job_template=there.base_job_template,
        is_paused=there.is_paused,
        concurrency_limit=there.concurrency_limit,
    )
    return client.create_work_pool(values)


def _keep_defaults(template: dict[str, Any], there: Mapping[str, Any]) -> None:
    """Put the defaults that a site gave to its pool into the new form of the pool."""
    fields = template["variables"]["properties"]
    for name, field in there.get("variables", {}).get("properties", {}).items():
        if name in fields and "default" in field:
            fields[name]["default"] = field["default"]
