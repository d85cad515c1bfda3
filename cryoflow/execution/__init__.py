"""Where a command runs: this machine, a container, or a scheduler's job. Used by pickers and by Prefect's workers.

Nothing here imports Prefect or the pickers. There is one writer of job scripts (`job_script`), one quoter of directives
and mounts (`quoting`), and one place for the command lines of containers (`containers`).
"""
