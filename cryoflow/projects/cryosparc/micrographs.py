"""The micrograph table of a set of picks: each value from the best source there is."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.micrographs.find_micrographs import Finder, notes_on_other_names
from cryoflow.micrographs.header import is_pixel_size, read_header
from cryoflow.picks import FloatArray, micrograph_table
from cryoflow.projects.cryosparc.exposures import FLAGS, LARGEST_EDGE_PX, OPTICS, Exposures, as_text

_MOVIES = (".tif", ".tiff", ".eer", ".mrcs", ".bz2")
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True)
class CryosparcMicrographs:
    """The table, sorted by name, and how the distinct rows of a dataset's location columns lead to it.

    Attributes
    ----------
    row_of : (n_distinct,) int
        Row of the table, -1 where the micrograph is not known.
    shape_yx : (n_distinct, 2) float
        Pixels by which the fractions of each distinct row are multiplied, NaN where unknown.
    pixel_size_A : (n_distinct,) float
        Of the micrograph, NaN where unknown.
    notes
        Fall-backs that were taken.
    """

    table: pd.DataFrame
    row_of: IntArray
    shape_yx: FloatArray
    pixel_size_A: FloatArray
    notes: tuple[str, ...] = ()


def tabulate(
    located: Mapping[str, npt.NDArray[np.generic]],
    n_distinct: int,
    exposures: Exposures,
    finder: Finder,
    *,
    codes: npt.NDArray[np.integer] | None = None,
    searched: Exposures | None = None,
    particle_optics: Mapping[str, FloatArray] | None = None,
    box_pixel_size_A: float | None = None,
) -> CryosparcMicrographs:
    """Bring together what is known of each micrograph.

    The pixel size is that of the picks themselves, else that of the exposure, else that of the MRC header, else
    `box_pixel_size_A`, else unknown.

    Parameters
    ----------
    located
        Distinct rows of `micrograph_path`, `micrograph_uid`, `micrograph_shape` and `micrograph_psize_A`, as far as the
        dataset has them.
    codes : (n_particles,) int
        Distinct row of each particle: of two shapes of one micrograph, that of more particles is taken.
    exposures
        Values of the project by exposure uid.
    searched
        Micrographs that were searched for particles, those where none was found included.
    particle_optics
        By column of the micrograph table, one value for each distinct row; used where no exposure has the value.
    box_pixel_size_A
        Pixel size of boxes that were cut without resampling.
    """
    names, uids, shapes, sizes = _distinct_rows(located, n_distinct, exposures)
    notes = _agree_on_shapes(names, shapes, codes)
    rows: dict[str, tuple[int, int]] = {}  # name -> (exposure uid, row of `names`, `shapes` and `sizes`)
    for i, (name, uid) in enumerate(zip(names, uids, strict=True)):
        if name:
            rows.setdefault(name, (uid, i))
    # Micrographs without picks get rows after the distinct ones: their files may be binned copies, too.
    for uid, path in (searched.path if searched else {}).items():
        name = _clean(path)
        if name and name not in rows:
            rows[name] = (uid, len(names))
            names.append(name)
    without_picks = [uid for uid, i in rows.values() if i >= n_distinct]
    empty_shapes = [exposures.shape_yx.get(uid, (np.nan, np.nan)) for uid in without_picks]
    shapes = np.concatenate([shapes, np.array(empty_shapes, np.float64).reshape(-1, 2)])
    sizes = np.concatenate([sizes, [exposures.pixel_size_A.get(uid, np.nan) for uid in without_picks]])
    ordered = sorted(rows)
    place = {name: row for row, name in enumerate(ordered)}
    paths = [_find(finder, name) for name in ordered]
    movies = [rows[name][0] in exposures.is_movie for name in ordered]
    status = [_status(*found) for found in zip(ordered, paths, movies, strict=True)]

    notes += notes_on_other_names(ordered, [p if s == "found" else None for p, s in zip(paths, status, strict=True)])
    binning = np.ones(len(ordered))
    notes += _adopt_file_shapes(place, paths, status, names, shapes, sizes, binning)
    of_rows = np.array([rows[name][1] for name in ordered], np.intp)
    table_shape, table_size = shapes[of_rows], sizes[of_rows]
    notes += _complete_from_headers(paths, status, table_shape, table_size)
    if box_pixel_size_A and (unknown := np.isnan(table_size)).any():
        table_size[unknown] = box_pixel_size_A * binning[unknown]
        notes.append(f"pixel size of {int(unknown.sum())} micrographs from boxes that were not resampled")
    for name, what in FLAGS.items():
        if n_flagged := sum(rows[of][0] in exposures.flagged[name] for of in ordered):
            notes.append(f"{n_flagged} of {len(ordered)} micrographs {what}")

    shapes, sizes = shapes[:n_distinct], sizes[:n_distinct]
    row_of = np.array([place.get(name, -1) for name in names[:n_distinct]], np.intp)
    known = row_of >= 0
    shapes[known] = np.where(np.isnan(shapes[known]), table_shape[row_of[known]], shapes[known])
    sizes[known] = np.where(np.isnan(sizes[known]), table_size[row_of[known]], sizes[known])
    columns: dict[str, object] = {
        "name": ordered,
        "path": [None if path is None else str(path) for path in paths],
        "status": status,
        "uid": [str(rows[name][0]) if rows[name][0] else None for name in ordered],
        "ny": pd.array([None if np.isnan(v) else int(v) for v in table_shape[:, 0]], dtype="Int32"),
        "nx": pd.array([None if np.isnan(v) else int(v) for v in table_shape[:, 1]], dtype="Int32"),
        "pixel_size_A": np.round(table_size, 6),
        **_optics_columns([rows[name][0] for name in ordered], exposures, particle_optics, of_rows, n_distinct),
    }
    return CryosparcMicrographs(micrograph_table(columns), row_of, shapes, sizes, tuple(notes))


def _distinct_rows(
    located: Mapping[str, npt.NDArray[np.generic]], n_distinct: int, exposures: Exposures
) -> tuple[list[str], list[int], FloatArray, FloatArray]:
    """Return name, exposure uid, shape_yx and pixel size of each distinct row, from the dataset, else the exposure."""
    uids = located.get("micrograph_uid", np.zeros(n_distinct, np.uint64)).astype(np.uint64).tolist()
    given = located.get("micrograph_path")
    names = [as_text(path) for path in given.tolist()] if given is not None else [""] * n_distinct
    names = [_clean(name) or _clean(exposures.path.get(uid, "")) for name, uid in zip(names, uids, strict=True)]
    shapes = located.get("micrograph_shape", np.zeros((n_distinct, 2))).astype(np.float64)
    sizes = located.get("micrograph_psize_A", np.zeros(n_distinct)).astype(np.float64)
    shapes[~((shapes > 0) & (shapes <= LARGEST_EDGE_PX)).all(axis=1)] = np.nan
    sizes[[not is_pixel_size(size) for size in sizes.tolist()]] = np.nan
    for i, uid in enumerate(uids):
        if np.isnan(shapes[i, 0]) and uid in exposures.shape_yx:
            shapes[i] = exposures.shape_yx[uid]
        if np.isnan(sizes[i]) and uid in exposures.pixel_size_A and _is_same_image(names[i], shapes[i], uid, exposures):
            sizes[i] = exposures.pixel_size_A[uid]
    return names, uids, shapes, sizes


def _complete_from_headers(
    paths: list[Path | None], status: list[str], table_shape: FloatArray, table_size: FloatArray
) -> list[str]:
    """Fill unknown shapes and pixel sizes (NaN) of files that were found, in place; return notes."""
    n_from_header = 0
    for row, file in enumerate(paths):
        is_lacking = np.isnan(table_size[row]) or np.isnan(table_shape[row, 0])
        if not is_lacking or file is None or status[row] != "found":
            continue
        try:
            header = read_header(file)
        except BadInput:
            status[row] = "unreadable"
            continue
        if np.isnan(table_shape[row, 0]):
            table_shape[row] = header.shape_yx
        if np.isnan(table_size[row]) and header.pixel_size_A and tuple(table_shape[row]) == header.shape_yx:
            table_size[row] = header.pixel_size_A
            n_from_header += 1
    return [f"pixel size of {n_from_header} micrographs from their MRC headers"] if n_from_header else []


def _optics_columns(
    uids: list[int],
    exposures: Exposures,
    particle_optics: Mapping[str, FloatArray] | None,
    of_rows: IntArray,
    n_distinct: int,
) -> dict[str, FloatArray]:
    """Return the columns of the microscope and the CTF, of the exposures, else of the particles on a micrograph."""
    columns = {}
    for name in OPTICS:
        of_uid = exposures.optics[name]
        numbers = np.array([of_uid.get(uid, np.nan) for uid in uids], np.float64)
        if particle_optics and name in particle_optics and len(numbers):
            of_distinct = np.append(particle_optics[name], np.nan)  # NaN for micrographs without picks
            taken = of_distinct[np.minimum(of_rows, n_distinct)]
            numbers = np.where(np.isnan(numbers), taken, numbers)
        columns[name] = np.round(numbers, 4)
    return columns


def _agree_on_shapes(names: list[str], shapes: FloatArray, codes: npt.NDArray[np.integer] | None) -> list[str]:
    """Give all distinct rows of one micrograph the shape that most particles tell; changes `shapes`, returns notes."""
    shapes_of: dict[str, dict[tuple[float, float], list[int]]] = {}
    for i, name in enumerate(names):
        if name and not np.isnan(shapes[i, 0]):
            shapes_of.setdefault(name, {}).setdefault((float(shapes[i, 0]), float(shapes[i, 1])), []).append(i)
    disagreeing = [rows_of for rows_of in shapes_of.values() if len(rows_of) > 1]
    if not disagreeing:
        return []
    n_rows = np.ones(len(names), np.intp) if codes is None else np.bincount(codes, minlength=len(names))
    n_anywhere: Counter[tuple[float, float]] = Counter()
    for rows_of in shapes_of.values():
        for shape, rows in rows_of.items():
            n_anywhere[shape] += int(n_rows[rows].sum())
    n_changed = 0
    for rows_of in disagreeing:
        votes = {shape: (int(n_rows[rows].sum()), n_anywhere[shape]) for shape, rows in rows_of.items()}
        taken = max(votes, key=votes.__getitem__)
        n_changed += sum(votes[shape][0] for shape in votes if shape != taken)
        for rows in rows_of.values():
            shapes[rows] = taken
    return [f"{n_changed} particles tell another shape of their micrograph than most others, whose shape was taken"]


def _adopt_file_shapes(
    place: Mapping[str, int],
    paths: list[Path | None],
    status: list[str],
    names: list[str],
    shapes: FloatArray,
    sizes: FloatArray,
    binning: FloatArray,
) -> list[str]:
    """Give each row the shape of the file that was found, where that is a binned copy of the micrograph of the job.

    Changes `shapes`, `sizes` and `status` in place, and `binning`, by row of the table, to the factor by which the
    file's pixels are larger. Returns notes. Of files of one size and one recorded shape, the header of one is read.
    """
    known = [
        i for i, name in enumerate(names) if name and status[place[name]] == "found" and not np.isnan(shapes[i, 0])
    ]
    n_binned = n_swapped = n_other = 0
    looked_at: dict[tuple[int, float, float], tuple[int, int]] = {}
    for i in known:
        row = place[names[i]]
        file = paths[row]
        assert file is not None
        told_y, told_x = shapes[i]
        try:
            alike = (os.stat(file).st_size, told_y, told_x)
            if alike not in looked_at:
                looked_at[alike] = read_header(file).shape_yx
            ny, nx = looked_at[alike]
        except (BadInput, OSError):
            status[row] = "unreadable"
            continue
        if (ny, nx) == (told_y, told_x):
            continue
        if (ny, nx) == (told_x, told_y):
            shapes[i] = ny, nx
            n_swapped += 1
        elif abs(told_x / nx - told_y / ny) < 0.01 * told_x / nx:
            shapes[i] = ny, nx
            sizes[i] *= told_x / nx
            binning[row] = told_x / nx
            n_binned += 1
        else:
            status[row] = "unreadable"
            n_other += 1
    counted_notes = (
        (n_binned, "micrographs are binned copies of those that were picked on; picks and pixel sizes were scaled"),
        (n_swapped, "micrographs have rows and columns swapped against what the picks say; the file was believed"),
        (n_other, "micrographs have another shape than the job recorded"),
    )
    return [f"{number} {text}" for number, text in counted_notes if number]


def _is_same_image(name: str, shape_yx: FloatArray, uid: int, exposures: Exposures) -> bool:
    """Return whether an exposure's micrograph is the one that picks refer to, not a binned copy of it."""
    if PurePosixPath(exposures.path.get(uid, "")).name == PurePosixPath(name).name:
        return True
    return exposures.shape_yx.get(uid) == tuple(shape_yx)


def _find(finder: Finder, name: str) -> Path | None:
    """Find a file as the finder does, below the project first, but at the speed of `stat` for ten thousand names."""
    below = os.path.join(finder.project_dir, name)
    return Path(below) if os.path.isfile(below) else finder.find(name)  # noqa: PTH113


def _status(name: str, path: Path | None, is_movie: bool) -> str:
    if is_movie or name.lower().endswith(_MOVIES):
        return "movie"
    return "missing" if path is None else "found"


def _clean(name: str) -> str:
    return "" if "\0" in name or "\n" in name or "\r" in name else name
