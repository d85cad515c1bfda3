"""Stages in containers of Docker Engine: how each is started, in the words of its pool's form.

A container sees the network of its machine, so that the server's address is the same in it as outside, and runs as
whoever deployed: what it writes belongs to that user, never to root by accident.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryoflow.cluster.start_stage import START_STAGE
from cryoflow.errors import BadInput
from cryoflow.settings.load import FILE_NAME
from cryoflow.settings.site import ResourceClass, Site

HOME = "/tmp"  # noqa: S108  # in the container: the one folder that any user may write to
COMMAND = f"python -m {START_STAGE}"


@dataclass(frozen=True)
class ContainerOptions:
    """Options that all containers of a site share."""

    volumes: tuple[str, ...]
    user: str
    network: str = "host"
    environment: dict[str, str] = field(
        default_factory=lambda: {"HOME": HOME, "PREFECT_HOME": f"{HOME}/prefect", "MPLCONFIGDIR": f"{HOME}/matplotlib"}
    )


def container(site: Site) -> ContainerOptions:
    """Return mounts and user of a site's containers.

    Raises
    ------
    BadInput
        For a folder with a colon in its name, which Docker's volumes cannot have.
    """
    volumes = [_volume(p, "ro") for p in site.read_only] + [_volume(p, "rw") for p in site.read_write]
    return ContainerOptions(tuple(volumes), f"{os.getuid()}:{os.getgid()}")


def variables(site: Site, resources: ResourceClass, image: str) -> dict[str, Any]:
    """Return the job variables of a stage, with a GPU where the site names an image for it."""
    shared = container(site)
    create: dict[str, Any] = {"user": shared.user}
    if resources.gpus and site.gpu_image:
        create["device_requests"] = [{"Count": resources.gpus, "Capabilities": [["gpu"]]}]
    return {
        "image": image,
        "image_pull_policy": "Never",
        "volumes": list(shared.volumes),
        "mem_limit": f"{round(resources.memory_gb * 1024)}m",
        "network_mode": shared.network,
        "container_create_kwargs": create,
        "command": COMMAND,
        "env": shared.environment,
    }


def _volume(folder: Path, mode: str) -> str:
    if ":" in str(folder):
        raise BadInput(FILE_NAME, f"the folder {folder} has a colon in it, which Docker's volumes cannot have.")
    return f"{folder}:{folder}:{mode}"
