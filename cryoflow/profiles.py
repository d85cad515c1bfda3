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
