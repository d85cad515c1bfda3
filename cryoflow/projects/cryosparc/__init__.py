"""Reads CryoSPARC projects of versions 2 to 5. `jobs.py` lists the jobs, `read.py` reads their picks."""

from cryoflow.projects.cryosparc.count import with_counts
from cryoflow.projects.cryosparc.jobs import find_jobs, is_own_folder, recognize
from cryoflow.projects.cryosparc.read import read_job

__all__ = ["find_jobs", "is_own_folder", "read_job", "recognize", "with_counts"]
