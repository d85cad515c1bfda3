"""Number of CPUs, and what they compute fast."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path


def available_cpus() -> int:
    """Return the number of CPUs that this process may use; in a batch job it is less than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies bfloat16 numbers itself; elsewhere they are slower than float32.

    From the flags that Linux lists; False on other systems.
    """
    try:
        flags = next(line for line in cpuinfo.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return False
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.split())
