"""The one writer of SLURM scripts: directives, then parts of shell that are independent of each other."""

from __future__ import annotations

import re
from collections.abc import Iterable

from cryoflow.execution.quoting import directive


def slurm_script(options: Iterable[str], *parts: str) -> str:
    """Return a job script with these options of sbatch and these parts of shell; empty parts are left out."""
    return "\n".join(["#!/bin/bash", *map(directive, options), "", *filter(None, parts)])


def job_name(name: str) -> str:
    """Return a name for squeue: on one line, and short."""
    return re.sub(r"[\s|=]+", " ", name).strip()[:80] or "cryoflow"
