"""The places where stages run, by the names that a person gives them. Imports nothing, so that every help is fast."""

from __future__ import annotations

from enum import StrEnum


class ProfileName(StrEnum):
    """Where stages run."""

    LOCAL = "local"
    """On this machine, as processes."""
    DOCKER = "docker"
    """On this machine, each stage in a container of Docker Engine."""
    SLURM = "slurm"
    """Each stage as a SLURM job in an Apptainer image."""
    SLURM_BARE = "slurm-bare"
    """Each stage as a SLURM job without a container: a module or a virtual environment."""


def deployment_name(flow_name: str, place: ProfileName) -> str:
    """What a flow's deployment is called in Prefect's lists. With its place, so that several may stand side by side.

    >>> deployment_name("ingest", ProfileName.SLURM)
    'ingest (slurm)'
    """
    return f"{flow_name} ({place})"
