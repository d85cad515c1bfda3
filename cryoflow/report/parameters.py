"""Parameters of the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryoflow.parameters import DatabaseFolder, Option, Parameters


@dataclass(frozen=True, kw_only=True)
class ReportParameters(Parameters):
    """Contents of the report."""

    database: DatabaseFolder
    output: Annotated[
        Path, Option(names=("--output", "-o"), examples=("/data/report.html",), required_in_form=True)
    ] = Path("report.html")
    """HTML page to write."""
    model: Annotated[Path | None, Option(examples=("/data/models/unpicker",))] = None
    """Folder of an unpicker: its training and test micrographs are shown."""
    exports: Annotated[tuple[Path, ...], Option(names=("--training-set",), examples=(("/data/training/cryolo",),))] = ()
    """Folder that `cryoflow export` wrote."""
    evaluation: Annotated[Path | None, Option(examples=("/data/runs/evaluation.json",))] = None
    """JSON file of an evaluation (evaluation.json of a pipeline's output)."""
    trace: Annotated[Path | None, Option(examples=("/data/runs/trace.tsv",))] = None
    """Cost of the stages of a run (trace.tsv of a pipeline's output)."""
    masks: Annotated[Path | None, Option(examples=("/data/masks",))] = None
    """Folder of masks of junk, drawn on the micrographs (`cryoflow pick --masks`)."""
    title: str = "cryoflow report"
    """Title of the page."""
