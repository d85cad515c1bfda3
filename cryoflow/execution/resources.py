"""Resources of commands and jobs, and the options of sbatch that request them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True)
class Resources:
    """Resources of a command. No GPU at all is `gpus=()`."""

    gpus: tuple[int, ...] = (0,)
    cpus: int = 4
    allocated: bool = False
    """A scheduler has chosen the GPUs and set CUDA_VISIBLE_DEVICES; they count from 0."""


class MemoryOption(StrEnum):
    """Option of sbatch that carries a job's memory. Sites differ in which of them they accept."""

    PER_NODE = "per-node"
    PER_CPU = "per-cpu"
    PER_GPU = "per-gpu"
    """As per-node for a job without GPUs."""
    NONE = "none"
    """The site gives memory with CPUs: a job that needs more memory asks for more CPUs."""


class GpuOption(StrEnum):
    """Option of sbatch that carries a job's GPUs."""

    GRES = "gres"
    GPUS = "gpus"


@dataclass(frozen=True)
class JobRequest:
    """Resources of one SLURM job. Values that are None or empty are left to the cluster's defaults.

    Attributes
    ----------
    log, folder
        File for the job's output and its working folder.
    memory_mb
        Memory of the whole job, whatever option carries it.
    memory_factor, time_factor
        Growth after a job that ran out of memory or time.
    gpu_types
        One type is part of the GPU option. Several become a constraint, any of them, of the nodes' features.
    exclude
        Nodes that the job must not run on.
    warn_s
        Seconds before the time limit at which the job's processes get SIGTERM; 0 for none.
    leave_out
        Names of options that this cluster refuses, such as `chdir`.
    extra
        Further options as they are.
    """

    name: str
    log: str = ""
    folder: str = ""
    comment: str = ""
    cpus: int = 1
    memory_mb: int | None = None
    memory_factor: float = 1.0
    minutes: int | None = None
    time_factor: float = 1.0
    gpus: int = 0
    gpu_types: tuple[str, ...] = ()
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    exclude: tuple[str, ...] = ()
    memory_option: MemoryOption = MemoryOption.PER_NODE
    gpu_option: GpuOption = GpuOption.GRES
    warn_s: int = 0
    leave_out: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()

    def sbatch_options(self) -> Iterator[str]:
        """Yield the options of sbatch, `--name=value`, that request all of it."""
        options = {
            "job-name": self.name,
            "comment": self.comment,
            "output": self.log,
            "chdir": self.folder,
            "cpus-per-task": str(self.all_cpus),
            **dict([self._memory()] if self.memory_mb else []),
            "time": str(self.all_minutes or ""),
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self._constraint(),
            "exclude": ",".join(self.exclude),
            **dict([self._gpus()] if self.gpus else []),
            "signal": f"B:TERM@{self.warn_s}" if self.warn_s else "",
        }
        yield from (f"--{key}={value}" for key, value in options.items() if value and key not in self.leave_out)
        yield from self.extra

    @property
    def all_cpus(self) -> int:
        """Return the CPUs to request. They carry the growth of memory where no option does."""
        return math.ceil(self.cpus * self.memory_factor) if self.memory_option == MemoryOption.NONE else self.cpus

    @property
    def all_memory_mb(self) -> int:
        """Return the memory to request in MB."""
        return math.ceil((self.memory_mb or 0) * self.memory_factor)

    @property
    def all_minutes(self) -> int:
        """Return the time limit to request, 0 for the cluster's default."""
        return math.ceil((self.minutes or 0) * self.time_factor)

    def _memory(self) -> tuple[str, str]:
        if self.memory_option == MemoryOption.NONE:
            return "mem", ""
        if self.memory_option == MemoryOption.PER_CPU:
            return "mem-per-cpu", f"{math.ceil(self.all_memory_mb / self.cpus)}M"
        if self.memory_option == MemoryOption.PER_GPU and self.gpus:
            return "mem-per-gpu", f"{math.ceil(self.all_memory_mb / self.gpus)}M"
        return "mem", f"{self.all_memory_mb}M"

    def _gpus(self) -> tuple[str, str]:
        kind = self.gpu_types[0] if len(self.gpu_types) == 1 else ""
        if self.gpu_option == GpuOption.GPUS:
            return "gpus", ":".join(filter(None, (kind, str(self.gpus))))
        return "gres", ":".join(filter(None, ("gpu", kind, str(self.gpus))))

    def _constraint(self) -> str | None:
        if not self.gpus or len(self.gpu_types) < 2:
            return self.constraint
        one_of = "|".join(self.gpu_types)
        return f"({self.constraint})&({one_of})" if self.constraint else one_of
