"""Settings of a site, in the table `[site]` of cryoflow.toml: folders, images, resources."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from cryoflow.storage.safe_names import expanded

ClassName = Literal["small", "large", "gpu"]


def _absolute(path: Path) -> Path:
    """Expand `~`, and refuse relative paths: nodes and containers must find the folder under the same name."""
    path = expanded(path)
    if not path.is_absolute():
        raise ValueError(f"{path} is not an absolute path")
    return path


Folder = Annotated[Path, AfterValidator(_absolute)]


class ResourceClass(BaseModel):
    """Resources of one class of stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cpus: int = Field(default=1, ge=1, description="CPU cores")
    memory_gb: float = Field(default=4, gt=0, description="memory; doubled when a job was killed for it")
    time_minutes: int = Field(default=60, ge=1, description="time limit; doubled when a job ran out of it")
    gpus: int = Field(default=0, ge=0, description="GPUs")
    gpu_type: str | None = Field(
        default=None, description="kind of GPU, as the cluster names it in gres; a list of kinds, any of which will do"
    )
    partition: str | None = Field(default=None, description="SLURM partition; none takes the cluster's default")
    account: str | None = Field(default=None, description="SLURM account")
    qos: str | None = Field(default=None, description="SLURM quality of service")
    constraint: str | None = Field(default=None, description="features that the node must have")
    extra_directives: tuple[str, ...] = Field(default=(), description="further options of sbatch")
    warn_seconds: int = Field(
        default=0, ge=0, description="seconds before the time limit at which a stage is asked to stop; 0 for no warning"
    )

    pack: int = Field(default=1, ge=1, description="stages of this class that share one job, at most")
    pack_at_once: int = Field(
        default=1, ge=1, description="stages of a shared job that run at the same time; its resources are so many times"
    )

    @field_validator("gpu_type", mode="before")
    @classmethod
    def _joined(cls, value: object) -> object:
        return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _default_classes() -> dict[ClassName, ResourceClass]:
    return {
        "small": ResourceClass(cpus=1, memory_gb=4, time_minutes=60),
        "large": ResourceClass(cpus=8, memory_gb=32, time_minutes=480),
        "gpu": ResourceClass(cpus=4, memory_gb=32, time_minutes=720, gpus=1),
    }


class PickerSite(BaseModel):
    """Programs of one picker at a site."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    programs: Folder | None = Field(default=None, description="folder with the picker's programs, on all nodes")
    container: Literal["", "docker", "apptainer"] = Field(default="", description="run the picker in an image")
    image: str = Field(default="", description="that image")

    @model_validator(mode="after")
    def _needs_both(self) -> PickerSite:
        if bool(self.container) != bool(self.image):
            raise ValueError("container and image need each other")
        return self


class Site(BaseModel):
    """The machines and folders of one site."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    resources: dict[ClassName, ResourceClass] = Field(
        default_factory=_default_classes, description="numbers of the resource classes small, large and gpu"
    )
    read_only: tuple[Folder, ...] = Field(default=(), description="folders of projects; images cannot write to them")
    read_write: tuple[Folder, ...] = Field(default=(), description="folders of results; images may write to them")
    log_folder: Folder = Field(
        default=Path("~/cryoflow-logs"),
        validate_default=True,
        description="job scripts and logs; all nodes must see it",
    )
    scratch: Folder | None = Field(default=None, description="fast folder of each node")
    cpu_image: str | None = Field(
        default=None, description="image of stages without a GPU: a .sif file, or a name for Docker"
    )
    gpu_image: str | None = Field(default=None, description="image of stages with a GPU")
    setup: str = Field(default="", description="shell lines that run on a node before a stage: module load ...")
    apptainer_options: tuple[str, ...] = Field(default=(), description="further options of apptainer exec")
    memory: Literal["per-node", "per-cpu", "per-gpu", "none"] = Field(
        default="per-node", description="option of sbatch that carries memory; none where it comes with the CPUs"
    )
    gpu_option: Literal["gres", "gpus"] = Field(default="gres", description="option of sbatch that carries GPUs")
    leave_out: tuple[str, ...] = Field(
        default=(), description="names of options that this cluster's sbatch refuses, such as chdir"
    )
    poll_seconds: float = Field(
        default=4, gt=0, description="seconds between two calls of squeue; cancelling is noticed sooner"
    )
    lost_after_seconds: float = Field(
        default=60, gt=0, description="a job that neither squeue nor sacct knows counts as lost after so long"
    )
    server_patience_minutes: float = Field(
        default=30, ge=0, description="minutes that a starting job waits for a Prefect server that is away"
    )
    scheduler: dict[str, Any] | None = Field(
        default=None, description="templates of a scheduler other than SLURM: see examples/sites"
    )
    slurmrestd: str | None = Field(
        default=None,
        description="address of slurmrestd, http://host:port or unix:/path, where the worker has no commands of SLURM",
    )
    slurmrestd_version: str = Field(
        default="v0.0.38", pattern=r"^v\d+\.\d+\.\d+$", description="version of slurmrestd's OpenAPI plugin"
    )
    pickers: dict[str, PickerSite] = Field(
        default_factory=dict, description="programs and images of pickers, by the picker's name"
    )
    server: str = Field(default="http://127.0.0.1:4200", description="address of Prefect, as nodes and users reach it")
    server_database: SecretStr | None = Field(
        default=None, description="PostgreSQL of the Prefect server: postgresql+asyncpg://..."
    )
    viewer: str | None = Field(
        default=None, description="address of `cryoflow view`, as users reach it: links to reports lead there"
    )
    reports: tuple[Folder, ...] = Field(
        default=(), description="folders whose reports the viewer serves; by default those of read_write"
    )
    masks: tuple[Folder, ...] = Field(
        default=(), description="folders of masks of carbon, ice and aggregates that the viewer draws"
    )
    models: Folder | None = Field(
        default=None, description="folder of trained models that nightly retraining keeps up to date"
    )
    shards_at_once: int = Field(default=20, ge=1, description="jobs of one stage that wait or run at the same time")
    attempts: int = Field(
        default=3, ge=1, description="jobs of one stage or shard that ran out of memory, time or luck"
    )

    @field_validator("resources", mode="before")
    @classmethod
    def _laid_over_defaults(cls, classes: object) -> object:
        """Fill what the file leaves out of a class from the default of that class."""
        if not isinstance(classes, Mapping):
            return classes
        known = {str(name): value.model_dump() for name, value in _default_classes().items()}
        return {k: known.get(str(k), {}) | dict(v) if isinstance(v, Mapping) else v for k, v in classes.items()}

    def missing_images(self) -> list[str]:
        """Return the image files of the site that are not on this machine; names for Docker are no files."""
        images = (self.cpu_image, self.gpu_image)
        return [image for image in images if image and image.startswith("/") and not Path(image).exists()]

    def resource_class(self, name: ClassName) -> ResourceClass:
        """Return the numbers of a class; one that the file does not name has its default."""
        return self.resources.get(name) or _default_classes()[name]
