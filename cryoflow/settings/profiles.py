"""The places where stages run, by the names that a person gives them. Imports nothing, so that every help is fast."""

from __future__ import annotations

from enum import StrEnum


class ProfileName(StrEnum):
    """Place where stages run."""

    LOCAL = "local"
    """On this machine, as processes."""
    DOCKER = "docker"
    """On this machine, each stage in a container of Docker Engine."""
    SLURM = "slurm"
    """Each stage as a SLURM job in an Apptainer image."""
    SLURM_BARE = "slurm-bare"
    """Each stage as a SLURM job without a container: a module or a virtual environment."""


INTERNAL_FLOWS = frozenset(("cut export", "write shard", "write training set", "train picker", "pick", "score"))
"""Flows that only other flows start."""
EARLIER_FLOWS = {"write part": "write shard"}
"""Earlier name of an internal flow -> its present name."""
INTERNAL = "z internal: "
"""Start of the names of their deployments, which come last in any collation."""


def deployment_name(flow_name: str, place: ProfileName) -> str:
    """Return the name of a flow's deployment in Prefect's lists, which are sorted by it.

    The place is in it, so that several may stand side by side. Internal ones come last in any collation.

    >>> deployment_name("ingest", ProfileName.SLURM), deployment_name("write shard", ProfileName.SLURM)
    ('ingest (slurm)', 'z internal: write shard (slurm)')
    """
    name = plain_deployment_name(flow_name, place)
    return f"{INTERNAL}{name}" if flow_name in INTERNAL_FLOWS else name


def plain_deployment_name(flow_name: str, place: ProfileName) -> str:
    """Return the name of a flow's deployment before internal ones were named so that they come last."""
    return f"{flow_name} ({place})"
