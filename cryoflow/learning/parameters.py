"""Parameters of the stages that keep models learning."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge

from cryoflow.parameters import (
    RARE,
    SHARD_MICROGRAPHS,
    Count,
    DatabaseFolder,
    DiameterA,
    ModelFolder,
    Option,
    ParameterError,
    Parameters,
    Positive,
    Remaps,
    Roots,
    Seed,
    ShardMicrographs,
    Share,
)
from cryoflow.pickers.parameters import PickerName, PickerProgram, PickerSettings

if TYPE_CHECKING:
    from cryoflow.models.card import ModelKind

KINDS: Mapping[str, ModelKind] = {"cryoflow": "detector", "cryolo": "cryolo", "topaz": "topaz"}
"""Pickers that can be improved, and the kind of their models in the registry."""


def improvable() -> Iterable[str]:
    """Return the names of the pickers that can be improved."""
    return KINDS


JOINT_EVERY = 5
"""Updates from one training on all projects to the next."""


@dataclass(frozen=True, kw_only=True)
class RegistryOfDatabase(Parameters):
    """A database, and where its models are."""

    database: DatabaseFolder
    models: Annotated[Path | None, Option(examples=("/data/models",))] = None
    """Folder of the models; by default `models` beside the database."""

    @property
    def root(self) -> Path:
        """Return the registry's folder."""
        from cryoflow.models.find_model import registry_beside

        return self.models or registry_beside(self.database)


@dataclass(frozen=True, kw_only=True)
class LearningParameters(RegistryOfDatabase):
    """From which projects to learn, and where the models are."""

    joint_every: Annotated[Count, Option(group=RARE)] = JOINT_EVERY
    """Train on all projects, from the start, in each so many-th update."""
    micrographs: Annotated[Count, Option(group=RARE)] = 200
    """Most micrographs of a project."""


@dataclass(frozen=True, kw_only=True)
class UpdateParameters(LearningParameters):
    """Learn from projects that are new or changed since the version in use."""

    name: Annotated[str, Option(examples=("detector",))]
    """Name of the model in the registry."""
    projects: Annotated[tuple[str, ...], Option(names=("--project",), examples=(("P190",),))] = ()
    """Learn from this project, or those of a pattern such as P19*; by default from all that are new or changed."""
    trusted: Annotated[tuple[str, ...], Option(names=("--trust",), examples=(("P190",),), rare=True)] = ()
    """Learn from this project although its particle seems to be another one than before."""
    again: Annotated[bool, Option(rare=True)] = False
    """Learn also from what was quarantined, refused by the gate or rolled back before."""
    diameter_A: DiameterA | None = None


@dataclass(frozen=True, kw_only=True)
class UpdateDetectorParameters(UpdateParameters):
    """Let the detector learn from projects that are new or changed since the version in use."""

    name: Annotated[str, Option(examples=("detector",))] = "detector"
    """Name of the model in the registry."""
    rounds: Annotated[Count, Option(group=RARE)] = 3
    """Rounds of an update; a checkpoint is written after each."""
    joint_rounds: Annotated[Count, Option(group=RARE)] = 20
    """Rounds of a training on all projects."""
    steps: Annotated[Count, Option(group=RARE)] = 50
    """Batches of a round."""
    unpicker: Annotated[str, Option(group=RARE, examples=("unpicker",))] = "unpicker"
    """Name of the un-picker in the registry whose agreement must not fall where labels are incomplete."""
    seed: Annotated[int, Ge(0), Option(group=RARE)] = 1
    """Another number is another random start."""


@dataclass(frozen=True, kw_only=True)
class UpdateUnpickerParameters(UpdateParameters):
    """Let the unpicker learn from projects that are new or changed since the version in use."""

    name: Annotated[str, Option(examples=("unpicker",))] = "unpicker"
    """Name of the model in the registry."""
    epochs: Annotated[Count, Option(group=RARE)] = 5
    """Most epochs of an update."""
    joint_epochs: Annotated[Count | None, Option(group=RARE, examples=(12,))] = None
    """Most epochs of a training on all projects; by default those of `unpicker train`."""
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


@dataclass(frozen=True, kw_only=True)
class ImproveParameters(RegistryOfDatabase, PickerProgram):
    """Picker to improve, and the micrographs: pick, clean, train, compare, and keep the better model."""

    picker: Annotated[PickerName, Option(choices=improvable)]
    entry: Annotated[str, Option(positional=True, examples=("P190/AutoPick_J12",))] = ""
    """Entry of the database whose micrographs are picked; its picks are not used."""
    micrographs: Annotated[tuple[Path, ...], Option(examples=(("/data/new/micrographs",),))] = ()
    """MRC files, or folders of them, in place of an entry."""
    output: Annotated[Path, Option(names=("--output", "-o"), examples=("/data/improved/topaz",))]
    """Folder to work in; the same command goes on there where it was stopped."""
    model: Annotated[str, Option(examples=("topaz-P190",))] = ""
    """The base model that picks first, a file or a name; by default the version in use of `name`, else the picker's
    own general model."""
    first: Annotated[str, Option(examples=("P190/AutoPick_J12",))] = ""
    """Entry of the first picks, in place of a base model."""
    unpicker: Annotated[ModelFolder, Option(help="The un-picker that cleans: a folder, NAME, or general")] = Path(
        "general"
    )
    reference: Annotated[str, Option(examples=("P190/NonUniform_J60",))] = ""
    """Entry whose picks on held-out micrographs must be found, such as a refinement; by default the best entry of the
    project, and without one the agreement with the un-picker counts."""
    selected: Annotated[tuple[str, ...], Option(names=("--selected",), examples=(("P190/Select2D_J20",),))] = ()
    """Entry of a 2D selection that a round learns from, in place of un-picking; the first one is of the first round."""
    agreeing: Annotated[dict[str, str], Option(names=("--with",), examples=({"topaz": "resnet16_u64"},), rare=True)] = (
        field(default_factory=dict)
    )
    """Another picker and its model, PICKER=MODEL; the first round learns from the picks on which pickers agree."""
    at_least: Annotated[Count, Option(rare=True)] = 2
    """How many pickers must agree."""
    rounds: Count = 3
    """Most rounds; a round without a gain is the last."""
    least_gain: Annotated[Share, Option(group=RARE)] = 0.005
    """A round gains where its score on held-out micrographs rises by more than this."""
    sample: Annotated[Count, Option(names=("--sample",), group=RARE)] = 200
    """Most micrographs that a round picks."""
    name: Annotated[str, Option(examples=("topaz-P190",))] = ""
    """Name of the model in the registry; by default PICKER-PROJECT."""
    diameter_A: DiameterA | None = None
    pixel_size_A: Annotated[Positive | None, Option(names=("--pixel-size", "--apix"), examples=(1.05,))] = None
    """Pixel size in angstrom of micrographs whose headers have none."""
    settings: PickerSettings = field(default_factory=dict)
    seed: Seed = 0

    def check(self) -> None:
        """Refuse what does not go together."""
        super().check()
        if bool(self.entry) == bool(self.micrographs):
            raise ParameterError("Name an {entry} of the database or {micrographs}, one of the two.")
        if self.model and self.first:
            raise ParameterError("Give {model} or {first}, not both.")
        if self.selected and self.agreeing:
            raise ParameterError("Give {selected} or {agreeing}, not both: each labels the first round.")
        if self.picker in self.agreeing:
            raise ParameterError("{agreeing}: name other pickers; the improved one always takes part.")
        if self.agreeing and self.at_least > len(self.agreeing) + 1:
            raise ParameterError("{at_least} is more than there are pickers.")
