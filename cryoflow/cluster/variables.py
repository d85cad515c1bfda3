"""Job variables: which a pool has, and the refusal of others by name. Prefect itself ignores a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING
from uuid import UUID

from cryoflow.errors import BadInput

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def refuse_unknown_variables(given: Mapping[str, object], known: Collection[str]) -> None:
    """Refuse job variables that a pool does not have.

    Raises
    ------
    BadInput
        Names the first one, and similar names.
    """
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(sorted(known))}."
            raise BadInput("job variables", f"there is no variable {name!r}.", hint)


def variables_for_stages(client: SyncPrefectClient, deployment: str, *parents: str | UUID | None) -> dict[str, object]:
    """Return the job variables of parent runs that the pool of a stage's deployment has.

    A pipeline's own pool starts processes and would ignore `{"memory_gb": 64}` without a word. `env` is for both.

    Parameters
    ----------
    deployment
        `flow/deployment` of the stage.
    parents
        Ids of runs, the closest first.

    Raises
    ------
    BadInput
        For a variable that neither the parent's pool nor the stage's has.
    """
    from prefect.exceptions import ObjectNotFound

    given: dict[str, object] = {}
    env: dict[str, object] = {}
    own: set[str] = set()
    for parent in reversed(list(dict.fromkeys(filter(None, parents)))):
        run = client.read_flow_run(UUID(str(parent)))
        given |= run.job_variables or {}
        env |= (run.job_variables or {}).get("env") or {}
        if run.work_pool_name:
            own |= _fields(client, run.work_pool_name)
    if not given:
        return {}
    try:
        pool = client.read_deployment_by_name(deployment).work_pool_name
    except ObjectNotFound:
        return {}  # whoever starts the stage says so
    theirs = _fields(client, pool) if pool else set()
    refuse_unknown_variables(given, own | theirs)
    handed_on = {name: value for name, value in given.items() if name in theirs - own}
    return handed_on | ({"env": env} if env and "env" in theirs else {})


def runs_a_job(client: SyncPrefectClient, deployment: str, given: Mapping[str, object]) -> int:
    """Return how many runs of a deployment share a job, from its job variables and those of its parent."""
    from prefect.exceptions import ObjectNotFound

    try:
        own = client.read_deployment_by_name(deployment).job_variables or {}
    except ObjectNotFound:
        return 1  # whoever starts the stage says so
    value = given.get("pack", own.get("pack", 1))
    return max(1, value) if isinstance(value, int) else 1


def _fields(client: SyncPrefectClient, pool: str) -> set[str]:
    """Return the names of a pool's job variables."""
    template = client.read_work_pool(pool).base_job_template
    return set(template.get("variables", {}).get("properties", {}))
