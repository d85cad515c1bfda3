"""Parameters of the simulator."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from cryoflow.parameters import RARE, Count, DiameterA, Option, ParameterError, Parameters, Positive, Seed


@dataclass(frozen=True, kw_only=True)
class SimulateParameters(Parameters):
    """Micrographs to simulate, and the projects around them."""

    directory: Annotated[Path, Option(positional=True)]
    """Folder to write to."""
    specimen: str = "barrel"
    """barrel (D7, 160 A), large (no symmetry, 250 A), small (110 A), or a family and a number: shell:7."""
    density: Path | None = None
    """Density map (MRC) of the specimen to simulate."""
    structure: Path | None = None
    """Structure (PDB, mmCIF) of the specimen to simulate: its biological assembly."""
    assembly: str | None = None
    """Name of the assembly; by default the first."""
    voxel_size_A: Annotated[Positive | None, Option(names=("--voxel-size",))] = None
    """Voxel size of the density map in angstrom; by default its header's."""
    diameter_A: Annotated[
        DiameterA | None, Option(help="Diameter of the specimen in angstrom; by default measured")
    ] = None
    n_micrographs: Annotated[Count, Option(names=("--micrographs",))] = 24
    """Number of micrographs."""
    shape_yx: Annotated[tuple[Annotated[int, Ge(1)], Annotated[int, Ge(1)]], Option(names=("--size",))] = (1536, 2048)
    """Rows and columns of a micrograph in pixels."""
    pixel_size_A: Annotated[Positive, Option(names=("--pixel-size", "--apix"))] = 1.5
    """Pixel size in angstrom."""
    seed: Seed = 1
    relion_version: str = "5.0"
    """Version of the RELION project, or none."""
    cryosparc_version: str = "4.5"
    """Version of the CryoSPARC project, or none."""
    workers: Annotated[Count | None, Option(group=RARE)] = None
    """Threads; by default one for each CPU."""

    def check(self) -> None:
        """Refuse two specimens."""
        if self.density is not None and self.structure is not None:
            raise ParameterError("Give {density} or {structure}, not both.")
