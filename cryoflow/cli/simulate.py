"""`cryoflow simulate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.cli.declared import declared
from cryoflow.cli.output import Json, UsageError, emit_record, progress, say
from cryoflow.simulate.parameters import SimulateParameters

if TYPE_CHECKING:
    from cryoflow.simulate.density import Specimen


@declared
def simulate(parameters: SimulateParameters, *, json: Json = False) -> None:
    """Write simulated micrographs whose true particles are known, and finished projects around them.

    DIRECTORY gets Micrographs/, truth.json (true particles, picks and whether they are right), a RELION project
    and a CryoSPARC project. Specimens: barrel, large, small; new ones of a family (globular, barrel, shell, rod, ring,
    y-shaped, two-domain, micelle, filament-end, assembly), named with a number; or your own, from a density map or a
    structure.
    What is there already from the same arguments is kept; another data set is not overwritten.
    """
    from cryoflow.simulate import simulate_dataset
    from cryoflow.simulate.cryosparc_project import write_cryosparc_project
    from cryoflow.simulate.relion_project import write_relion_project
    from cryoflow.simulate.specimens import specimen_from_density, specimen_from_structure
    from cryoflow.storage.safe_names import safe_name

    p = parameters
    subject: str | Specimen = p.specimen
    if p.density is not None:
        subject = specimen_from_density(p.density, voxel_size_A=p.voxel_size_A, diameter_A=p.diameter_A)
    elif p.structure is not None:
        subject = specimen_from_structure(p.structure, assembly=p.assembly, diameter_A=p.diameter_A)
    label = subject.replace(":", "-") if isinstance(subject, str) else subject.name
    with progress("micrographs", p.n_micrographs) as advance:
        try:
            dataset = simulate_dataset(
                p.directory,
                specimen=subject,
                n_micrographs=p.n_micrographs,
                shape_yx=p.shape_yx,
                pixel_size_A=p.pixel_size_A,
                seed=p.seed,
                workers=p.workers,
                on_micrograph=lambda m: advance(note=m.path.name),
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
    directory = p.directory.absolute()
    projects: list[Path] = []
    try:
        if p.relion_version != "none":
            projects.append(directory / safe_name(f"relion-{p.relion_version}-{label}"))
            if not projects[-1].exists():
                write_relion_project(projects[-1], dataset, version=p.relion_version)
        if p.cryosparc_version != "none":
            projects.append(directory / safe_name(f"cryosparc-{p.cryosparc_version}-{label}"))
            if not projects[-1].exists():
                write_cryosparc_project(projects[-1], dataset, version=p.cryosparc_version)
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
