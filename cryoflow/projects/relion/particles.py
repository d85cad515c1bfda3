"""Particle tables: positions in the frame of `cryoflow.picks`, whatever generation wrote them.

`rlnCoordinateX/Y` are centers in pixels of the micrograph, from its first stored pixel, untouched by the rescaling of
extracted boxes. A refinement keeps them and writes the shift that it found as an origin, in angstrom (3.1 and later) or
in pixels of the box (before): the center is the coordinate minus the origin, in micrograph pixels. This was checked
against simulations with known truth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.pick_tables.relion_star import SCORE
from cryoflow.formats.pick_tables.star_text import UNKNOWN, drop_disabled, read_position_blocks
from cryoflow.formats.pick_tables.text import note_on_end
from cryoflow.formats.star import Table
from cryoflow.projects.duplicates import whole_micrographs
from cryoflow.projects.relion.micrographs import RelionCtf
from cryoflow.projects.relion.optics import NAN, OLD_COLUMNS, Optics, optics_of_row, read_optics
from cryoflow.projects.relion.sniff import sniff

_ANGST = ("rlnOriginXAngst", "rlnOriginYAngst")
_PIXELS = ("rlnOriginX", "rlnOriginY")
ORIGIN_COLUMNS = (*_ANGST, *_PIXELS)
"""Columns of refined shifts, which are subtracted from positions."""
_DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")
_NUMBERS = {SCORE: "score", "rlnAnglePsi": "psi_deg"}
_CODES = {"rlnClassNumber": "class", "rlnOpticsGroup": "optics_group"}
"""Columns that become columns of picks. To read another one, add it here and to `PICK_COLUMNS`."""
_REST = (*_NUMBERS, *_CODES, "rlnHelicalTubeID", "rlnEnabled")
_NARROW = (*_DEFOCUS, *OLD_COLUMNS, "rlnClassNumber", "rlnOpticsGroup", "rlnHelicalTubeID")
_LARGEST_SHIFT = 0.25
"""Of the box: a larger origin is that of a sub-particle or of a helix, and no correction of a pick."""

FloatArray = npt.NDArray[np.float64]


@dataclass
class Particles:
    """A particle table, sorted by micrograph; its arrays are changed in place while it is worked on.

    Attributes
    ----------
    names
        Micrographs, sorted.
    columns
        `micrograph` (index of `names`), `x_px`, `y_px`, and further columns of `picks.PICK_COLUMNS`.
    origin
        The recorded shift in x and y, taken out of `columns`; None where there is none.
    origin_in_A
        Whether it is in angstrom; else it is in pixels of the box.
    own
        Values of each micrograph in the file.
    box_A
        Edge of the extracted box, NaN where unknown.
    """

    names: list[str]
    columns: dict[str, npt.NDArray[np.generic]]
    origin: tuple[FloatArray, FloatArray] | None
    origin_in_A: bool
    own: Mapping[str, tuple[Optics, RelionCtf]]
    box_A: float
    is_helical: bool
    notes: list[str]
    counts: dict[str, int] = field(default_factory=dict)


def read_particles(path: Path, classes: frozenset[int] | None = None, only_micrograph: str = "") -> Particles:
    """Read a particle table; of these classes only, where some are named.

    `only_micrograph` is the one that the rows are on where the table names none.

    Raises
    ------
    BadInput
        Where the file is damaged or is one of tomography.
    MissingMetadata
        Where it does not say which micrographs the particles are on.
    """
    content = sniff(path)
    if content.tomography:
        raise BadInput(
            path, f"is of tomography (it has _{content.tomography}).", "Picks in three dimensions are not read."
        )
    needed = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY"]
    if content.has_coordinates and "rlnMicrographName" not in content.columns:
        if not only_micrograph:
            raise MissingMetadata(
                path, "has no _rlnMicrographName, so that nobody knows which micrograph a particle is on."
            )
        needed = needed[1:]
    origin_columns = _ANGST if set(_ANGST) <= set(content.columns) else _PIXELS
    optional = [*origin_columns, *_REST, *_DEFOCUS, *OLD_COLUMNS]
    table, notes, others, is_negative = read_position_blocks(
        path, needed, optional=optional, narrow=_NARROW, name_column="rlnMicrographName"
    )
    notes += filter(None, [note_on_end(path)])
    counts: dict[str, int] = {}
    drop_disabled(table, "rlnEnabled", counts)
    if "rlnMicrographName" not in table:
        codes_of_one = np.zeros(len(table["rlnCoordinateX"]), np.int32)
        categories = pd.Index([only_micrograph], dtype="object")
        table["rlnMicrographName"] = pd.Categorical.from_codes(codes_of_one, categories=categories)
    if classes is not None:
        if "rlnClassNumber" not in table:
            raise MissingMetadata(path, "has no _rlnClassNumber, so that no classes can be taken from it.")
        keep = np.isin(table["rlnClassNumber"], sorted(classes))
        for name in list(table):
            table[name] = table[name][keep]
    groups = read_optics(path) if "optics" in others else {}
    names = _sort_by_micrograph(table)
    codes = np.asarray(table.pop("rlnMicrographName"), np.int32)
    own = _own_knowledge(table, codes, names, groups)
    helical = "rlnHelicalTubeID" in table and bool((np.nan_to_num(table.pop("rlnHelicalTubeID")) > 0).any())
    boxes = {group.box_A for group in groups.values()}
    origin = None
    if set(origin_columns) <= set(table):
        origin = (_floats(table, origin_columns[0]), _floats(table, origin_columns[1]))
    columns: dict[str, npt.NDArray[np.generic]] = {"micrograph": codes}
    columns["x_px"], columns["y_px"] = _floats(table, "rlnCoordinateX"), _floats(table, "rlnCoordinateY")
    columns |= pick_columns(table)
    if is_negative:
        columns["label"] = np.full(len(codes), -1, np.int8)
    box_A = boxes.pop() if len(boxes) == 1 else NAN
    return Particles(names, columns, origin, origin_columns == _ANGST, own, box_A, helical, notes, counts)


def pick_columns(table: Table) -> dict[str, npt.NDArray[np.generic]]:
    """Take the columns of picks out of a table of RELION; return them under our names."""
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for theirs, ours in _NUMBERS.items():
        if theirs in table:
            values = np.asarray(table.pop(theirs), np.float64)
            values[values == UNKNOWN] = np.nan
            if not np.isnan(values).all():
                columns[ours] = values
    for theirs, ours in _CODES.items():
        if theirs in table:
            numbers = np.asarray(table.pop(theirs))
            numbers = np.where(np.isfinite(numbers) & (numbers > 0), numbers, 0).astype(np.int32)
            if numbers.any():
                columns[ours] = numbers
    return columns


def subtract_origins(particles: Particles, pixel_size_A: FloatArray) -> None:
    """Move the picks by minus their recorded shift, in place, and record what was subtracted.

    Parameters
    ----------
    pixel_size_A : (n_micrographs,) float
        Of the micrographs, in the order of `particles.names`; NaN where unknown.
    """
    if particles.origin is None:
        return
    image_A = np.array([particles.own[name][0].image_pixel_size_A for name in particles.names], np.float64)
    scale = 1 / pixel_size_A if particles.origin_in_A else image_A / pixel_size_A
    codes = particles.columns["micrograph"]
    unknown = np.isnan(scale)
    if unknown.any():
        n = int(np.count_nonzero(unknown[codes]))
        if n:
            particles.notes.append(
                f"refined shifts of {n} particles were not subtracted: the pixel size of their micrographs is not known"
            )
        scale = np.where(unknown, 0.0, scale)
    shifts = particles.origin
    particles.origin = None
    for shift in shifts:
        with np.errstate(over="ignore"):
            shift *= scale[codes]
        shift[~np.isfinite(shift)] = 0.0
    if np.isfinite(particles.box_A):
        limit = (_LARGEST_SHIFT * particles.box_A / np.where(np.isnan(pixel_size_A), np.inf, pixel_size_A))[codes]
        limit[limit == 0] = np.inf
        too_large = np.abs(shifts[0]) > limit
        too_large |= np.abs(shifts[1]) > limit
        if n := int(np.count_nonzero(too_large)):
            particles.notes.append(f"refined shifts of {n} particles, over a quarter of the box, were not subtracted")
            for shift in shifts:
                shift[too_large] = 0.0
    for axis, shift in zip("xy", shifts, strict=True):
        position: npt.NDArray[Any] = particles.columns[f"{axis}_px"]
        position -= shift
        particles.columns[f"shift_{axis}_px"] = shift


def _floats(table: Table, column: str) -> FloatArray:
    """Take a column out of a table, without a copy."""
    return np.asarray(table.pop(column), np.float64)


def _sort_by_micrograph(table: Table) -> list[str]:
    """Order all columns by micrograph name, stably and one by one, and number the micrographs."""
    categorical = table["rlnMicrographName"]
    assert isinstance(categorical, pd.Categorical)
    theirs = [str(name) for name in categorical.categories]
    used = np.bincount(categorical.codes, minlength=len(theirs)) > 0
    names = sorted(name for name, is_used in zip(theirs, used, strict=True) if is_used)
    place = {name: i for i, name in enumerate(names)}
    codes = (
        np.array([place.get(name, -1) for name in theirs], np.int32)[categorical.codes]
        if theirs
        else np.zeros(0, np.int32)
    )
    table["rlnMicrographName"] = codes
    if not np.all(codes[1:] >= codes[:-1]):
        order = np.argsort(codes, kind="stable")
        for name in list(table):
            table[name] = table[name][order]
    return names


def _own_knowledge(
    table: Table, codes: npt.NDArray[np.int32], names: list[str], groups: Mapping[int, Optics]
) -> dict[str, tuple[Optics, RelionCtf]]:
    """Return optics and defocus of each micrograph by its particles: optics of the first, the median of refined
    defoci."""
    starts = np.searchsorted(codes, np.arange(len(names)))
    medians = {}
    for label in _DEFOCUS:
        if label in table:
            values = np.asarray(table.pop(label))
            # Angles run in circles, so that of the first stands for all.
            medians[label] = _medians(codes, values, len(names)) if label in _DEFOCUS[:2] else values[starts]
    own = {}
    for i, (name, start) in enumerate(zip(names, starts.tolist(), strict=True)):
        optics = optics_of_row(groups, table, start)
        own[name] = (optics, RelionCtf(*(float(medians[d][i]) if d in medians else NAN for d in _DEFOCUS)))
    for label in OLD_COLUMNS:
        table.pop(label, None)
    return own


def _medians(codes: npt.NDArray[np.int32], values: npt.NDArray[np.floating], n_groups: int) -> FloatArray:
    """Return median of the finite values of each group; `codes` are sorted. A few groups at a time, to save memory."""
    medians = np.full(n_groups, np.nan)
    for part in whole_micrographs(codes):
        first, last = int(codes[part.start]), int(codes[part.stop - 1])
        medians[first : last + 1] = _medians_of_some(codes[part] - first, values[part], last + 1 - first)
    return medians


def _medians_of_some(codes: npt.NDArray[np.int32], values: npt.NDArray[np.floating], n_groups: int) -> FloatArray:
    """Return median of the finite values of each group, with one sort for all of them."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.full(n_groups, np.nan)
    codes, values = codes[finite], values[finite].astype(np.float64)
    low = values.min()
    span = values.max() - low + 1.0
    ordered = np.sort(codes * span + (values - low))  # one sort for all groups: each has a range of its own
    edges = np.searchsorted(codes, np.arange(n_groups + 1))
    counts = np.diff(edges)
    some = counts > 0
    last = len(ordered) - 1
    middle = (
        ordered[np.minimum(edges[:-1] + (counts - 1) // 2, last)] + ordered[np.minimum(edges[:-1] + counts // 2, last)]
    ) / 2
    return np.where(some, np.round(middle - np.arange(n_groups) * span + low, 2), np.nan)
