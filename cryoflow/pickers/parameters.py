"""Parameters of the stages around pickers: export, train, pick, import, compare."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from cryoflow.parameters import (
    MATCH_RADIUS,
    RARE,
    SHARD_MICROGRAPHS,
    VALIDATION_SHARE,
    Count,
    DatabaseFolder,
    DiameterA,
    Entries,
    HeldOutBy,
    MatchRadius,
    Option,
    OutputFolder,
    ParameterError,
    Parameters,
    Positive,
    Seed,
    ShardMicrographs,
    Share,
)


def exportable() -> Iterable[str]:
    """Return the names of all pickers."""
    from cryoflow.pickers.registry import names

    return names("export")


def trainable() -> Iterable[str]:
    """Return the names of the pickers that can be trained from here."""
    from cryoflow.pickers.registry import names

    return names("train")


def runnable() -> Iterable[str]:
    """Return the names of the pickers that can be run from here."""
    from cryoflow.pickers.registry import names

    return names("pick")


def trainable_and_runnable() -> Iterable[str]:
    """Return the names of the pickers that can be trained and run from here."""
    return {*trainable()} & {*runnable()}


WHERE = "Where the picker runs"

PickerName = Annotated[str, Option(positional=True, help="The picker; `cryoflow picker list` describes them")]
AnyPicker = Annotated[PickerName, Option(choices=exportable)]
TrainablePicker = Annotated[PickerName, Option(names=("--picker", "--name"), choices=trainable)]
RunnablePicker = Annotated[PickerName, Option(names=("--picker", "--name"), choices=runnable)]
PickerSettings = Annotated[
    dict[str, str],
    Option(
        names=("--set",),
        help="A setting of the picker by hand, NAME=VALUE",
        examples=({"target_pixel_size": "8"},),
        rare=True,
    ),
]
Threshold = Annotated[
    float, Option(help="Leave out picks of a lower score; by default the picker's own threshold", examples=(0.3,))
]
ScriptOnly = Annotated[bool, Option(help="Run nothing: write a job script", group=WHERE, form=False)]


@dataclass(frozen=True, kw_only=True)
class TrainingSource(Parameters):
    """Picks that a picker is trained on."""

    entries: Entries = ()
    database: DatabaseFolder
    best: Annotated[bool, Option(form=False)] = False
    """Take the best entry of each project in place of named ones; `cryoflow database select` shows which and why."""
    projects: Annotated[tuple[str, ...], Option(names=("--project",), examples=(("P190",),))] = ()
    """Take the best entry of these projects only; patterns such as P19* too."""
    diameter_A: DiameterA | None = None
    validation: Annotated[Share, Option(rare=True)] = VALIDATION_SHARE
    """Share of the micrographs that validate."""
    seed: Seed = 0
    settings: PickerSettings = field(default_factory=dict)
    models: HeldOutBy = None


@dataclass(frozen=True, kw_only=True)
class ExportParameters(TrainingSource):
    """Picks to write, and the picker to write them for. Without entries: the best one of each project."""

    picker: AnyPicker
    output: OutputFolder
    box_px: Annotated[int, Ge(1), Option(names=("--box",), examples=(256,), rare=True)] | None = None
    """One box for all entries in pixels, in place of the diameter."""
    test: Share = 0.0
    """Share of the micrographs that the picker never sees."""
    negatives: bool = True
    """Keep micrographs without picks as examples of no particles."""
    force: Annotated[bool, Option(rare=True)] = False
    """Export even where the pixels contradict the positions of the picks."""
    overwrite: bool = False
    """Replace an earlier export of cryoflow in that folder, trained models included."""
    copy: Annotated[bool, Option(rare=True)] = False
    """Copy the micrographs in place of linking them, so that no program in the export can edit yours."""
    reflink: Annotated[bool, Option(rare=True)] = False
    """Like copy, without space: the copies share their blocks with your files until one is edited (XFS, Btrfs)."""
    shard_micrographs: Annotated[ShardMicrographs, Option(command_line=False)] = SHARD_MICROGRAPHS

    @property
    def all_settings(self) -> dict[str, str]:
        """Return the settings by hand, including those that have an option."""
        how = "copy" if self.copy else "reflink" if self.reflink else ""
        return self.settings | ({"micrographs": how} if how else {})

    def check(self) -> None:
        """Refuse two sizes, and two kinds of copies."""
        if self.diameter_A is not None and self.box_px is not None:
            raise ParameterError("Give {diameter_A} or {box_px}, not both.")
        if self.copy and self.reflink:
            raise ParameterError("Give {copy} or {reflink}, not both.")


@dataclass(frozen=True, kw_only=True)
class PickerProgram(Parameters):
    """Program of a picker, and the resources that it may use."""

    programs: Annotated[Path | None, Option(group=WHERE, examples=("/opt/topaz/bin",), rare=True)] = None
    """Folder with the picker's programs; PATH is searched after it."""
    container: Annotated[Literal["docker", "apptainer"] | None, Option(group=WHERE, rare=True)] = None
    """Run the picker in an image of Docker or Apptainer."""
    image: Annotated[str, Option(group=WHERE, examples=("cryoflow-topaz.sif",), rare=True)] = ""
    """That image."""
    slurm: Annotated[bool, Option(group=WHERE, form=False)] = False
    """Submit it as a job, and wait for its end."""
    sbatch: Annotated[tuple[str, ...], Option(group=WHERE, form=False, allow_leading_hyphen=True)] = ()
    """An option for sbatch, such as --sbatch=--partition=gpu."""
    gpu_numbers: Annotated[str | None, Option(names=("--gpus",), group=WHERE, form=False)] = None
    """Numbers of the GPUs, as in 0,1, or none for a CPU; of a job only their count matters. By default the first."""
    gpus: Annotated[int, Ge(0), Option(group=WHERE, command_line=False, rare=True)] = 1
    """Number of GPUs; 0 for a CPU."""
    cpus: Annotated[Count, Option(group=WHERE, rare=True)] = 4
    """Processes that read and write."""
    timeout_h: Annotated[Positive | None, Option(group=WHERE, form=False)] = None
    """End the program after so many hours."""

    def gpu_list(self) -> tuple[int, ...]:
        """Return the numbers of the GPUs."""
        if self.gpu_numbers is None:
            return tuple(range(self.gpus))
        if self.gpu_numbers in ("none", "-1", ""):
            return ()
        try:
            return tuple(int(number) for number in self.gpu_numbers.split(","))
        except ValueError:
            raise ParameterError("{gpu_numbers}: write numbers as in 0,1, or none.") from None

    def check(self) -> None:
        """Refuse numbers of GPUs that are none."""
        self.gpu_list()


@dataclass(frozen=True, kw_only=True)
class TrainPickerParameters(PickerProgram):
    """Exported training set to train a picker on."""

    picker: TrainablePicker
    folder: Annotated[Path, Option(positional=True)]
    """Folder that `cryoflow export` wrote."""
    again: bool = False
    """Train anew where there is a model already."""
    script_only: ScriptOnly = False
    models: HeldOutBy = None


@dataclass(frozen=True, kw_only=True)
class MicrographsToPick(Parameters):
    """Micrographs that no entry has, and how they are picked."""

    micrographs: Annotated[tuple[Path, ...], Option(examples=(("/data/new/micrographs",),))] = ()
    """MRC files, or folders of them, to pick."""
    pixel_size_A: Annotated[Positive, Option(names=("--pixel-size", "--apix"), examples=(1.05,))] | None = None
    """Pixel size of these micrographs in angstrom, where their headers have none."""
    threshold: Threshold | None = None


@dataclass(frozen=True, kw_only=True)
class PickParameters(MicrographsToPick, PickerProgram):
    """Micrographs to pick, and the trained model."""

    picker: RunnablePicker
    entries: Annotated[
        Entries,
        Option(help="Entries, or patterns such as P190/*, whose micrographs are picked; their picks are not used"),
    ] = ()
    model: str
    """The model's file, a name that the picker knows, or NAME or NAME@VERSION of the registry."""
    database: DatabaseFolder | None = None
    output: OutputFolder
    diameter_A: DiameterA | None = None
    settings: PickerSettings = field(default_factory=dict)
    overwrite: bool = False
    """Replace an earlier run in that folder."""
    script_only: ScriptOnly = False

    def check(self) -> None:
        """Refuse nothing to pick."""
        super().check()
        if not self.entries and not self.micrographs:
            raise ParameterError("Name {entries} of a {database}, or {micrographs}.")


@dataclass(frozen=True, kw_only=True)
class TrainAndPickParameters(TrainingSource, MicrographsToPick, PickerProgram):
    """Picker, the picks to train it on, and the micrographs to pick. The new picks become entries of the database."""

    picker: Annotated[TrainablePicker, Option(choices=trainable_and_runnable)]
    output: OutputFolder
    to_pick: Annotated[tuple[str, ...], Option(examples=(("P190/AutoPick_J12",),))] = ()
    """Entries, or patterns such as P190/*, whose micrographs are picked (their picks are not used)."""
    run: Annotated[str, Option(form=False)] = ""
    """Name of the run, part of the new entry's name; by default the picker's."""
    script_only: ScriptOnly = False
    shard_micrographs: Annotated[ShardMicrographs, Option(command_line=False)] = SHARD_MICROGRAPHS

    def check(self) -> None:
        """Refuse nothing to pick: the training would take hours before that is noticed."""
        super().check()
        if not self.to_pick and not self.micrographs:
            raise ParameterError("Say what to pick: {to_pick} or {micrographs}.")


@dataclass(frozen=True, kw_only=True)
class ImportPicksParameters(Parameters):
    """Picks of a picker that ran elsewhere."""

    picker: Annotated[PickerName, Option(names=("--picker", "--name"), choices=exportable)]
    folder: Annotated[Path, Option(positional=True)]
    """Its output: a folder, or one file."""
    manifest: Path | None = None
    """The manifest.tsv of the set that was picked, or its folder; by default the one that the picks lie in."""
    database: DatabaseFolder | None = None
    run: str = ""
    """Name of the run, part of the entry's name; by default the folder's."""
    threshold: Threshold | None = None
    keep_all: Annotated[bool, Option(names=("--all",))] = False
    """Keep all picks, whatever their score."""
    micrograph_pixels: bool = False
    """The positions are scaled back already, as by `topaz extract -x`."""
    flip_y: bool | None = None
    """Count y from the last row; by default of CryoPPP's tables alone."""
    model: str = ""
    """Name of the model, kept with the picks."""


@dataclass(frozen=True, kw_only=True)
class ConsensusParameters(Parameters):
    """Entries that must agree on a pick."""

    entries: Entries = ()
    database: DatabaseFolder
    at_least: Count = 2
    """How many entries must agree; 1 keeps all picks without their duplicates."""
    radius: MatchRadius = MATCH_RADIUS
    diameter_A: DiameterA | None = None
    name: str = ""
    """Name of the new entry, Consensus_<name>."""


@dataclass(frozen=True, kw_only=True)
class Matching(Parameters):
    """Picks that are compared with reference picks."""

    entries: Entries = ()
    database: DatabaseFolder
    radius: MatchRadius = MATCH_RADIUS
    diameter_A: DiameterA | None = None


@dataclass(frozen=True, kw_only=True)
class ComparePicksParameters(Matching):
    """Picks to compare with one reference entry."""

    reference: str
    """The entry that is taken to be correct."""
    output: OutputFolder | None = None
    method: Annotated[Literal["optimal", "greedy"], Option(group=RARE)] = "optimal"
    """optimal: as many pairs as possible; greedy: the nearest pair first."""
    split_of: Path | None = None
    """Count only the micrographs of one split of this exported folder: those that a picker was not trained on."""
    split: Literal["train", "validation", "test"] = "test"
    """That split."""
    per_micrograph: Annotated[bool, Option(names=("--per-micrograph", "--micrographs"))] = False
    """Print one line for each micrograph in place of one for each entry."""


@dataclass(frozen=True, kw_only=True)
class EvaluateParameters(Matching):
    """Picks to compare with the reference entries of their projects."""

    reference_database: Annotated[Path, Option(examples=("/data/reference",))]
    """Database of reference picks of the same projects."""
    output: Annotated[Path, Option(examples=("/data/evaluation.json",))]
    """JSON file to write."""
    model: Annotated[Path | None, Option(examples=("/data/models/unpicker",))] = None
    """Count only micrographs that this unpicker was not trained on."""
