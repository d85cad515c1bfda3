"""The form of a SLURM job, as Prefect's UI shows it: one class, whose field descriptions are the form."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

from prefect.workers.base import BaseJobConfiguration
from pydantic import AfterValidator, Field, field_validator

from cryoflow.cluster.start_stage import START_STAGE
from cryoflow.execution.containers import Mounts
from cryoflow.execution.job_script import job_name
from cryoflow.execution.resources import GpuOption, JobRequest, MemoryOption
from cryoflow.execution.stage_script import TAG, StageJob
from cryoflow.storage.safe_names import expanded

_BY_WORKER = "the worker sets it itself"
_MEMORY = "memory_gb says how much memory, and `memory` of [site] which option carries it"
REFUSED_DIRECTIVES = {
    **dict.fromkeys(
        ("chdir", "comment", "error", "export", "export-file", "input", "job-name", "nodes", "ntasks", "open-mode",
         "output", "parsable", "requeue", "no-requeue", "signal"),
        _BY_WORKER,
    ),
    **dict.fromkeys(("mem-per-cpu", "mem-per-gpu"), _MEMORY),
    "array": "one run is one job",
    "wrap": "the script is written by the worker",
    "wait": "the worker waits itself",
    "test-only": "no job would be made",
    "hold": "a held job never starts, and its run would wait for ever",
    "dependency": "stages are started in their order by the flow",
    "clusters": "the worker reads the queue of one cluster: give each cluster its own server and worker",
    "cluster-constraint": "the worker reads the queue of one cluster: give each cluster its own server and worker",
    "uid": "jobs belong to the worker's account",
    "gid": "jobs belong to the worker's account",
}  # fmt: skip
"""Options of sbatch that would break what the worker relies on, and why."""


def _one_line(text: str) -> str:
    """Refuse line breaks: SLURM reads a directive to the end of its line, and nothing can quote that end."""
    if any(character in text for character in "\n\r\0"):
        raise ValueError(f"{text!r} has a line break in it, which sbatch cannot be given")
    return text


def _absolute(text: str) -> str:
    """Return a path that is the same wherever the job starts; `~` is the home of the worker's account."""
    path = expanded(_one_line(text))
    if not path.is_absolute():
        raise ValueError(f"{text!r} must be an absolute path: the job starts in another folder")
    return str(path)


def _log_folder(text: str) -> str:
    if "\\" in text:
        raise ValueError(f"{text!r} has a backslash in it, which sbatch does not take in the name of a log")
    return _absolute(text)


def _plain_folder(text: str) -> str:
    if set(text) & set(',"'):
        raise ValueError(f"{text!r} has a comma or a quote in it, which a scratch folder cannot have")
    return _absolute(text)


Line = Annotated[str, AfterValidator(_one_line)]
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
LogFolder = Annotated[str, AfterValidator(_log_folder)]
ScratchFolder = Annotated[str, AfterValidator(_plain_folder)]


class SlurmJobConfiguration(BaseJobConfiguration):
    """Configuration of one flow run as one SLURM job."""

    image: AbsolutePath | None = Field(
        default=None,
        title="Apptainer image",
        description="The image file (.sif) that the stage runs in. Leave empty to run without a container: then the "
        "setup lines must make a Python with cryoflow available.",
        examples=["/opt/cryoflow/cryoflow-cpu.sif"],
    )
    partition: Line | None = Field(
        default=None, description="SLURM partition; empty takes the cluster's default.", examples=["cpu", "gpu"]
    )
    account: Line | None = Field(default=None, description="SLURM account that the job is charged to.")
    qos: Line | None = Field(default=None, title="QOS", description="SLURM quality of service.")
    gpus: int = Field(default=0, ge=0, title="GPUs", description="Number of GPUs. With any, the image gets --nv.")
    gpu_type: Line | None = Field(
        default=None,
        title="GPU type",
        description="Kind of GPU as the cluster names it in gres. Several, with commas between, become a constraint: "
        "any node whose features name one of them.",
        examples=["a100", "h100,a100"],
    )
    cpus: int = Field(default=1, ge=1, title="CPUs", description="CPU cores.")
    memory_gb: float = Field(default=4, gt=0, title="Memory (GB)", description="Memory of the job in GB (1024 MB).")
    time_minutes: int = Field(
        default=60, ge=1, title="Time limit (minutes)", description="SLURM ends the job after this long."
    )
    constraint: Line | None = Field(
        default=None, description="Features that the node must have.", examples=["avx512&nvme"]
    )
    read_only: list[AbsolutePath] = Field(
        default_factory=list,
        title="Folders to read",
        description="Folders of projects. The image sees them at the same path and cannot write to them.",
        examples=[["/data/projects"]],
    )
    read_write: list[AbsolutePath] = Field(
        default_factory=list,
        title="Folders to write",
        description="Folders of results. The image sees them at the same path and may write to them.",
        examples=[["/data/picks"]],
    )
    scratch: ScratchFolder | None = Field(
        default=None,
        title="Node-local scratch",
        description="A fast folder of each node. A job gets a folder of its own in it, removed when the job ends.",
        examples=["/scratch"],
    )
    log_folder: LogFolder = Field(
        default="~/cryoflow-logs",
        description="Folder for job scripts and logs. The login node and all nodes must see it.",
    )
    setup: str = Field(
        default="",
        title="Setup lines",
        description="Shell lines that run on the node before the stage, as they stand.",
        examples=["module load apptainer", "source /opt/cryoflow/venv/bin/activate"],
        json_schema_extra={"format": "textarea"},
    )
    extra_directives: list[Line] = Field(
        default_factory=list,
        description="Further options of sbatch, one each.",
        examples=[["--reservation=cryoem", "--exclusive"]],
    )
    apptainer: Line = Field(default="apptainer", description="The program apptainer (or singularity) on the nodes.")
    apptainer_options: list[Line] = Field(
        default_factory=list, description="Further options of apptainer exec, one each.", examples=[["--userns"]]
    )
    exclude_nodes: list[Line] = Field(
        default_factory=list,
        description="Nodes that the job must not run on. The node of a job that was lost is added when it is retried.",
        examples=[["gpu7"]],
    )
    memory_option: MemoryOption = Field(
        default=MemoryOption.PER_NODE,
        title="Memory option",
        description="Option of sbatch that carries the memory: per-node, per-cpu, per-gpu, or none where memory comes "
        "with the CPUs. Rarely needed: a property of the cluster.",
    )
    gpu_option: GpuOption = Field(
        default=GpuOption.GRES,
        title="GPU option",
        description="Option that carries the GPUs. Rarely needed: a property of the cluster.",
    )
    leave_out: list[Line] = Field(
        default_factory=list,
        description="Names of options that this cluster refuses. Rarely needed: a property of the cluster.",
        examples=[["chdir", "comment"]],
    )
    warn_seconds: int = Field(
        default=0,
        ge=0,
        description="Seconds before the time limit at which the stage is told to stop, so that it can write a "
        "checkpoint; 0 for no warning.",
    )
    pack: int = Field(
        default=1,
        ge=1,
        title="Runs of one job",
        description="Up to so many runs that ask for the same share a job. For clusters that limit a user's jobs.",
    )
    pack_at_once: int = Field(
        default=1,
        ge=1,
        title="Runs of one job at once",
        description="How many runs of a shared job run at the same time. The job asks for so many times the resources; "
        "with 1 its runs follow one another.",
    )
    memory_factor: float = Field(
        default=1,
        ge=1,
        description="Memory is multiplied by this. The pipeline raises it when a job was killed for memory. Rarely "
        "needed here.",
    )
    time_factor: float = Field(
        default=1,
        ge=1,
        description="The time limit is multiplied by this. The pipeline raises it when a job ran out of time. Rarely "
        "needed here.",
    )

    @field_validator("extra_directives")
    @classmethod
    def _allowed_directives(cls, directives: list[str]) -> list[str]:
        for directive in directives:
            name = directive.removeprefix("--").partition("=")[0]
            if not directive.startswith("--") or any(c.isspace() for c in name):
                raise ValueError(f"{directive!r}: write a long option of sbatch such as --reservation=cryoem")
            # sbatch takes abbreviations too; --mem is an option of its own
            meant = [refused for refused in REFUSED_DIRECTIVES if refused.startswith(name) and name != "mem"]
            if meant:
                option = name if name in meant else meant[0]
                short = "" if name == option else f", short for --{option},"
                raise ValueError(f"{directive!r}{short} cannot be used: {REFUSED_DIRECTIVES[option]}")
        return directives

    def request(self, *, name: str, flow_run_id: object, log: Path) -> JobRequest:
        """Return the resources that the job requests from SLURM."""
        return JobRequest(
            job_name(name),
            log=str(log),
            folder=str(log.parent),
            comment=f"{TAG}{flow_run_id}",
            cpus=self.cpus,
            memory_mb=math.ceil(self.memory_gb * 1024),
            memory_factor=self.memory_factor,
            minutes=self.time_minutes,
            time_factor=self.time_factor,
            gpus=self.gpus,
            gpu_types=tuple(filter(None, (t.strip() for t in (self.gpu_type or "").split(",")))),
            partition=self.partition,
            account=self.account,
            qos=self.qos,
            constraint=self.constraint,
            exclude=tuple(self.exclude_nodes),
            memory_option=self.memory_option,
            gpu_option=self.gpu_option,
            warn_s=self.warn_seconds,
            leave_out=tuple(self.leave_out),
            extra=tuple(self.extra_directives),
        )

    def stage_job(self, *, name: str, flow_run_id: object, log: Path) -> StageJob:
        """Return the whole job of a flow run."""
        return StageJob(
            self.request(name=name, flow_run_id=flow_run_id, log=log),
            tuple(self.argv),
            image=self.image,
            mounts=self.mounts,
            apptainer=self.apptainer,
            apptainer_options=tuple(self.apptainer_options),
            setup=self.setup,
            scratch=self.scratch,
            environment={k: v for k, v in self.env.items() if v is not None},
        )

    @property
    def mounts(self) -> Mounts:
        """Return the folders that the image sees."""
        return Mounts(tuple(self.read_only), tuple(self.read_write))

    @property
    def argv(self) -> list[str]:
        """Return the command of the flow run. `prefect flow-run execute` would import Prefect twice."""
        if self.command and self.command != self._base_flow_run_command():
            return shlex.split(self.command)
        return ["python" if self.image else sys.executable, "-m", START_STAGE]
