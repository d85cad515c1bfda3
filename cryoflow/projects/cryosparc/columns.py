"""Which columns of which datasets make up the picks of one output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.formats.cs import read_cs_rows
from cryoflow.micrographs.header import is_pixel_size
from cryoflow.picks import FloatArray, Kind
from cryoflow.projects.cryosparc.exposures import OPTICS
from cryoflow.projects.cryosparc.job_types import NOT_RECENTERED, Role
from cryoflow.projects.cryosparc.join import Joined
from cryoflow.projects.cryosparc.outputs import DatasetTable, OutputDatasets, ProjectIndex, Record

X, Y = "location/center_x_frac", "location/center_y_frac"
_REPEATED = ("micrograph_uid", "micrograph_psize_A", "exp_group_id")
_IN_2D = (Kind.CLASS_2D, Kind.SELECT_2D)
MAX_SHIFT_OF_BOX = 0.25
"""A shift of more than this part of the box is no recentring: it is a sub-particle, a filament or a failure."""
MAX_SHIFT_A = 150.0
"""The same where the box is not known."""


@dataclass(frozen=True)
class ColumnPlan:
    """Columns to read for one output.

    Attributes
    ----------
    location
        The dataset that has the positions.
    repeated
        Its columns that repeat for each micrograph.
    wanted
        Columns to read row by row, by dataset.
    alignments
        Slot whose shifts are subtracted; empty where none is.
    class_column, posterior, score, source_uid, psi
        Names of columns; empty where there is none. The class may be an array of posteriors, one a class: the class is
        then the likeliest.
    class_number
        Which to take where a column has one value a class.
    splits_classes
        Whether only rows of the role's class are wanted.
    optics
        Dataset with the particles' own `ctf`.
    notes
        What a user should know.
    """

    location: DatasetTable
    repeated: tuple[str, ...]
    wanted: Mapping[Path, tuple[str, ...]]
    alignments: str = ""
    class_column: str = ""
    posterior: str = ""
    score: str = ""
    source_uid: str = ""
    psi: str = ""
    class_number: int = 0
    splits_classes: bool = False
    optics: DatasetTable | None = None
    notes: tuple[str, ...] = ()

    def files(self, primary: Path) -> tuple[Path, ...]:
        """Return every dataset that is read."""
        return tuple(dict.fromkeys([primary, *self.wanted, self.location.path]))


def make(
    output: OutputDatasets, source: OutputDatasets, source_record: Record, kind: Kind, role: Role
) -> ColumnPlan | None:
    """Return the plan for an output whose positions are in `source`, None where `source` lacks a column it needs.

    Parameters
    ----------
    output
        The output to read.
    source
        It or the output of an ancestor.
    source_record
        Job of `source`.
    kind
        Of the job that is read.
    role
        What the output is.
    """
    location = source.slots["location"].table
    if not location.has_positions:
        return None
    repeated = ["location/micrograph_path"] if location.has_text("location/micrograph_path") else []
    repeated += ["location/micrograph_shape"] if location.has("location/micrograph_shape", (2,)) else []
    repeated += [f"location/{name}" for name in _REPEATED if location.has(f"location/{name}")]
    wanted: dict[Path, list[str]] = {location.path: [X, Y]}
    notes: list[str] = []

    def want(slot: str, column: str, shape: tuple[int, ...] = (), of: OutputDatasets = output) -> str:
        """Return the name of the column where the slot has it, and it is put on the list; else nothing."""
        name = f"{slot}/{column}"
        if slot not in of.slots or not of.slots[slot].table.has(name, shape):
            return ""
        columns = wanted.setdefault(of.slots[slot].table.path, [])
        if name not in columns:
            columns.append(name)
        return name

    alignments = _alignments(source, source_record.kind if source is not output else kind, role, notes)
    if source is not output:
        notes.append(f"positions are those of {source_record.job_file.uid}, {source.name}: the job has none itself")
        if any(slot.startswith("alignments") and not s.is_passthrough for slot, s in output.slots.items()):
            notes.append("the job's own shifts were not applied: they may be relative to a later extraction")
    if alignments:
        table = source.slots[alignments].table
        for column in ("shift", "psize_A"):
            want(alignments, column, table.shape_of(f"{alignments}/{column}"), source)
    if output.lost:
        notes.append(f"files are gone for {', '.join(output.lost)}")
    notes += [str(problem) for problem in output.problems]

    class_column, posterior = _class_columns(output, kind, role, want)
    if role.is_all_classes or (role.class_number is not None and output.name.endswith("all_classes")):
        if not class_column:
            return None
        splits = True
    else:
        splits = False
    score = want("pick_stats", "ncc_score")
    psi = want("alignments2D", "pose") if kind in _IN_2D else ""
    source_uid = want("sym_expand", "src_uid")
    ctf = output.slots.get("ctf")
    return ColumnPlan(
        location,
        tuple(repeated),
        {path: tuple(columns) for path, columns in wanted.items()},
        alignments,
        class_column,
        posterior,
        score,
        source_uid,
        psi,
        role.class_number or 0,
        splits,
        ctf.table if ctf else None,
        tuple(notes),
    )


def _alignments(source: OutputDatasets, kind: Kind, role: Role, notes: list[str]) -> str:
    """Return the slot whose shifts lead from the location to the particle's center: the job's own first, 3D before
    2D."""
    candidates = ["alignments3D", "alignments2D"]
    if role.class_number is not None:
        candidates[1:1] = [f"alignments_class_{role.class_number}", f"alignments_class3D_{role.class_number}"]
    usable = []
    for name in candidates:
        slot = source.slots.get(name)
        if slot and slot.table.has(f"{name}/shift", (2,)) and slot.table.has(f"{name}/psize_A"):
            usable.append((slot.is_passthrough, name))
    multi = source.slots.get("alignments3D_multi")
    if multi and role.class_number is not None and _has_shifts_by_class(multi.table, role.class_number):
        usable.append((multi.is_passthrough, "alignments3D_multi"))
    if not usable:
        return ""
    is_passthrough, name = min(usable, key=lambda found: found[0])
    if kind in NOT_RECENTERED and not is_passthrough:
        notes.append(NOT_RECENTERED[kind])
        return ""
    return name


def _has_shifts_by_class(table: DatasetTable, class_number: int) -> bool:
    """Return whether `alignments3D_multi` (from 4.5 on) has a shift of each particle for each class, and its pixel
    size."""
    shape, size = (table.shape_of(f"alignments3D_multi/{name}") for name in ("shift", "psize_A"))
    has = table.has("alignments3D_multi/shift", shape) and table.has("alignments3D_multi/psize_A", size)
    return has and len(shape) == 2 and shape[1] == 2 and class_number < shape[0] and size in ((), shape[:1])


def _class_columns(output: OutputDatasets, kind: Kind, role: Role, want: object) -> tuple[str, str]:
    """Return columns of class and posterior, only those that the job itself decided: older ones are passed on and
    stale."""
    assert callable(want)

    def own(slot: str) -> bool:
        return slot in output.slots and not output.slots[slot].is_passthrough

    if kind in _IN_2D:
        return want("alignments2D", "class"), want("alignments2D", "class_posterior")
    k = role.class_number
    if k is None:
        return "", ""
    column = want("alignments3D", "class") if own("alignments3D") and output.name.endswith("all_classes") else ""
    for slot in (f"alignments_class_{k}", f"alignments_class3D_{k}"):
        if own(slot) and (found := want(slot, "class_posterior")):
            return column, found
    multi = output.slots.get("alignments3D_multi")
    if (
        multi
        and not multi.is_passthrough
        and "alignments3D_multi/class_posterior" in (multi.table.header.dtype.names or ())
    ):
        shape = multi.table.header.dtype["alignments3D_multi/class_posterior"].shape
        if len(shape) == 1 and shape[0] > k:
            posteriors = want("alignments3D_multi", "class_posterior", shape)
            return column or (posteriors if output.name.endswith("all_classes") else ""), posteriors
    return column, want("alignments3D", "class_posterior") if own("alignments3D") else ""


def particle_optics(planned: ColumnPlan, joined: Joined) -> Mapping[str, FloatArray]:
    """Return optics of the first particle on each distinct micrograph, by column of the micrograph table."""
    table = planned.optics
    n = len(joined.distinct.first_row)
    if table is None or table.path not in joined.matches or not n:
        return {}
    names = {c: columns[0] for c, (columns, _) in OPTICS.items() if table.has(columns[0])}
    first = np.full(n, -1, np.int64)
    codes = joined.distinct.codes
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
    match = joined.matches[table.path]
    rows = first if match.rows is None else match.rows[first]
    known = first >= 0
    if match.found is not None:
        known &= match.found[first]
    values = read_cs_rows(table.path, list(names.values()), np.where(known, rows, 0))
    optics = {column: values[name].astype(np.float64) * OPTICS[column][1] for column, name in names.items()}
    return {column: np.where(known, numbers, np.nan) for column, numbers in optics.items()}


def box(output: OutputDatasets, index: ProjectIndex, record: Record) -> tuple[float | None, float | None]:
    """Return edge of the extracted box in angstrom, and its pixel size where the boxes were cut without resampling."""
    slot = output.slots.get("blob")
    if slot is None or not slot.table.has("blob/shape", (2,)) or not slot.table.has("blob/psize_A"):
        return None, None
    if not slot.table.header.n_rows:
        return None, None
    try:
        first = read_cs_rows(slot.table.path, ["blob/shape", "blob/psize_A"], np.zeros(1, np.int64))
    except BadInput:
        return None, None
    edge_px, pixel_size_A = int(first["blob/shape"][0, 0]), float(first["blob/psize_A"][0])
    if edge_px <= 0 or not is_pixel_size(pixel_size_A):
        return None, None
    cut_px = next((size for r in _lineage(index, record) if (size := _number(r, "box_size_pix"))), None)
    return edge_px * pixel_size_A, pixel_size_A if cut_px == edge_px else None


def diameter_A(index: ProjectIndex, record: Record) -> tuple[float | None, list[str]]:
    """Return the diameter set in the nearest picker among the ancestors, and notes on it.

    Else that of the circular mask of a 2D classification, which is an upper bound.
    """
    lineage = _lineage(index, record)
    for candidate in lineage:
        if candidate.kind is Kind.AUTO_PICK:
            diameters = [v for v in (_number(candidate, "diameter"), _number(candidate, "diameter_max")) if v]
            if diameters:
                return sum(diameters) / len(diameters), []
    for candidate in lineage:
        if candidate.kind is Kind.CLASS_2D and (mask_A := _number(candidate, "class2D_window_inner_A")):
            return mask_A, ["diameter is that of a mask, so the particle may be smaller"]
    return None, []


def doubts(index: ProjectIndex, record: Record) -> list[str]:
    """Return what in a job's history makes it uncertain whether positions fit their micrographs: pixels have to
    tell."""
    notes = []
    for job in _lineage(index, record):
        for axis in "xy":
            if job.kind is Kind.EXTRACT and job.job_file.params.get(f"flip_{axis}") is True:
                notes.append(
                    f"{job.job_file.uid} flipped micrographs in {axis} before it extracted particles: whether "
                    f"positions went along is not documented, so look at the orientation check "
                    f"(--flip-{axis} sets it right)"
                )
        if job.kind is Kind.IMPORT:
            notes.append(
                f"particles were imported in {job.job_file.uid}: whether their y was turned is not known, so look at "
                "the orientation check (--flip-y sets it right)"
            )
    return notes


def _lineage(index: ProjectIndex, record: Record) -> list[Record]:
    """Return a job and its ancestors, the nearest first."""
    found = {record.job_file.uid: record}
    to_visit = [uid for uid, _ in record.job_file.inputs]
    for uid in to_visit:  # grows while it is walked: breadth first
        if uid not in found:
            found[uid] = index.record(uid)
            to_visit.extend(uid for uid, _ in found[uid].job_file.inputs)
    return list(found.values())


def _number(record: Record, name: str) -> float | None:
    value = record.job_file.params.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else None
