"""A STAR file of RELION that somebody names by hand: with its project's knowledge where it lies in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables import FilePicks
from cryoflow.formats.pick_tables.relion_star import FORMAT as STAR
from cryoflow.formats.star import read_table
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.picks import Kind, PickSet
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention
from cryoflow.projects.duplicates import HELICAL_NOTE
from cryoflow.projects.found import Job, JobStatus, Output, standalone_job
from cryoflow.projects.relion.job_graph import load_pipeline
from cryoflow.projects.relion.job_types import JOB_FOLDER, job_type
from cryoflow.projects.relion.particles import ORIGIN_COLUMNS
from cryoflow.projects.relion.read import read_output
from cryoflow.projects.relion.sniff import sniff
from cryoflow.storage.files import is_file


def is_relion_table(path: Path) -> bool:
    """Return whether a file is a table of particles on several micrographs, or a list of coordinate files."""
    try:
        content = sniff(path)
    except BadInput:
        return False
    return content.is_coordinate_list or (content.has_coordinates and "rlnMicrographName" in content.columns)


def has_shifts(path: Path) -> bool:
    """Return whether a table has columns of refined shifts: its positions alone are then off the particles."""
    return bool(_shift_columns(path))


def refuse_shifts(path: Path) -> None:
    """Refuse a table with refined shifts whose positions are to be scaled: the shifts are of other pixels.

    Raises
    ------
    BadInput
        Where a shift is not 0.
    """
    columns = _shift_columns(path)
    table = read_table(path, None, columns)
    if any(np.asarray(table[name], np.float64).any() for name in columns):
        raise BadInput(path, "has refined shifts, which are not scaled with its positions.", "Read it without --scale.")


def _shift_columns(path: Path) -> list[str]:
    return [name for name in sniff(path).columns if name in ORIGIN_COLUMNS]


def read_shifted(path: Path, micrographs_dir: Path | None, remaps: Mapping[str, str] | None) -> FilePicks:
    """Return the picks of a particle table, refined shifts subtracted, as those of one file among several.

    Raises
    ------
    BadInput
        Where the file is damaged.
    """
    pickset = read_standalone(path, micrographs_dir, remaps)
    picks, micrographs = pickset.picks, pickset.micrographs
    names = np.where(micrographs["path"].notna(), micrographs["path"], micrographs["name"]).astype(object)
    sizes_A = micrographs["pixel_size_A"].dropna().unique()
    size_A = float(sizes_A[0]) if len(sizes_A) == 1 else None
    return FilePicks(
        STAR.name,
        picks["x_px"].to_numpy(),
        picks["y_px"].to_numpy(),
        picks["score"].to_numpy() if "score" in picks else None,
        pickset.score_kind,
        picks["psi_deg"].to_numpy() if "psi_deg" in picks else None,
        picks["class"].to_numpy(np.int32) if "class" in picks else None,
        micrographs=names[picks["micrograph"].to_numpy()],
        box_px=pickset.box_px,
        diameter_px=pickset.diameter_A / size_A if pickset.diameter_A and size_A else None,
        pixel_size_A=size_A,
        is_helical=HELICAL_NOTE in pickset.notes,
        notes=tuple(note for note in pickset.notes if note != HELICAL_NOTE),
        counts=dict(pickset.counts),
    )


def read_standalone(
    path: Path,
    micrographs_dir: Path | None = None,
    remaps: Mapping[str, str] | None = None,
    flip: AxisConvention = AS_STORED,
) -> PickSet:
    """Return the picks of a particle table or of a list of coordinate files.

    Parameters
    ----------
    path
        Absolute.
    micrographs_dir
        Where micrographs are; by default in the project that the file lies in.
    remaps, flip
        As for `read_job`.

    Raises
    ------
    BadInput
        Where the file is damaged.
    """
    project = _project_of(path)
    process, kind, table = "", Kind.IMPORT, path.name
    if project is not None:
        pipeline = load_pipeline(project)
        parts = path.relative_to(project).parts
        head, table = "/".join(parts[:2]), "/".join(parts)
        if len(parts) > 2 and (head in pipeline.processes or JOB_FOLDER.fullmatch(parts[1])):
            process = head
            kind = job_type(pipeline.processes[head].type_label).kind if head in pipeline.processes else kind
    name = standalone_job(path)
    job = Job(
        program="relion",
        project=project or path.parent,
        project_name=(project or path.parent).name,
        job=f"{process.split('/')[1]}-{name}" if process else name,
        folder=path.parent,
        kind=Kind.IMPORT,
        job_type=f"relion.{kind.value.lower()}" if process else "",
        status=JobStatus.USABLE,
        detail={"process": process},
    )
    finder = Finder(micrographs_dir, remaps) if micrographs_dir else Finder(job.project, remaps)
    pickset = read_output(job, Output(path.name, "", (path,)), finder, flip)
    return replace(
        pickset, provenance=replace(pickset.provenance, program="file", project=job.project, output_group=table)
    )


def _project_of(path: Path) -> Path | None:
    """Return the nearest folder above a file from which its project's names lead somewhere."""
    for folder in path.parents:
        if is_file(folder / "default_pipeline.star") and not JOB_FOLDER.fullmatch(folder.name):
            return folder
    if not path.name.startswith("coords_suffix") and sniff(path).is_coordinate_list:
        names = read_table(path, None, ["rlnMicrographCoordinates"])["rlnMicrographCoordinates"]
        if len(names):
            return next((folder for folder in path.parents if is_file(folder / str(names[0]))), None)
    return None
