"""Picks that lie in one small file a micrograph: lists of such files (RELION 4 and later) and `coords_suffix` files.

Up to 3.1 a file such as `AutoPick/job006/coords_suffix_autopick.star` says all by its name: the picks of micrograph
`MotionCorr/job002/Movies/a.mrc` are in `AutoPick/job006/Movies/a_autopick.star`. Its one line names the micrographs.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.formats.pick_tables import FilePicks, read_file
from cryoflow.formats.pick_tables.relion_list import SUFFIX_FILE
from cryoflow.formats.star import read_table
from cryoflow.projects.relion.job_graph import load_pipeline
from cryoflow.projects.relion.lineage import micrograph_tables
from cryoflow.projects.relion.micrographs import KnownMicrographs, RelionCtf, read_micrograph_stars
from cryoflow.projects.relion.optics import NAN, Optics
from cryoflow.projects.relion.particles import Particles
from cryoflow.storage import inputs
from cryoflow.storage.files import is_file
from cryoflow.storage.safe_names import short_hash
from cryoflow.system.threads import on_each_file

_THROUGH_JOB = re.compile(r"^[^/]+/job\d{3,}/")


def read_coordinates(
    project: Path, path: Path, known: KnownMicrographs, searched: Sequence[str]
) -> tuple[Particles, list[Path], frozenset[str]]:
    """Return the picks of all micrographs of a list, the files that they are from, and the micrographs whose picks are
    lost.

    A file that is damaged, or that a list names and that is gone, costs its micrograph only: nobody knows whether there
    were particles on it, so it must not be taken for one without any.

    Parameters
    ----------
    known, searched
        What tables of micrographs say: a `coords_suffix` file needs the names.

    Raises
    ------
    BadInput
        Where the list or all of its files are damaged, or nobody knows the micrographs.
    """
    files, present, notes = coordinate_files(project, path, known, searched)
    read = _read_each([files[name] for name in present])
    errors = {name: one for name, one in zip(present, read, strict=True) if isinstance(one, CryoflowError)}
    if errors:
        first = next(iter(errors.values()))
        if len(errors) == len(present):
            raise first
        damaged = f"{len(errors)} of {len(files)} coordinate files cannot be read"
        notes.append(f"{damaged}, and their micrographs are left out: {first}")
    lost = set(errors)
    if not path.name.startswith(SUFFIX_FILE):
        lost.update(set(files) - set(present))
    present = [name for name in present if name not in errors]
    names = sorted(set(files) - lost)
    picks = [one for one in read if not isinstance(one, CryoflowError)]
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
    own = {name: (Optics(), RelionCtf()) for name in names}
    is_helical = any(p.is_helical for p in picks)
    notes += dict.fromkeys(note for p in picks for note in p.notes)
    counts: Counter[str] = Counter()
    for p in picks:
        counts.update(p.counts)
    particles = Particles(names, columns, None, True, own, NAN, is_helical, notes, dict(counts))
    return particles, [path, *(files[n] for n in present)], frozenset(lost)


def _read_each(files: Sequence[Path]) -> list[FilePicks | CryoflowError]:
    """Return the picks of each file, or the error of reading it."""

    def read(file: Path) -> FilePicks | CryoflowError:
        try:
            return read_file(file)
        except CryoflowError as error:
            return error

    if len(files) <= 16:
        return [read(file) for file in files]
    return on_each_file(read, files)


def coordinate_files(
    project: Path, path: Path, known: KnownMicrographs, searched: Sequence[str]
) -> tuple[dict[str, Path], list[str], list[str]]:
    """Return the coordinate file of each micrograph, the micrographs whose file is there, and notes.

    Crawl and ingest both decide by this function whether such a job can be used.

    Raises
    ------
    BadInput
        Where the list is damaged, none of its files is there, or the micrographs are not known.
    """
    notes: list[str] = []
    if path.name.startswith(SUFFIX_FILE):
        files = _from_suffix(project, path, known, searched, notes)
    else:
        files = _from_list(project, path)
    present = [name for name in sorted(files) if is_file(files[name])]
    if not present and files:
        raise BadInput(path, f"none of its {len(files)} coordinate files is there.", "Were they moved or cleaned?")
    gone = len(files) - len(present)
    if gone and not path.name.startswith(SUFFIX_FILE):
        notes.append(f"{gone} of {len(files)} coordinate files are gone, and their micrographs are left out")
    return files, present, notes


def files_of_suffix(path: Path) -> dict[str, Path]:
    """Return files below a job's folder that end as a `coords_suffix` file says, by what stands before that ending.

    >>> # AutoPick/job005/coords_suffix_autopick.star: {"Movies/a": AutoPick/job005/Movies/a_autopick.star}
    """
    ending = path.name.removeprefix(SUFFIX_FILE)
    found = {}
    for top, _, names in os.walk(path.parent):
        for name in sorted(names):
            if name.endswith(ending) and not name.startswith(SUFFIX_FILE):
                place = Path(top, name)
                stem = os.path.relpath(place, path.parent).removesuffix(ending)
                if stem and not stem.endswith("/"):
                    found[stem] = place
    return found


def stamp_of_coordinates(project: Path, path: Path) -> str:
    """Return a hash of names, sizes and times of all files of picks that belong to a list: what a nightly run compares.

    Those of a `coords_suffix` file lie in its folder, under its suffix; a list names its own. None is opened.
    """
    if path.name.startswith(SUFFIX_FILE):
        files = [str(file) for file in files_of_suffix(path).values()]
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


def _from_suffix(
    project: Path, path: Path, known: KnownMicrographs, searched: Sequence[str], notes: list[str]
) -> dict[str, Path]:
    """Return the file of each micrograph: of those that the one line leads to, that the job searched, else of any
    project's.

    Its line is the path of a table of micrographs, or, written by RELION 3.1's import, a pattern such as
    `Movies/*.mrc`. Where no table names micrographs, they are called as the pattern says.
    """
    line = _line(path)
    names = read_micrograph_stars([project / line]).names if line.endswith(".star") else ()
    if names := names or tuple(searched) or known.names:
        suffix = path.name.removeprefix(SUFFIX_FILE)
        files = {name: path.parent / (tail(name) + suffix) for name in names}
        if any(is_file(file) for file in files.values()):
            return files
    there = files_of_suffix(path)
    if not there:
        if names:
            return files
        raise BadInput(path, "names no micrographs, and none of its coordinate files is there.", "Were they cleaned?")
    tails: dict[str, list[str]] = {}
    for name in all_micrographs(project):
        tails.setdefault(tail(name), []).append(name)
    ending = PurePosixPath(line).suffix if "*" in line else ".mrc"
    found = {}
    for stem, file in there.items():
        candidates = tails.get(stem, [])
        found[candidates[-1] if candidates else f"{stem}{ending}"] = file
    if unknown := sum(not tails.get(stem) for stem in there):
        notes.append(
            f"{unknown} micrographs are in no table of the project: they were named after their coordinate files"
        )
    if repeated := sum(len(tails.get(stem, ())) > 1 for stem in there):
        notes.append(f"{repeated} micrographs are in the tables of several jobs: those of the newest were taken")
    return found


def all_micrographs(project: Path) -> tuple[str, ...]:
    """Return names in all tables of micrographs of a project, those of the newest job last."""
    tables = micrograph_tables(load_pipeline(project))
    return tuple(dict.fromkeys(name for node in tables for name in read_micrograph_stars([project / node]).names))


def _line(path: Path) -> str:
    """Return the first line of a `coords_suffix` file; empty where there is no such file, only files of its ending."""
    try:
        line = inputs.read_text(path, errors="replace").strip().split("\n")[0].strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    if line.startswith("version https://git-lfs"):
        raise BadInput(path, "is a git-lfs pointer, not the file itself.", "Fetch it with `git lfs pull`.")
    return "" if "\0" in line else line


def tail(micrograph: str) -> str:
    """Return a micrograph's name from behind its job's folder on, without extension: where a job keeps what belongs to
    it.

    >>> tail("MotionCorr/job002/Movies/a.b.mrc")
    'Movies/a.b'
    """
    path = PurePosixPath(_THROUGH_JOB.sub("", micrograph))
    return str(path.with_suffix("")) if path.name else ""
