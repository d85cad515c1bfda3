"""`cryoflow simulate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cryoflow.cli.output import Json, UsageError, emit_record, progress, say

if TYPE_CHECKING:
    from cryoflow.simulate.density import Specimen


def simulate(
    directory: Path,
    /,
    *,
    specimen: Annotated[str, Parameter(help="barrel, large, small, or a family and a number: shell:7.")] = "barrel",
    density: Annotated[Path | None, Parameter(help="Density map (MRC) of the specimen to simulate.")] = None,
    structure: Annotated[Path | None, Parameter(help="Structure (PDB, mmCIF); its biological assembly.")] = None,
    assembly: Annotated[str | None, Parameter(help="Name of the assembly; by default the first.")] = None,
    voxel_size: Annotated[
        float | None, Parameter(help="Of the density map, angstrom; by default its header's.")
    ] = None,
    diameter: Annotated[float | None, Parameter(help="Of the specimen, angstrom; by default it is measured.")] = None,
    micrographs: int = 24,
    size: Annotated[tuple[int, int], Parameter(help="Rows and columns of a micrograph, pixels.")] = (1536, 2048),
    pixel_size: Annotated[float, Parameter(help="Angstrom.")] = 1.5,
    seed: int = 1,
    relion_version: Annotated[str, Parameter(help="Version of the RELION project, or none.")] = "5.0",
    cryosparc_version: Annotated[str, Parameter(help="Version of the CryoSPARC project, or none.")] = "4.5",
    workers: Annotated[int | None, Parameter(help="Threads; by default one for each core.")] = None,
    json: Json = False,
) -> None:
    """Write simulated micrographs whose true particles are known, and finished projects around them.

    DIRECTORY gets Micrographs/, truth.json (true particles, picks and whether they are right), a RELION project
    and a CryoSPARC project. Specimens: barrel (D7, 160 A), large (no symmetry, 250 A), small (110 A, low contrast);
    new ones of a family (globular, barrel, shell, rod, ring, y-shaped, two-domain, micelle, filament-end), named with
    a number; or your own, from a density map or a structure.
    What is there already from the same arguments is kept; another data set is not overwritten.
    """
    from cryoflow.simulate import simulate_dataset
    from cryoflow.simulate.cryosparc_project import write_cryosparc_project
    from cryoflow.simulate.relion_project import write_relion_project
    from cryoflow.simulate.specimens import specimen_from_density, specimen_from_structure
    from cryoflow.storage.safe_names import safe_name

    if density is not None and structure is not None:
        raise UsageError("give --density or --structure, not both.")
    subject: str | Specimen = specimen
    if density is not None:
        subject = specimen_from_density(density, voxel_size_A=voxel_size, diameter_A=diameter)
    elif structure is not None:
        subject = specimen_from_structure(structure, assembly=assembly, diameter_A=diameter)
    label = subject.replace(":", "-") if isinstance(subject, str) else subject.name
    with progress("micrographs", micrographs) as advance:
        try:
            dataset = simulate_dataset(
                directory,
                specimen=subject,
                n_micrographs=micrographs,
                shape_yx=size,
                pixel_size_A=pixel_size,
                seed=seed,
                workers=workers,
                on_micrograph=lambda m: advance(note=m.path.name),
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    directory = directory.absolute()
    projects: list[Path] = []
    try:
        if relion_version != "none":
            projects.append(directory / safe_name(f"relion-{relion_version}-{label}"))
            if not projects[-1].exists():
                write_relion_project(projects[-1], dataset, version=relion_version)
        if cryosparc_version != "none":
            projects.append(directory / safe_name(f"cryosparc-{cryosparc_version}-{label}"))
            if not projects[-1].exists():
                write_cryosparc_project(projects[-1], dataset, version=cryosparc_version)
    except ValueError as error:
        raise UsageError(str(error)) from error
    n_picks = sum(len(m.picks_xy_px) for m in dataset.micrographs)
    n_right = sum(int(m.pick_is_right.sum()) for m in dataset.micrographs)
    emit_record(
        {
            "folder": directory,
            "specimen": label,
            "diameter_A": dataset.diameter_A,
            "micrographs": len(dataset.micrographs),
            "true_particles": sum(len(m.true_xy_px) for m in dataset.micrographs),
            "picks": n_picks,
            "right_picks": n_right,
            "projects": projects,
        },
        as_json=json,
    )
    if projects:
        say(f"next: cryoflow ingest {shlex.quote(str(directory))} --database DB")
