"""The files of `deployments/`, for sites that manage pools and deployments with Prefect's own commands.

`cryoflow deploy` needs none of them. They are made from the same table, which a test checks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryoflow.cluster import kubernetes
from cryoflow.cluster.deployments import (
    POOL_TYPES,
    STAGES,
    engine_defaults,
    load_flow,
    pool_of,
    resource_variables,
    tags_of,
)
from cryoflow.cluster.pools import pool_form
from cryoflow.settings.profiles import ProfileName, deployment_name
from cryoflow.settings.site import Site
from cryoflow.storage.files import write_atomically

HEAD = """\
# Deployments for `prefect deploy --all`, for sites that manage them with Prefect's own commands. Folders, images and
# partitions are defaults of the pools (see docs/cluster.md); here stand the resources of each class.
# Made by: python -m cryoflow.cluster.templates deployments
"""
KUBERNETES_HEAD = """\
# Deployments on a Kubernetes pool, for `prefect deploy --all --prefect-file`: docs/cluster.md, "On Kubernetes".
# Made by: python -m cryoflow.cluster.templates deployments
"""

_FORMS = {"slurm": POOL_TYPES[ProfileName.SLURM], "docker": POOL_TYPES[ProfileName.DOCKER], "process": "process"}
"""File -> type of pool."""


def files() -> Iterator[tuple[str, str]]:
    """Yield name and content of each file."""
    import yaml  # noqa: TID251 (writes templates)

    yield "prefect.yaml", HEAD + yaml.safe_dump(prefect_yaml(), sort_keys=False, width=110, allow_unicode=True)
    yield (
        "kubernetes.yaml",
        KUBERNETES_HEAD + yaml.safe_dump(kubernetes.deployments(), sort_keys=False, width=110, allow_unicode=True),
    )
    yield "kubernetes.json", json.dumps(kubernetes.pool_form(), indent=1, ensure_ascii=False) + "\n"
    for name, kind in _FORMS.items():
        yield (
            f"{name}.json",
            json.dumps(pool_form(kind, hands_on=kind == "process"), indent=1, ensure_ascii=False) + "\n",
        )


def prefect_yaml() -> dict[str, Any]:
    """Return the profile `slurm` as Prefect's file of deployments."""
    profile = ProfileName.SLURM
    deployments: list[dict[str, Any]] = []
    for stage in STAGES:
        flow = load_flow(stage)
        entry: dict[str, Any] = {
            "name": deployment_name(flow.name, profile),
            "entrypoint": stage.entrypoint,
            "description": (flow.description or "").partition("\n")[0],
            "tags": tags_of(stage, flow.name, str(profile)),
            "work_pool": {"name": pool_of(stage, profile)},
        }
        if stage.resources is None:
            variables: dict[str, Any] = {"env": engine_defaults() | {"CRYOFLOW_PROFILE": str(profile)}}
        else:
            variables = resource_variables(Site().resource_class(stage.resources)) | {"env": engine_defaults()}
        entry["work_pool"]["job_variables"] = variables
        if stage.cron:
            entry["schedules"] = [{"cron": stage.cron, "active": False}]
        deployments.append(entry)
    anywhere = {"prefect.deployments.steps.set_working_directory": {"directory": "/"}}  # an image has no other
    return {"name": "cryoflow", "pull": [anywhere], "deployments": deployments}


def write(folder: Path) -> None:
    """Write all files."""
    for name, text in files():
        write_atomically(folder / name, text)


if __name__ == "__main__":
    import sys

    write(Path(sys.argv[1]))
