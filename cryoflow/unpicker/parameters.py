"""Parameters of the unpicker's stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryoflow.parameters import (
    RARE,
    ChunkMicrographs,
    Count,
    DatabaseFolder,
    DiameterA,
    Entries,
    ModelFolder,
    Option,
    OutputFolder,
    ParameterError,
    Parameters,
    Positive,
    Probability,
)

STAR = "STAR files of a folder"
DB = "Entries of a database"

MadeOlder = Annotated[float | None, Option(hidden=True, form=False)]
"""An option that the older program asked for at un-picking too: it must be as it was at training."""


@dataclass(frozen=True, kw_only=True)
class PickSource(Parameters):
    """Where the unpicker's stages find picks and their micrographs."""

    database: Annotated[DatabaseFolder | None, Option(group=DB, required_in_form=True)] = None
    micrographs: Annotated[Path | None, Option(names=("--micrographs", "--image-dir"), group=STAR, form=False)] = None
    """Folder of the micrographs, where it is another than that of the STAR files."""
    pixel_size_A: Annotated[Positive | None, Option(names=("--apix",), group=STAR, form=False)] = None
    """Pixel size in angstrom; by default that of each micrograph's header."""
    ctf_star: Annotated[Path | None, Option(names=("--ctf", "--star-file"), group=STAR, form=False)] = None
    """STAR file with the CTF of all micrographs."""
    diameter_A: DiameterA | None = None
    workers: Annotated[Count | None, Option(names=("--num-cores", "--workers"), group=RARE, form=False)] = None
    """Micrographs prepared at a time; by default one for each CPU."""

    @property
    def database_folder(self) -> Path:
        """The database, where a stage cannot do without."""
        if self.database is None:
            raise ParameterError("Give {database}.")
        return self.database


@dataclass(frozen=True, kw_only=True)
class UnpickParameters(PickSource):
    """Which picks to clean with which model. The clean picks become an entry of the database."""

    model: Annotated[ModelFolder, Option(positional=True, names=("--model", "--train-output"))]
    entries: Entries = ()
    output: Annotated[OutputFolder | None, Option(names=("--output", "-o", "--output-star-dir"), form=False)] = None
    work: Annotated[Path | None, Option(command_line=False, examples=("/data/work/unpicking",))] = None
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
    threshold: Probability | None = None
    """Keep picks of at least this probability; by default the model's threshold."""
    orientations: Annotated[Literal[1, 2, 4, 8], Option(form=False)] = 1
    """Average the probability of each pick over so many orientations of its patch."""
    chunk_micrographs: Annotated[ChunkMicrographs, Option(command_line=False)] = 100
    boxsize: MadeOlder = None
    sigma_contrast: MadeOlder = None
    lowpass: MadeOlder = None
    highpass: MadeOlder = None
    gaussian_sigma: MadeOlder = None
    resized_box: MadeOlder = None

    @property
    def work_folder(self) -> Path:
        """Where scored micrographs are kept."""
        return self.work or self.model.parent / "work"

    def check(self) -> None:
        """Refuse both sources of picks at once, and neither."""
        if (self.folder is None) == (self.database is None):
            raise ParameterError("Give {folder}, or {database} and its entries.")
        if self.folder is not None and self.output is None:
            raise ParameterError("Give {output}, the folder to write to; it may be the same folder.")
