"""Parameters of the unpicker's stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from cryoflow.parameters import (
    CHUNK_MICROGRAPHS,
    MATCH_RADIUS,
    RARE,
    VALIDATION_SHARE,
    ChunkMicrographs,
    Count,
    DatabaseFolder,
    DiameterA,
    Entries,
    Epochs,
    HeldOutBy,
    MatchRadius,
    ModelFolder,
    NotNegative,
    Option,
    OutputFolder,
    ParameterError,
    Parameters,
    Positive,
    Probability,
    Seed,
    Share,
)

if TYPE_CHECKING:
    from cryoflow.preparation.calibration import Goal

STAR = "STAR files of a folder"
DB = "Entries of a database"
EMUNPICKER = "Preprocessing of --architecture emunpicker"

Orientations = Annotated[
    Literal[1, 2, 4, 8],
    Option(help="Average the probability of each pick over so many orientations of its patch", form=False),
]
MadeOlder = Annotated[float | None, Option(hidden=True, form=False)]
"""An option that the older program asked for at un-picking too: it must be as it was at training."""


@dataclass(frozen=True, kw_only=True)
class PickSource(Parameters):
    """Picks and micrographs of the unpicker's stages."""

    database: Annotated[DatabaseFolder | None, Option(group=DB, required_in_form=True)] = None
    micrographs: Annotated[Path | None, Option(names=("--micrographs", "--image-dir"), group=STAR, form=False)] = None
    """Folder of the micrographs, where it is another than that of the STAR files."""
    pixel_size_A: Annotated[Positive | None, Option(names=("--pixel-size", "--apix"), group=STAR, form=False)] = None
    """Pixel size in angstrom; by default that of each micrograph's header."""
    ctf_star: Annotated[Path | None, Option(names=("--ctf", "--star-file"), group=STAR, form=False)] = None
    """STAR file with the CTF of all micrographs."""
    diameter_A: DiameterA | None = None
    workers: Annotated[Count | None, Option(names=("--workers", "--num-cores"), group=RARE, form=False)] = None
    """Micrographs prepared at a time; by default one for each CPU, at most 8."""

    @property
    def database_folder(self) -> Path:
        """Return the database; raise where a stage needs one and none is set."""
        if self.database is None:
            raise ParameterError("Give {database}.")
        return self.database


@dataclass(frozen=True, kw_only=True)
class LabeledSource(PickSource):
    """Labeled picks."""

    entries: Annotated[Entries, Option(help="Labeled entries of the database", form=False)] = ()
    train_root: Annotated[Path | None, Option(group=STAR, form=False)] = None
    """Folder of labeled STAR files and their micrographs; or their suffix, as for the older emUnpicker."""
    suffix: Annotated[str, Option(group=STAR, form=False)] = "_autopick_train"
    """End of the names of the labeled STAR files."""


@dataclass(frozen=True, kw_only=True)
class LabelParameters(Parameters):
    """Picks to label."""

    folder: Annotated[Path | None, Option(positional=True, group=STAR)] = None
    """Folder of STAR files."""
    output: Annotated[OutputFolder | None, Option(help="Folder for the labeled files; may be FOLDER itself")] = None
    all_suffix: Annotated[str, Option(group=STAR)] = "_autopick"
    """End of the names of the files of all picks."""
    kept_suffix: Annotated[str, Option(group=STAR)] = "_autopick_correct"
    """End of the names of the files of picks that were kept."""
    train_suffix: Annotated[str, Option(group=STAR)] = "_autopick_train"
    """End of the names of the files to write."""
    negatives: Annotated[Literal["balanced", "all"], Option(group=STAR)] = "balanced"
    """balanced: one N for each P; all: every removed pick."""
    database: Annotated[DatabaseFolder | None, Option(group=DB)] = None
    positives: Annotated[str | None, Option(group=DB)] = None
    """Entry whose picks are particles: a refinement, a selection."""
    candidates: Annotated[str | None, Option(group=DB)] = None
    """Entry of all picks: an autopick job."""
    excluded: Annotated[str | None, Option(group=DB)] = None
    """Entry of particles that a selection rejected: negative."""
    dropped: Annotated[Literal["unlabeled", "negative", "unlabelled", "wrong"], Option(group=DB)] = "unlabeled"
    """Label of candidates that are in neither entry: unlabeled, or negative."""
    radius: Annotated[MatchRadius, Option(group=DB)] = MATCH_RADIUS
    diameter_A: Annotated[DiameterA | None, Option(group=DB)] = None
    seed: Seed = 0

    def check(self) -> None:
        """Refuse both sources of picks at once, and neither."""
        if (self.folder is None) == (self.database is None):
            raise ParameterError("Give a folder of STAR files, or {database} with {positives} and {candidates}.")
        if self.folder is not None and self.output is None:
            raise ParameterError("Give {output}, the folder to write to; it may be the same folder.")
        if self.database is not None and (self.positives is None or self.candidates is None):
            raise ParameterError("Name {positives} and {candidates}; `cryoflow database list` shows the entries.")


@dataclass(frozen=True)
class Recipe:
    """Values of a training that belong to an architecture."""

    epochs: int
    patience: int
    batch: int
    learning_rate: float
    least_steps: int
    """Batches of an epoch at least, where the training set is small."""
    widths: tuple[int, ...] = (24, 48, 96)
    dropout: float = 0.3
    weight_decay: float = 1e-3
    label_smoothing: float = 0.05


RECIPES = {
    "detector": Recipe(12, 6, 128, 0.002, 50, (192, 64), dropout=0.4, weight_decay=1e-2),
    "residual": Recipe(30, 8, 64, 0.002, 160),
    "emunpicker": Recipe(25, 25, 16, 0.01, 1, dropout=0.5, weight_decay=0.0, label_smoothing=0.0),
}


def _defaults(name: str) -> str:
    own, residual, older = (getattr(RECIPES[architecture], name) for architecture in RECIPES)
    return f"by default {own}; {residual} for residual, {older} for emunpicker"


UnpickerEpochs = Annotated[Epochs, Option(help=f"Most epochs of the unpicker's training; {_defaults('epochs')}")]
Patience = Annotated[
    Count,
    Option(help=f"Stop after so many epochs without gain; {_defaults('patience')}", examples=(6,), rare=True),
]


@dataclass(frozen=True, kw_only=True)
class TrainUnpickerParameters(LabeledSource):
    """Picks to train the unpicker on: those of each project's autopick job, labeled by whether they survived."""

    model: Annotated[Path, Option(names=("--output", "-o", "--train-output"), examples=("/data/models/unpicker",))]
    """Folder of the model to write; checkpoints/ in it holds the model after each epoch."""
    projects: Annotated[tuple[str, ...], Option(command_line=False, examples=(("P190",),))] = ()
    """Projects of the database to learn from, or patterns such as P19*; by default all."""
    entries: Annotated[Entries, Option(form=True)] = ()
    """Labeled entries of the database, such as reviewed ones; by default picks are labeled by what became of them."""
    architecture: Annotated[Literal["detector", "residual", "emunpicker", "classic"], Option(form=False)] = "detector"
    """detector: learn from the general detector's features; residual: from patches alone; emunpicker (also: classic):
    the older program's network and preprocessing."""
    epochs: UnpickerEpochs | None = None
    patience: Patience | None = None
    batch: Annotated[Count | None, Option(form=False, help=f"Patches of a batch; {_defaults('batch')}")] = None
    learning_rate: Annotated[
        Positive | None, Option(form=False, help=f"Learning rate; {_defaults('learning_rate')}")
    ] = None
    class_prior: Annotated[Share, Option(names=("--class-prior", "--unlabelled-right"), form=False)] = 0.6
    """Upper limit of the share of positives among unlabeled picks; the share itself is estimated."""
    max_positives: Annotated[Count | None, Option(names=("--max-positives", "--max-particles"), form=False)] = None
    """Learn from at most so many positives, drawn evenly over the defocus."""
    validation: Annotated[Share, Option(rare=True)] = VALIDATION_SHARE
    """Share of the micrographs that the threshold is chosen on."""
    test: Annotated[Share, Option(rare=True)] = 0.2
    """Share of the micrographs that are kept for the evaluation."""
    precision: Annotated[Probability | None, Option(form=False)] = None
    """Choose the threshold for this precision; by default for the best F1."""
    recall: Annotated[Probability | None, Option(form=False)] = None
    """Choose the threshold for this recall."""
    start_from: Annotated[Path | None, Option(form=False)] = None
    """An earlier model to start from: its folder, NAME or NAME@VERSION of the registry."""
    phase_flip: Annotated[bool, Option(form=False)] = False
    """Flip the phases that the CTF flipped; needs the CTF."""
    boxsize: Annotated[Positive | None, Option(group=EMUNPICKER, form=False)] = None
    """Edge of a patch in pixels of the micrographs; 1.5 diameters by default."""
    sigma_contrast: Annotated[NotNegative, Option(group=EMUNPICKER, form=False)] = 5.0
    """Clip gray values at so many standard deviations."""
    lowpass: Annotated[NotNegative, Option(group=EMUNPICKER, form=False)] = 0.0
    """Resolution limit in angstrom, 0 for none."""
    highpass: Annotated[NotNegative, Option(group=EMUNPICKER, form=False)] = 0.0
    """Resolution limit in angstrom, 0 for none."""
    gaussian_sigma: Annotated[NotNegative, Option(group=EMUNPICKER, form=False)] = 0.0
    """Blur in pixels, 0 for none."""
    resized_box: Annotated[int, Ge(8), Option(group=EMUNPICKER, form=False)] = 32
    """Edge that patches are resized to, in pixels."""
    cache: Annotated[Path | None, Option(group=RARE, form=False)] = None
    """Folder of prepared patches; by default unpicker_cache beside the output."""
    models: HeldOutBy = None
    seed: Seed = 0
    overwrite: bool = False
    """Replace another training in that folder."""

    def check(self) -> None:
        """Refuse two goals of the threshold."""
        if self.precision is not None and self.recall is not None:
            raise ParameterError("Give {precision} or {recall}, not both.")


@dataclass(frozen=True, kw_only=True)
class EvaluateUnpickerParameters(LabeledSource):
    """Model to evaluate, and the labeled picks."""

    model: Annotated[ModelFolder, Option(positional=True)]
    entries: Annotated[
        Entries,
        Option(help="Labeled entries of the database; of those it was trained on, the test micrographs are used"),
    ] = ()
    orientations: Orientations = 1
    table: Literal["summary", "micrographs", "defocus"] = "summary"
    """Table to print; --json prints all of them."""
    report: Path | None = None
    """HTML page to write: numbers, curves, patches and micrographs."""


@dataclass(frozen=True, kw_only=True)
class SuggestParameters(PickSource):
    """Micrographs to rank by how much their labels would teach a model."""

    model: Annotated[ModelFolder, Option(positional=True)]
    entries: Entries = ()
    number: Annotated[Count, Option(names=("--number", "-n"))] = 5
    """Number of micrographs to suggest."""
    folder: Annotated[Path | None, Option(group=STAR)] = None
    """Folder of STAR files and their micrographs."""
    suffix: Annotated[str, Option(group=STAR)] = "_autopick"
    """End of the names of the STAR files."""


@dataclass(frozen=True, kw_only=True)
class UnpickParameters(PickSource):
    """Picks to clean, and the model. The clean picks become an entry of the database."""

    model: Annotated[ModelFolder, Option(positional=True, names=("--model", "--train-output"))]
    entries: Entries = ()
    output: Annotated[OutputFolder | None, Option(names=("--output", "-o", "--output-star-dir"), form=False)] = None
    work: Annotated[Path | None, Option(command_line=False, examples=("/data/work/unpicking",), rare=True)] = None
    """Folder for the micrographs scored so far, from which a second run goes on; by default `work` beside the model."""
    folder: Annotated[Path | None, Option(names=("--folder", "--eval-star-dir"), group=STAR, form=False)] = None
    """Folder of STAR files."""
    suffix: Annotated[str, Option(names=("--suffix", "--eval-root"), group=STAR, form=False)] = "_autopick"
    """End of the names of the STAR files to read."""
    unpick_suffix: Annotated[str, Option(names=("--unpick-suffix", "--output-root"), group=STAR, form=False)] = (
        "_autopick_unpick"
    )
    """End of the names of the STAR files to write."""
    scored_suffix: Annotated[str | None, Option(group=STAR, form=False)] = None
    """Also write all picks with their probability as rlnAutopickFigureOfMerit; end of the names of these files."""
    threshold: Annotated[Probability, Option(examples=(0.5,))] | None = None
    """Keep picks of at least this probability; by default the threshold of the picks' project in the model."""
    precision: Annotated[Probability, Option(examples=(0.95,))] | None = None
    """Keep as many picks as this estimated precision allows."""
    recall: Annotated[Probability, Option(examples=(0.9,))] | None = None
    """Keep the fewest picks that hold this estimated share of the particles."""
    keep: Annotated[Count, Option(examples=(100_000,))] | None = None
    """Keep this number of picks of each project, the best ones; picks of one probability stay together."""
    doubtful: Annotated[bool, Option(form=False)] = False
    """Also write the doubtful picks: an entry or STAR files of their own, for a person to look at."""
    orientations: Orientations = 1
    chunk_micrographs: Annotated[ChunkMicrographs, Option(command_line=False)] = CHUNK_MICROGRAPHS
    boxsize: MadeOlder = None
    sigma_contrast: MadeOlder = None
    lowpass: MadeOlder = None
    highpass: MadeOlder = None
    gaussian_sigma: MadeOlder = None
    resized_box: MadeOlder = None

    @property
    def goal(self) -> Goal:
        """Return the aim of the threshold."""
        from cryoflow.preparation.calibration import Goal

        return Goal(self.precision, self.recall, self.keep, self.threshold)

    @property
    def work_folder(self) -> Path:
        """Return the folder of scored micrographs."""
        return self.work or self.model.parent / "work"

    def check(self) -> None:
        """Refuse both sources of picks at once, and neither."""
        if (self.folder is None) == (self.database is None):
            raise ParameterError("Give {folder}, or {database} and its entries.")
        if self.folder is not None and self.output is None:
            raise ParameterError("Give {output}, the folder to write to; it may be the same folder.")
        if sum(v is not None for v in (self.threshold, self.precision, self.recall, self.keep)) > 1:
            raise ParameterError("Give one of {threshold}, {precision}, {recall} and {keep}.")


@dataclass(frozen=True, kw_only=True)
class ModelInfoParameters(Parameters):
    """Model to describe."""

    model: Annotated[ModelFolder, Option(positional=True)]
