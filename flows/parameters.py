"""Parameters of the stages that run others: the pipeline and its demo. The other stages declare theirs themselves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from cryoflow.parameters import (
    CHUNK_MICROGRAPHS,
    SHARD_MICROGRAPHS,
    ChunkMicrographs,
    Count,
    DatabaseFolder,
    DiameterA,
    Option,
    OutputFolder,
    Parameters,
    Remaps,
    Roots,
    Seed,
    ShardMicrographs,
    Share,
)
from cryoflow.pickers.parameters import exportable
from cryoflow.unpicker.parameters import Patience, TrainUnpickerParameters, UnpickerEpochs

RunFolder = Annotated[
    OutputFolder,
    Option(
        help="Folder for training sets, model, clean picks and report.html; a second run goes on with it",
        examples=("/data/runs/november",),
    ),
]


@dataclass(frozen=True, kw_only=True)
class PipelineParameters(Parameters):
    """Run the whole pipeline: ingest, export, train the unpicker, clean the picks, report."""

    roots: Roots
    output: RunFolder
    database: DatabaseFolder | None = None
    """Folder of the text database; by default `database` in the output folder."""
    pickers: Annotated[tuple[Annotated[str, Option(choices=exportable)], ...], Option(names=("--picker",))] = (
        "cryolo",
        "topaz",
    )
    """Write a training set for this picker."""
    diameter_A: DiameterA | None = None
    remaps: Remaps = ()
    epochs: UnpickerEpochs | None = None
    patience: Patience | None = None
    test: Annotated[Share, Option(rare=True)] = TrainUnpickerParameters.test
    """Share of the micrographs that are kept for the evaluation."""
    seed: Seed = 0
    chunk_micrographs: ChunkMicrographs = CHUNK_MICROGRAPHS
    shard_micrographs: ShardMicrographs = SHARD_MICROGRAPHS
    reference_database: Annotated[Path | None, Option(examples=("/data/reference",), rare=True)] = None
    """Database of reference picks of the same projects, if there are any: the result is compared with them."""


@dataclass(frozen=True, kw_only=True)
class DemoParameters(Parameters):
    """Run the whole pipeline on two simulated projects."""

    output: Annotated[RunFolder, Option(required_in_form=True)] = Path("demo")
    n_micrographs: Annotated[int, Ge(5), Option(names=("--micrographs",))] = 12
    """Micrographs of each project."""
    epochs: Annotated[Count, Option(help="Most epochs of the unpicker's training")] = 7
    seed: Seed = 1
