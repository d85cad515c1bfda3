"""A stage that does what a test tells it to: waits, eats memory, fails, shows what it sees."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from prefect import flow


@flow(name="stage", log_prints=True)
def stage(
    wait_s: float = 0,
    eat_mb: int = 0,
    fail: str = "",
    read: str = "",
    write: str = "",
    tidy: str = "",
    hold: str = "",
) -> None:
    """Do it, in this order."""
    names = ("SLURM_JOB_ID", "SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "APPTAINER_CONTAINER", "OMP_NUM_THREADS")
    print("sees", {name: os.environ.get(name) for name in names})
    if read:
        print("read", Path(read).read_text())
        try:
            Path(read).with_name("forbidden").touch()
        except OSError as error:
            print("cannot write:", error.strerror)
    if write:
        Path(write).write_text("written")
    food = bytearray(eat_mb * 1_000_000)
    for page in range(0, len(food), 4096):
        food[page] = 1
    try:
        time.sleep(wait_s)
        while hold and Path(hold).exists():
            time.sleep(0.2)
    finally:
        if tidy:
            Path(tidy).write_text("tidied up")
    if fail:
        raise ValueError(fail)


@flow(name="shard", log_prints=True)
def shard(parameters: dict[str, Any]) -> None:
    """The same as a shard that its parent starts. With `once`, a file, only the first attempt at it does anything."""
    once = parameters.pop("once", None)
    if once and Path(once).exists():
        return
    if once:
        Path(once).touch()
    stage.fn(**parameters)
