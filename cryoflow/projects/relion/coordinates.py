"""Picks that lie in one small file a micrograph: lists of such files (RELION 4 and later) and `coords_suffix` files.

Up to 3.1 a file such as `AutoPick/job006/coords_suffix_autopick.star` says all by its name: the picks of micrograph
`MotionCorr/job002/Movies/a.mrc` are in `AutoPick/job006/Movies/a_autopick.star`. Its one line names the micrographs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_table
from cryoflow.projects.coordinate_files import FilePicks, read_coordinate_file
from cryoflow.projects.relion.micrographs import Ctf, KnownMicrographs, read_micrograph_stars
from cryoflow.projects.relion.optics import NAN, Optics
from cryoflow.projects.relion.particles import Particles
from cryoflow.storage import inputs
from cryoflow.storage.files import is_file
from cryoflow.storage.safe_names import short_hash

_THROUGH_JOB = re.compile(r"^[^/]+/job\d{3,}/")


def read_coordinates(
    project: Path, path: Path, known: KnownMicrographs, searched: Sequence[str]
) -> tuple[Particles, list[Path]]:
    """The picks of all micrographs of a list, and the files that they are from.

    Parameters
    ----------
    known, searched
        What tables of micrographs say: a `coords_suffix` file needs the names.

    Raises
    ------
    BadInput
        Where the list or one of its files is damaged, or nobody knows the micrographs.
    """
    files = (
        _from_suffix(project, path, known, searched)
        if path.name.startswith("coords_suffix")
        else _from_list(project, path)
    )
    names = sorted(files)
    present = [name for name in names if is_file(files[name])]
    notes = []
    if not present and names:
        raise BadInput(path, f"none of its {len(names)} coordinate files is there.", "Were they moved or cleaned?")
    gone = len(names) - len(present)
    if gone and not path.name.startswith("coords_suffix"):
        notes.append(f"{gone} of {len(names)} coordinate files are gone")
    if len(present) > 16:
        with ThreadPoolExecutor(8) as pool:
            picks = list(pool.map(read_coordinate_file, [files[name] for name in present]))
    else:
        picks = [read_coordinate_file(files[name]) for name in present]
    place = {name: i for i, name in enumerate(names)}
    columns: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {
        "micrograph": np.repeat(
            np.array([place[name] for name in present], np.int32), np.array([len(p.x_px) for p in picks], np.intp)
        )
    }
    for column in ("x_px", "y_px"):
        columns[column] = np.concatenate([getattr(p, column) for p in picks]) if picks else np.zeros(0)
    for column, ours in (("score", "score"), ("psi_deg", "psi_deg"), ("class_number", "class")):
        if any(getattr(p, column) is not None for p in picks):
            columns[ours] = np.concatenate([_or_unknown(p, column) for p in picks])
    own = {name: (Optics(), Ctf()) for name in names}
    is_helical = any(p.is_helical for p in picks)
    return Particles(names, columns, None, True, own, NAN, is_helical, notes), [path, *(files[n] for n in present)]


def stamp_of_coordinates(project: Path, path: Path) -> str:
    """A hash of names, sizes and times of all files of picks that belong to a list: what a nightly run compares.

    Those of a `coords_suffix` file lie in its folder, under its suffix; a list names its own. None is opened.
    """
    if path.name.startswith("coords_suffix"):
        ending = path.name.removeprefix("coords_suffix")
        files = [os.path.join(top, n) for top, _, names in os.walk(path.parent) for n in names if n.endswith(ending)]
    else:
        try:
            files = [str(file) for file in _from_list(project, path).values()]
        except BadInput:
            return ""
    lines = []
    for file in sorted(files):
        try:
            status = os.stat(file)
            lines.append(f"{file!r} {status.st_size} {status.st_mtime_ns}")
        except (OSError, ValueError):
            lines.append(f"{file!r} absent")
    return short_hash("\n".join(lines), 32)


def _or_unknown(picks: FilePicks, column: str) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    values = getattr(picks, column)
    if values is not None:
        return values  # type: ignore[no-any-return]
    return np.zeros(len(picks.x_px), np.int32) if column == "class_number" else np.full(len(picks.x_px), np.nan)


def _from_list(project: Path, path: Path) -> dict[str, Path]:
    table = read_table(path, None, ["rlnMicrographName", "rlnMicrographCoordinates"])
    pairs = zip(table["rlnMicrographName"], table["rlnMicrographCoordinates"], strict=True)
    return {str(name): project / str(file) for name, file in pairs}


def _from_suffix(project: Path, path: Path, known: KnownMicrographs, searched: Sequence[str]) -> dict[str, Path]:
    names = _named_micrographs(project, path) or tuple(searched) or known.names
    if not names:
        raise BadInput(
            path,
            "does not lead to a table of micrographs, so that nobody knows which micrographs its picks are on.",
            "The micrographs STAR that it names is gone; give one file by hand with --micrographs.",
        )
    suffix = path.name.removeprefix("coords_suffix")
    return {name: path.parent / (tail(name) + suffix) for name in names}


def _named_micrographs(project: Path, path: Path) -> tuple[str, ...]:
    """The micrographs of the table that a `coords_suffix` file names in its one line."""
    try:
        line = inputs.read_text(path, errors="replace").strip().split("\n")[0].strip()
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    if line.startswith("version https://git-lfs"):
        raise BadInput(path, "is a git-lfs pointer, not the file itself.", "Fetch it with `git lfs pull`.")
    if not line.endswith(".star") or "\0" in line:
        return ()
    return read_micrograph_stars([project / line]).names


def tail(micrograph: str) -> str:
    """A micrograph's name from behind its job's folder on, without extension: where a job keeps what belongs to it.

    >>> tail("MotionCorr/job002/Movies/a.b.mrc")
    'Movies/a.b'
    """
    return str(PurePosixPath(_THROUGH_JOB.sub("", micrograph)).with_suffix(""))
