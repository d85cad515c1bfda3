"""Parameters of the detector's stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, MinLen

from cryoflow.models.parameters import GENERAL
from cryoflow.parameters import (
    RARE,
    SHARD_MICROGRAPHS,
    Count,
    DatabaseFolder,
    Entries,
    HeldOutBy,
    Option,
    OutputFolder,
    ParameterError,
    Parameters,
    Positive,
    Probability,
    ShardMicrographs,
)

LEAST_DIAMETER_A, LARGEST_DIAMETER_A = 30.0, 3000.0
"""Diameters that a detector looks for."""

UnlabeledRule = Literal["positive-unlabeled", "ignored", "negative"]
"""What is done with candidates that no label decides; see `detector.training_data.TrainingOptions.unlabeled`."""

ParticleDiameterA = Annotated[
    float,
    Ge(LEAST_DIAMETER_A),
    Le(LARGEST_DIAMETER_A),
    Option(
        names=("--diameter",),
        help="Particle diameter in angstrom; it is estimated from the micrographs where nobody knows it",
        examples=(160.0,),
    ),
]
DetectorModel = Annotated[
    str,
    Option(
        help="A detector: its folder, NAME or NAME@VERSION of the registry, or general for the one that ships",
        examples=("general", "detector@v0007"),
    ),
]


@dataclass(frozen=True, kw_only=True)
class PickWithDetectorParameters(Parameters):
    """Pick micrographs that nobody labeled, with the detector that ships or one of your own."""

    sources: Annotated[
        tuple[str, ...],
        MinLen(1),
        Option(
            positional=True,
            help="Folders of micrographs, micrographs (MRC), or entries of the database, whose micrographs are picked",
            examples=(("/data/session/micrographs",),),
        ),
    ]
    diameter_A: ParticleDiameterA | None = None
    output: OutputFolder | None = None
    """Folder for the picks as files for RELION (STAR), CryoSPARC (.cs) and EMAN (.box)."""
    database: Annotated[DatabaseFolder | None, Option(required_in_form=True)] = None
    model: DetectorModel = GENERAL
    threshold: Probability | None = None
    """Keep picks of at least this probability; by default the one at which the best F1 is expected."""
    pixel_size_A: Annotated[Positive | None, Option(names=("--pixel-size", "--apix"))] = None
    """Pixel size in angstrom, where headers have none or a wrong one; headers that differ by over 10 % are refused."""
    masks: bool = False
    """Also write where carbon, ice and aggregates lie, one MRC file a micrograph, in masks/ of the output."""
    name: str = ""
    """Name of the run, part of the entry's name."""
    workers: Annotated[Count, Option(group=RARE)] = 2
    """Micrographs that are read and prepared at the same time."""

    def check(self) -> None:
        """Refuse picks that would go nowhere."""
        if self.output is None and self.database is None:
            raise ParameterError("Give {output}, {database}, or both: where the picks go.")
        if self.masks and self.output is None:
            raise ParameterError("Give {output}, the folder that masks are written to.")


@dataclass(frozen=True, kw_only=True)
class FindParticlesParameters(Parameters):
    """Micrographs to pick without labels; only the particle diameter must be given."""

    micrographs: Annotated[tuple[Path, ...], Option(examples=(("/data/new/micrographs",),))] = ()
    """MRC files, or folders of them."""
    to_pick: Annotated[tuple[str, ...], Option(examples=(("P190/AutoPick_J12",),))] = ()
    """Entries of the database, or patterns such as P190/*, whose micrographs are picked; their picks are not used."""
    diameter_A: Annotated[
        float,
        Ge(LEAST_DIAMETER_A),
        Le(LARGEST_DIAMETER_A),
        Option(names=("--diameter",), help="Particle diameter in angstrom", examples=(160.0,)),
    ]
    database: DatabaseFolder
    """Database that the picks become an entry of."""
    output: Annotated[OutputFolder, Option(group=RARE)] | None = None
    """Folder to work in; by default `picked` beside the database."""
    model: Annotated[DetectorModel, Option(group=RARE)] = GENERAL
    pixel_size_A: Annotated[Positive | None, Option(names=("--pixel-size", "--apix"), examples=(1.05,), group=RARE)] = (
        None
    )
    """Pixel size in angstrom of micrographs whose headers have none."""
    threshold: Annotated[Probability | None, Option(examples=(0.5,), group=RARE)] = None
    """Keep picks of at least this probability; by default the one at which the best F1 is expected."""
    gpus: Annotated[int, Ge(0), Option(group=RARE)] = 0
    """Number of GPUs of a job; the detector needs none."""
    cpus: Annotated[Count, Option(group=RARE)] = 4
    """Micrographs that are read at the same time."""
    shard_micrographs: Annotated[ShardMicrographs, Option(group=RARE)] = SHARD_MICROGRAPHS

    def check(self) -> None:
        """Refuse nothing to pick."""
        if not self.micrographs and not self.to_pick:
            raise ParameterError("Say what to pick: {micrographs}, or {to_pick} entries.")


@dataclass(frozen=True, kw_only=True)
class ExcludeParameters(Parameters):
    """Picks to leave out because they lie on masks of carbon, ice or aggregates."""

    entries: Entries
    database: DatabaseFolder
    masks: Annotated[Path, Option(examples=("/data/picks/masks",))]
    """Folder of masks, one MRC file a micrograph: of `cryoflow pick --masks`, or of another program."""
    at_least: Annotated[float, Option(names=("--threshold", "--at-least"))] = 0.5
    """Mask values of at least this are junk."""
    good: bool = False
    """The masks mark what is good: values below are junk."""


@dataclass(frozen=True, kw_only=True)
class EvaluateDetectorParameters(Parameters):
    """Compare a detector's picks with known particles, or with CryoPPP's expert labels."""

    entries: Annotated[
        tuple[str, ...],
        Option(positional=True, help="Entries of the database whose picks are all particles of their micrographs"),
    ] = ()
    database: DatabaseFolder | None = None
    cryoppp: Annotated[Path | None, Option(examples=("/data/cryoppp",))] = None
    """Folder of EMPIAR sets in CryoPPP's layout."""
    model: DetectorModel = GENERAL
    diameter_A: ParticleDiameterA | None = None
    limit: Count | None = None
    """Look at so many micrographs of each entry, evenly spread."""

    def check(self) -> None:
        """Refuse both sources at once, and neither."""
        if bool(self.entries) == (self.cryoppp is not None):
            raise ParameterError("Give {entries} and their {database}, or {cryoppp}.")
        if self.entries and self.database is None:
            raise ParameterError("Give {database}, which holds the entries.")


@dataclass(frozen=True, kw_only=True)
class TrainDetectorParameters(Parameters):
    """Train a detector on the projects of a database, starting from the general one."""

    entries: Annotated[
        tuple[str, ...],
        Option(
            positional=True,
            help="Entries whose picks survived, or patterns (*/Refine3D_*); none takes the best one of each project",
            examples=(("P190/NonUniform_J60", "apoferritin/Refine3D_job035"),),
        ),
    ] = ()
    database: DatabaseFolder
    output: OutputFolder
    best: Annotated[bool, Option(form=False)] = False
    """Take the best entry of each project, as without entries."""
    start: DetectorModel = GENERAL
    from_scratch: Annotated[bool, Option(rare=True)] = False
    """Begin with random weights."""
    diameter_A: ParticleDiameterA | None = None
    rounds: Annotated[Count, Option(rare=True)] = 10
    """Rounds of training; a checkpoint is written after each."""
    steps: Annotated[Count, Option(rare=True)] = 100
    """Batches of a round."""
    micrographs: Annotated[Count, Option(rare=True)] = 200
    """Most micrographs of a project."""
    unlabeled: Annotated[UnlabeledRule, Option(rare=True)] = "positive-unlabeled"
    """Candidates that no label decides: may be particles, have no part, or are no particles (complete labels)."""
    seed: Annotated[int, Ge(0), Option(rare=True)] = 1
    """Another number is another random split and start."""
    models: HeldOutBy = None

    def check(self) -> None:
        """Refuse named entries together with the best ones."""
        if self.best and self.entries:
            raise ParameterError("Give {entries}, or {best} for the best entry of each project, not both.")
