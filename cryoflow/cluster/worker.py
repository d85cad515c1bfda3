"""What Prefect imports (entry point `prefect.collections`): it makes our types of workers known to Prefect."""

from __future__ import annotations

from cryoflow.cluster.docker_worker import ContainerWorker
from cryoflow.cluster.slurm_worker import SlurmWorker

__all__ = ["ContainerWorker", "SlurmWorker"]
