"""Where stages run: SLURM jobs, containers, Prefect's workers and deployments.

Prefect imports this package (entry point `prefect.collections`), which makes the worker type `slurm` known to it.
"""

from cryoflow.cluster.worker import SlurmWorker

__all__ = ["SlurmWorker"]
