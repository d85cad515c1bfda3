"""Folders of tables of picks: which files are tables, which belong together, and which hold no particles.

A picker's folder may hold the same picks in several formats, the picks that it rejected, and files that are no tables.
Of one micrograph's files one is read; rejected picks are a set of their own, labeled -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables import formats, suffixes
from cryoflow.formats.pick_tables.file_names import FALSE_POSITIVES, is_repeated, negative_suffix
from cryoflow.projects.cryosparc.without_json import earlier_iterations

_FOLDERS = ("ground_truth/particle_coordinates", "info", "CBOX", "STAR", "EMAN", "matching")
"""Where programs keep their tables below the folder that people name: CryoPPP, EMAN2, crYOLO, Warp."""
_MICROGRAPHS = ("micrographs", "Micrographs")


@dataclass(frozen=True)
class TableGroup:
    """Files that make one set of picks.

    Attributes
    ----------
    suffix, label
        Of the set; empty and None for the main one.
    """

    files: tuple[Path, ...]
    suffix: str = ""
    label: int | None = None


@dataclass(frozen=True)
class TableFolder:
    """The sets of picks in a folder, the main one first; where its micrographs are, if known; notes."""

    groups: tuple[TableGroup, ...]
    micrographs: Path | None = None
    notes: tuple[str, ...] = ()


def tables_of(folder: Path) -> TableFolder:
    """Return the sets of picks in a folder, or in the folder below it where its program keeps its tables.

    Raises
    ------
    BadInput
        Where there is no file that may be a table.
    """
    top = folder
    files = _files(folder)
    if not files:
        folder = next((top / name for name in _FOLDERS if _files(top / name)), top)
        files = _files(folder)
    if not files:
        raise BadInput(folder, f"holds no table of picks ({', '.join(suffixes())}).")
    rejected = _files(folder.parent / FALSE_POSITIVES) if folder != top else []
    notes: list[str] = []
    earlier = earlier_iterations(path.name for path in files)
    if left := [path for path in files if path.name in earlier]:
        notes.append(f"{_number(left)} left out, of earlier iterations ({left[0].name}, ...)")
        files = [path for path in files if path not in left]
    main = [path for path in files if not negative_suffix(path) and not is_repeated(path)]
    if repeated := [path for path in files if is_repeated(path)]:
        if main:
            notes.append(f"{_number(repeated)} of picks with near repeats left out ({repeated[0].name}, ...)")
        else:
            main = repeated
    groups = {"": main}
    for path in [*files, *rejected]:
        if suffix := negative_suffix(path):
            groups.setdefault(suffix, []).append(path)
    sets = []
    for suffix, paths in groups.items():
        if paths:
            kept, left = _one_format(paths)
            if left:
                notes.append(f"{_number(left)} left out, the same picks in another format ({left[0].name}, ...)")
            sets.append(TableGroup(tuple(kept), suffix, -1 if suffix else None))
    micrographs = next((top / name for name in _MICROGRAPHS if folder != top and (top / name).is_dir()), None)
    return TableFolder(tuple(sets), micrographs, tuple(notes))


def _files(folder: Path) -> list[Path]:
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in inside if path.suffix.lower() in suffixes() and not path.name.startswith(".")]


def _one_format(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return one file of each stem, that of the format which keeps most, and the files that are left."""
    order = ["." + suffix for suffix in ("csg", "cs", "cbox", "star", "json", "pos", "boxx")]
    with_scores = [suffix for form in formats() if form.score for suffix in form.suffixes]

    def rank(path: Path) -> tuple[int, int, str]:
        suffix = path.suffix.lower()
        place = order.index(suffix) if suffix in order else len(order)
        return place, -int(suffix in with_scores), suffix

    by_stem: dict[str, list[Path]] = {}
    for path in files:
        by_stem.setdefault(path.stem, []).append(path)
    kept = {min(paths, key=rank) for paths in by_stem.values()}
    return [path for path in files if path in kept], [path for path in files if path not in kept]


def _number(files: Sequence[Path]) -> str:
    return "1 file was" if len(files) == 1 else f"{len(files)} files were"
