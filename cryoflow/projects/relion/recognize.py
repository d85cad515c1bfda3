"""Which folders are RELION projects."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from cryoflow.projects.found import Project
from cryoflow.projects.relion.job_types import JOB_FOLDER, TYPE_FOLDERS
from cryoflow.storage import inputs
from cryoflow.storage.safe_names import short_hash

_HEAD_BYTES = 1 << 16
_RELION_1_STAR = re.compile(r"run\w*_data\.star")
_VERSIONS = {b"50001": "5", b"40001": "4", b"30001": "3.1"}
TOMO_FOLDERS = frozenset({"Tomograms", "PseudoSubtomo", "Subtomo", "TomoReconstruct", "AlignTiltSeries", "ImportTomo"})


def recognize(folder: Path, names: Collection[str]) -> Project | None:
    """Return the RELION project that a folder is, judged by the names in it and at most one small read; else None.

    A project has `default_pipeline.star` or `.gui_projectdir`, or job folders of two types, or, written by RELION 1,
    `run*_data.star` files in folders of two types. The copies of `default_pipeline.star` that RELION puts into job
    folders are no projects, nor is what lies in `Trash`.

    Raises
    ------
    OSError
        Where the folder may not be read.
    """
    found = set(names)
    has_pipeline = "default_pipeline.star" in found
    types = found & TYPE_FOLDERS
    if not (has_pipeline or ".gui_projectdir" in found or len(types) >= 2) or _is_inside_a_project(folder):
        return None
    version, notes = "", []
    if has_pipeline:
        head = _head(folder / "default_pipeline.star")
        if b"data_pipeline_general" in head:
            version = _version(head)
        elif not types:
            return None
        else:
            notes.append("default_pipeline.star is damaged: jobs are listed from their folders")
    elif ".gui_projectdir" in found:
        if not types:
            return None
        notes.append("has no default_pipeline.star: jobs are listed from their folders")
    else:
        generation = _generation_without_pipeline(folder, sorted(types))
        if generation is None:
            return None
        version = generation
        notes.append("has no default_pipeline.star: jobs are listed from their folders")
    if ".relion_lock" in found:
        notes.append("RELION is writing to it (.relion_lock)")
    path = Path(os.path.abspath(folder))  # noqa: PTH100 (links stay as they are named)
    uid = short_hash(f"relion {os.path.realpath(folder)}", 12)
    return Project("relion", path, path.name, uid, version, tuple(notes))


def is_own_folder(name: str) -> bool:
    """Return whether a folder of this name in a project is RELION's: of a type of jobs, or of a job.

    Types that we do not know have job folders, too, and those have copies of the pipeline.
    """
    return name in TYPE_FOLDERS or name in TOMO_FOLDERS or JOB_FOLDER.fullmatch(name) is not None


def _is_inside_a_project(folder: Path) -> bool:
    """Return a job folder, an alias of one, or something in `Trash`."""
    above = folder.parent
    if above.name == "Trash" or above.parent.name == "Trash":
        return True
    return above.name in TYPE_FOLDERS and (
        JOB_FOLDER.fullmatch(folder.name) is not None or (above.parent / "default_pipeline.star").exists()
    )


def _head(path: Path) -> bytes:
    try:
        with inputs.opened(path) as file:
            return file.read(_HEAD_BYTES)
    except FileNotFoundError:  # a dangling link
        return b""


def _version(head: bytes) -> str:
    match = re.search(rb"^# version (\d+)", head, re.MULTILINE)
    if match:
        return _VERSIONS.get(match.group(1), match.group(1).decode())
    return "3.0 or earlier" if b"rlnPipeLineProcessType " in head else ""


def _generation_without_pipeline(folder: Path, types: list[str]) -> str | None:
    """Return "" for job folders without a pipeline, `1` for RELION 1's free names, None where it is no project."""
    numbered = named = 0
    for name in types:
        try:
            inside = os.listdir(folder / name)
        except (NotADirectoryError, FileNotFoundError):
            continue
        numbered += any(JOB_FOLDER.fullmatch(n) for n in inside)
        named += any(_RELION_1_STAR.fullmatch(n) for n in inside)
    if numbered >= 2:
        return ""
    return "1" if named >= 1 and numbered == 0 else None
