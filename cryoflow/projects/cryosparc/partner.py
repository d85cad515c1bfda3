"""The dataset that holds the positions of another one's particles, found by uids where names do not tell."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.projects.cryosparc.without_json import job_of_name, project_of_name

_MOST_FILES = 100
_MOST_FOLDERS = 50


def partner_of(path: Path) -> Path | None:
    """Return the dataset with positions that has all uids of `path`; None where none or several could be meant.

    Datasets beside it count, and passthroughs of its job in folders beside its folder. Of several that have all uids, a
    passthrough goes first, then what is named after the same job.
    """
    wanted = _uids(path)
    if wanted is None or not len(wanted):
        return None
    found = [other for other in _candidates(path) if _has_positions(other, len(wanted)) and _holds(other, wanted)]
    for is_better in (
        lambda other: "passthrough" in other.name.lower(),
        lambda other: _same(path, other) == 2,
        lambda other: other.parent == path.parent,
    ):
        found = [other for other in found if is_better(other)] or found
    return found[0] if len(found) == 1 else None


def _candidates(path: Path) -> Iterator[Path]:
    names = [path.parent / name for name in _listed(path.parent)]
    beside = [path.parent.parent / name for name in _listed(path.parent.parent)[:_MOST_FOLDERS]]
    for folder in beside:
        if folder != path.parent:
            names += [folder / name for name in _listed(folder) if "passthrough" in name.lower()]
    those = [other for other in names if other.suffix.lower() == ".cs" and other.name[0] != "." and other != path]
    needed = {True: 1, False: 2}  # in another folder, both names must tell the same job
    yield from [other for other in those if _same(path, other) >= needed[other.parent == path.parent]][:_MOST_FILES]


def _same(path: Path, other: Path) -> int:
    """Return 2 where both names contain the same job, 1 where they do not contradict each other, else 0."""
    of_job = {job for name in (path.name, other.name) if (job := job_of_name(name))}
    of_project = {project for name in (path.name, other.name) if (project := project_of_name(name))}
    if len(of_job) > 1 or len(of_project) > 1:
        return 0
    return 2 if job_of_name(path.name) and job_of_name(path.name) == job_of_name(other.name) else 1


def _has_positions(path: Path, at_least: int) -> bool:
    try:
        header = read_cs_header(path)
    except BadInput:
        return False
    names = header.dtype.names or ()
    return header.n_rows >= at_least and any(name.startswith("location/center_x") for name in names)


def _holds(path: Path, wanted: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> bool:
    uids = _uids(path)
    return uids is not None and bool(np.isin(wanted, uids).all())


def _uids(path: Path) -> np.ndarray[tuple[int], np.dtype[np.uint64]] | None:
    try:
        return np.asarray(read_cs(path, ["uid"])["uid"], np.uint64)
    except BadInput:
        return None


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
