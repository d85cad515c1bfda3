"""Number of CPUs."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """Return the number of CPUs that this process may use; in a batch job it is less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
