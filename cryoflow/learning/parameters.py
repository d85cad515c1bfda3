"""Parameters of the stages that keep models learning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from cryoflow.parameters import (
    RARE,
    SHARD_MICROGRAPHS,
    Count,
    DatabaseFolder,
    DiameterA,
    Option,
    Parameters,
    Remaps,
    Roots,
    ShardMicrographs,
)

JOINT_EVERY = 5
"""Updates from one training on all projects to the next."""


@dataclass(frozen=True, kw_only=True)
class LearningParameters(Parameters):
    """From which projects to learn, and where the models are."""

    database: DatabaseFolder
    models: Annotated[Path | None, Option(examples=("/data/models",))] = None
    """Folder of the models; by default `models` beside the database."""
    joint_every: Annotated[Count, Option(group=RARE)] = JOINT_EVERY
    """Train on all projects, from the start, in each so many-th update."""
    micrographs: Annotated[Count, Option(group=RARE)] = 200
    """Most micrographs of a project."""

    @property
    def root(self) -> Path:
        """The registry's folder."""
        from cryoflow.models.named import registry_beside

        return self.models or registry_beside(self.database)


@dataclass(frozen=True, kw_only=True)
class UpdateParameters(LearningParameters):
    """Learn from projects that are new or changed since the version in use."""

    name: Annotated[str, Option(examples=("detector",))]
    """Name of the model in the registry."""
    projects: Annotated[tuple[str, ...], Option(names=("--project",), examples=(("P190",),))] = ()
    """Learn from this project only; by default from all that are new or changed."""
    trusted: Annotated[tuple[str, ...], Option(names=("--trust",), examples=(("P190",),))] = ()
    """Learn from this project although its particle seems to be another one than before."""
    again: bool = False
    """Learn also from what was quarantined, refused by the gate or rolled back before."""
    diameter_A: DiameterA | None = None


@dataclass(frozen=True, kw_only=True)
class UpdateDetectorParameters(UpdateParameters):
    """Let the detector learn from projects that are new or changed since the version in use."""

    name: Annotated[str, Option(examples=("detector",))] = "detector"
    """Name of the model in the registry."""
    rounds: Annotated[Count, Option(group=RARE)] = 4
    """Rounds of an update; a checkpoint is written after each."""
    joint_rounds: Annotated[Count, Option(group=RARE)] = 20
    """Rounds of a training on all projects."""
    steps: Annotated[Count, Option(group=RARE)] = 50
    """Batches of a round."""
    seed: Annotated[int, Ge(0), Option(group=RARE)] = 1
    """Another number is another random start."""


@dataclass(frozen=True, kw_only=True)
class UpdateUnpickerParameters(UpdateParameters):
    """Let the unpicker learn from projects that are new or changed since the version in use."""

    name: Annotated[str, Option(examples=("unpicker",))] = "unpicker"
    """Name of the model in the registry."""
    epochs: Annotated[Count, Option(group=RARE)] = 8
    """Most epochs of an update."""
    joint_epochs: Annotated[Count, Option(group=RARE)] = 30
    """Most epochs of a training on all projects."""
    seed: Annotated[int, Ge(0), Option(group=RARE)] = 0
    """Another number is another random start."""


@dataclass(frozen=True, kw_only=True)
class LearnParameters(LearningParameters):
    """Read what is new below some folders, and let detector and unpicker learn from it."""

    roots: Roots
    remaps: Remaps = ()
    shard_micrographs: ShardMicrographs = SHARD_MICROGRAPHS
    detector: bool = True
    """Update the detector."""
    unpicker: bool = True
    """Update the unpicker."""
