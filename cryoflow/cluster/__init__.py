"""Where stages run: SLURM jobs, containers, Prefect's workers and deployments.

Prefect imports `cryoflow.cluster.worker` (entry point `prefect.collections`), which makes our types of workers known
to it.
"""

from cryoflow.settings.prefect_files import guard_prefect

guard_prefect()
