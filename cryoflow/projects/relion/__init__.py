"""Reads RELION projects of versions 1 to 5. `jobs.py` lists the jobs, `read.py` reads their picks."""

from cryoflow.projects.relion.count import with_counts
from cryoflow.projects.relion.jobs import find_jobs
from cryoflow.projects.relion.read import read_job
from cryoflow.projects.relion.recognize import is_own_folder, recognize

__all__ = ["find_jobs", "is_own_folder", "read_job", "recognize", "with_counts"]
