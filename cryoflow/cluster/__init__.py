"""Where stages run: SLURM jobs, containers, Prefect's workers and deployments.

Prefect imports `cryoflow.cluster.worker` (entry point `prefect.collections`), which makes the worker type `slurm` known
to it.
"""
