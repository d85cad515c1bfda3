"""Picks: where particles are, on which micrographs, and which job or program placed them.

The frame
---------
There is one coordinate frame, and it is stated here only: **origin at the first pixel stored in the MRC file, x along
the fast axis (columns), y along the slow axis (rows), in pixels of that file, pixel centers at whole numbers; a pick is
the particle's center, not a corner of its box.** It is the frame of `mrcfile`'s arrays (`data[y, x]`) and of RELION's
`rlnCoordinateX/Y`. Every reader converts into it, every exporter out of it, and nobody else does arithmetic on
coordinates. Shapes are `(ny, nx)`, as NumPy has them. Unknown values are NaN, NA or None, never 0.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.storage.fingerprints import SourceFile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
Program = Literal["relion", "cryosparc", "file", "picker", "cryoflow"]

NEEDS_CONFIRMATION = "not used for training until the orientation check confirms the picks"
"""End of a note on a set of picks that may be mirrored; see `require_confirmed`."""
CONFIRMED = "the orientation check confirms the picks"
"""End of such a note once the orientation check has confirmed the picks."""
UNCONFIRMED = "its micrographs are another program's, and the orientation check has not confirmed its picks"
"""Reason for passing over or refusing unconfirmed picks."""


class Kind(StrEnum):
    """Kind of a job; the names of its database entries start with it."""

    HOMO = "Homo"
    NON_UNIFORM = "NonUniform"
    LOCAL = "Local"
    HELIX = "Helix"
    HETERO = "Hetero"
    AB_INITIO = "AbInitio"
    REFINE_3D = "Refine3D"
    CLASS_3D = "Class3D"
    SELECT_3D = "Select3D"
    CLASS_2D = "Class2D"
    SELECT_2D = "Select2D"
    SELECT = "Select"
    MANUAL_PICK = "ManualPick"
    AUTO_PICK = "AutoPick"
    INSPECT = "Inspect"
    EXTRACT = "Extract"
    CURATE = "Curate"
    IMPORT = "Import"
    EXTERNAL = "External"
    UNPICKED = "Unpicked"
    CONSENSUS = "Consensus"
    OTHER = "Other"


CANDIDATE_KINDS = (Kind.AUTO_PICK, Kind.INSPECT, Kind.EXTRACT)
"""Kinds that hold all picks, good and bad, the most complete first."""


@dataclass(frozen=True)
class PickColumn:
    """One optional column of a pick table: its type, its decimals in text, and what it means."""

    dtype: str
    decimals: int
    meaning: str


PICK_COLUMNS: Mapping[str, PickColumn] = {
    "score": PickColumn("float64", 6, "the picker's figure of merit, as it gave it (see score_kind)"),
    "class": PickColumn(
        "int32", 0, "class number as the program counts (RELION from 1, 0 unclassified; CryoSPARC from 0)"
    ),
    "class_posterior": PickColumn("float64", 4, "probability of that class"),
    "uid": PickColumn("uint64", 0, "CryoSPARC's particle uid"),
    "label": PickColumn("int8", 0, "1 positive, -1 negative, 0 unlabeled"),
    "shift_x_px": PickColumn("float64", 3, "refined shift that was subtracted from x, in micrograph pixels"),
    "shift_y_px": PickColumn("float64", 3, "refined shift that was subtracted from y, in micrograph pixels"),
    "psi_deg": PickColumn("float64", 2, "in-plane angle"),
    "optics_group": PickColumn("int32", 0, "optics or exposure group in the source"),
}
"""Columns that a pick table may have beside `micrograph`, `x_px` and `y_px`."""

MICROGRAPH_COLUMNS: Mapping[str, tuple[str, str]] = {
    "name": ("object", "name as the project gives it, usually a path relative to the project"),
    "path": ("object", "absolute path of the file where it was found, None where it is missing"),
    "status": ("object", "found, missing, movie or unreadable"),
    "uid": ("object", "CryoSPARC's exposure uid as text, None where there is none"),
    "ny": ("Int32", "rows"),
    "nx": ("Int32", "columns"),
    "pixel_size_A": ("float64", "of the micrograph, not of extracted boxes"),
    "voltage_kV": ("float64", "acceleration voltage"),
    "cs_mm": ("float64", "spherical aberration"),
    "amplitude_contrast": ("float64", "fraction"),
    "defocus_u_A": ("float64", "underfocus is positive"),
    "defocus_v_A": ("float64", "underfocus is positive"),
    "defocus_angle_deg": ("float64", "of U against x"),
    "phase_shift_deg": ("float64", "of a phase plate"),
}
"""Columns of a micrograph table: (dtype, meaning). All are there always; unknown values are NaN, NA or None."""


@dataclass(frozen=True)
class Provenance:
    """Job or program that the picks are from."""

    program: Program
    project: Path
    """Absolute path of the project (or of the file's folder)."""
    project_name: str
    job: str
    """As the program writes it: `J51`, `job035`."""
    kind: Kind
    job_type: str = ""
    """The program's own word: `nonuniform_refine_new`, `relion.refine3d`."""
    output_group: str = ""
    """CryoSPARC's output group, RELION's file name."""
    suffix: str = ""
    """Suffix that distinguishes this entry from others of its job: `class1`, `excluded`. Empty for the main output."""
    program_version: str = ""
    title: str = ""
    sources: tuple[SourceFile, ...] = ()

    @property
    def entry_name(self) -> str:
        """Return the name of the database entry without its project: `Homo_J51`, `Hetero_J50_class1`."""
        return f"{self.kind.value}_{self.job}" + (f"_{self.suffix}" if self.suffix else "")


@dataclass(frozen=True)
class ExtractedSample:
    """Some extracted particles of a set: enough to compare them with the micrographs that they were cut from.

    Attributes
    ----------
    micrographs : (n,) text
        Name of each particle's micrograph.
    cut_xy_px : (n, 2) float
        Where its box was cut, x first: before any refined shift was subtracted.
    stacks : (n,) text
        Absolute path of the stack of images that holds it.
    sections : (n,) int
        Which image of the stack, from 0.
    box_A
        What a box spans.
    """

    micrographs: tuple[str, ...]
    cut_xy_px: FloatArray
    stacks: tuple[str, ...]
    sections: npt.NDArray[np.int64]
    box_A: float


@dataclass(frozen=True, repr=False)
class PickSet:
    """The picks of one output of one job, grouped by micrograph. Make one with `PickSet.build`.

    Attributes
    ----------
    provenance
        Where the picks are from.
    micrographs : DataFrame
        One row a micrograph, sorted by name; columns as in `MICROGRAPH_COLUMNS`. Micrographs without picks are kept.
    picks : DataFrame
        One row a pick, in order of micrograph and then of the source: `micrograph` (int32, row of `micrographs`),
        `x_px`, `y_px` (float64, the frame of this module), then any of `PICK_COLUMNS`.
    box_px
        Edge of the extraction box in micrograph pixels, None where unknown.
    diameter_A
        Particle diameter, None where unknown.
    score_kind
        What `score` is in its source, such as `rlnAutopickFigureOfMerit` or `pick_stats/ncc_score`.
    counts
        Numbers of dropped picks by reason: `nan`, `outside`, `duplicate`, `no_micrograph`, ...
    notes
        Warnings for the user, such as a convention that could not be confirmed.
    extracted
        Some of the particles as the project extracted them, None where it did not or nobody asked. Not kept in
        databases.
    """

    provenance: Provenance
    micrographs: pd.DataFrame
    picks: pd.DataFrame
    box_px: float | None = None
    diameter_A: float | None = None
    score_kind: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    extracted: ExtractedSample | None = None

    @classmethod
    def build(
        cls,
        provenance: Provenance,
        micrographs: pd.DataFrame,
        picks: pd.DataFrame,
        *,
        box_px: float | None = None,
        diameter_A: float | None = None,
        score_kind: str = "",
        counts: Mapping[str, int] | None = None,
        notes: tuple[str, ...] = (),
        extracted: ExtractedSample | None = None,
    ) -> PickSet:
        """Normalize and check two tables into a `PickSet`.

        Micrographs are sorted by name, picks grouped by micrograph (stable), columns cast to their declared types.
        Picks whose position is NaN or infinite, or lies outside a micrograph of known shape, are dropped and counted
        in `counts["nan"]` and `counts["outside"]`. A pick is inside where `-0.5 <= x < nx - 0.5`, and so for y.

        Raises
        ------
        ValueError
            Where a column is not declared or a pick points to no micrograph: a defect of the caller.
        """
        micrographs, order = _normal_micrographs(micrographs)
        unknown = [c for c in picks.columns if c not in ("micrograph", "x_px", "y_px") and c not in PICK_COLUMNS]
        if unknown:
            raise ValueError(f"undeclared pick columns {unknown}: declare them in PICK_COLUMNS")
        index = picks["micrograph"].to_numpy()
        if len(index) and (index.min() < 0 or index.max() >= len(micrographs)):
            raise ValueError("a pick points to no micrograph")
        new_index = order[index].astype(np.int32) if len(index) else np.zeros(0, np.int32)
        x_px = picks["x_px"].to_numpy(np.float64)
        y_px = picks["y_px"].to_numpy(np.float64)

        if diameter_A is not None and not is_diameter(diameter_A):
            notes = (*notes, f"a diameter of {diameter_A:.3g} A cannot be that of a particle: it is taken for unknown")
            diameter_A = None
        finite, inside = _finite_and_inside(micrographs, new_index, x_px, y_px)
        keep = finite & inside
        tally = dict(counts or {})
        for name, lost in (("nan", ~finite), ("outside", finite & ~inside)):
            if number := int(lost.sum()):
                tally[name] = tally.get(name, 0) + number

        sorted_already = bool(np.all(new_index[1:] >= new_index[:-1]))
        if keep.all() and sorted_already:
            rows: slice | npt.NDArray[np.intp] = slice(None)
        else:
            rows = np.flatnonzero(keep)
            if not sorted_already:
                rows = rows[np.argsort(new_index[rows], kind="stable")]
        table: dict[str, npt.NDArray[np.generic]] = {
            "micrograph": new_index[rows],
            "x_px": x_px[rows],
            "y_px": y_px[rows],
        }
        for name, column in PICK_COLUMNS.items():
            if name in picks.columns:
                table[name] = picks[name].to_numpy()[rows].astype(column.dtype, copy=False)
        return cls(
            provenance,
            micrographs,
            pd.DataFrame(table, copy=False),
            box_px=box_px,
            diameter_A=diameter_A,
            score_kind=score_kind,
            counts=tally,
            notes=notes,
            extracted=extracted,
        )

    def __len__(self) -> int:
        return len(self.picks)

    def __repr__(self) -> str:
        """Return one line: what, how many, on how many micrographs, with which pixel size and diameter."""
        who = self.provenance
        missing = int((self.micrographs["status"] != "found").sum())
        pixel_sizes_A = sorted(set(self.micrographs["pixel_size_A"].dropna().round(4)))
        facts = [f"{len(self)} picks on {len(self.micrographs)} micrographs"]
        facts += [f"{missing} of them not found"] if missing else []
        facts += [f"{'/'.join(f'{p:g}' for p in pixel_sizes_A)} A/px"] if pixel_sizes_A else []
        facts += [f"diameter {self.diameter_A:g} A"] if self.diameter_A else []
        return f"<PickSet {who.project_name}/{who.entry_name}: {', '.join(facts)}>"

    def __getitem__(self, micrograph: str) -> pd.DataFrame:
        """Return the picks of one micrograph, named in full, by file name or by stem."""
        row = self.row_of(micrograph)
        start, stop = self.offsets[row : row + 2]
        return self.picks.iloc[start:stop].drop(columns="micrograph").reset_index(drop=True)

    def row_of(self, micrograph: str) -> int:
        """Return the row in `micrographs` of a micrograph, named in full, by file name or by stem.

        Raises
        ------
        KeyError
            Where none or more than one is called so; the message names similar ones.
        """
        names = self.micrographs["name"].tolist()
        if micrograph in names:
            return names.index(micrograph)
        rows = [i for i, name in enumerate(names) if micrograph in (Path(name).name, Path(name).stem)]
        if len(rows) == 1:
            return rows[0]
        if rows:
            raise KeyError(f"{len(rows)} micrographs are called {micrograph!r}: name one in full, as in `micrographs`")
        near = difflib.get_close_matches(micrograph, [Path(name).stem for name in names], 3, 0.3)
        raise KeyError(f"no micrograph is called {micrograph!r}" + (f"; similar: {', '.join(near)}" if near else ""))

    def to_star(self, path: str | Path) -> Path:
        """Write the picks as a STAR file of particles in RELION's layout; returns its path."""
        from cryoflow.formats.particles_star import write_particles

        return write_particles(self, path)

    def plot(self, micrograph: str, path: str | Path | None = None) -> Figure:
        """Draw the picks of one micrograph on its image, as circles of the diameter.

        Parameters
        ----------
        path
            PNG file to write as well.

        Raises
        ------
        BadInput
            Where the micrograph's file was not found or cannot be read.
        """
        from cryoflow.drawing.figures import plot_picks

        return plot_picks(self, micrograph, path)

    @property
    def is_unconfirmed(self) -> bool:
        """Return whether the picks lie on another program's micrographs without a confirming orientation check."""
        return any(NEEDS_CONFIRMATION in note for note in self.notes)

    @property
    def centers_xy_px(self) -> FloatArray:
        """Return the centers of all picks, (n, 2) float, x first."""
        return self.picks[["x_px", "y_px"]].to_numpy(np.float64)

    @property
    def offsets(self) -> npt.NDArray[np.intp]:
        """Return row offsets, (n + 1,) int: picks of micrograph `i` are rows `offsets[i]:offsets[i + 1]`."""
        return np.searchsorted(self.picks["micrograph"].to_numpy(), np.arange(len(self.micrographs) + 1))

    def by_micrograph(self) -> Iterator[tuple[int, pd.DataFrame]]:
        """Yield each micrograph's row number and its picks, micrographs without picks included."""
        offsets = self.offsets
        for i in range(len(self.micrographs)):
            yield i, self.picks.iloc[offsets[i] : offsets[i + 1]]

    def where(self, keep: npt.NDArray[np.bool_], **changes: object) -> PickSet:
        """Return the picks for which `keep` (n,) is true, all micrographs kept, with any field changed on the way."""
        return replace(self, picks=self.picks[keep].reset_index(drop=True), **changes)  # type: ignore[arg-type]

    def on_micrographs(self, wanted: npt.NDArray[np.bool_]) -> PickSet:
        """Return the micrographs for which `wanted`, (micrographs,), is true, and their picks."""
        new_row = np.cumsum(wanted) - 1
        row = self.picks["micrograph"].to_numpy()
        table = self.picks[wanted[row]].reset_index(drop=True)
        table = table.assign(micrograph=new_row[table["micrograph"].to_numpy()].astype(np.int32))
        return replace(self, micrographs=self.micrographs[wanted].reset_index(drop=True), picks=table)


def require_confirmed(picks: PickSet, remedy: str = "") -> None:
    """Refuse to train on unconfirmed picks: they may be mirrored.

    Sets derived from unconfirmed picks (cleaned, labeled, reviewed, a consensus) keep the note, and are refused too.

    Raises
    ------
    BadInput
        Where `picks.is_unconfirmed`; `remedy` is a further way out.
    """
    if picks.is_unconfirmed:
        raise BadInput(
            f"{picks.provenance.project_name}/{picks.provenance.entry_name}",
            f"is not for training: {UNCONFIRMED}.",
            "Ingest it with the micrographs that were picked, or with the orientation check on." + remedy,
        )


def confirmed_notes(notes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the notes of a set whose picks the orientation check has confirmed.

    >>> confirmed_notes((f"1 micrograph was found under another name: {NEEDS_CONFIRMATION}",))
    ('1 micrograph was found under another name: the orientation check confirms the picks',)
    """
    return tuple(note.replace(NEEDS_CONFIRMATION, CONFIRMED) for note in notes)


SMALLEST_DIAMETER_A, LARGEST_DIAMETER_A = 1.0, 1e5


def is_diameter(value_A: float) -> bool:
    """Return whether a number can be a particle's diameter; files of others hold 0, NaN and 1e300."""
    return SMALLEST_DIAMETER_A <= value_A <= LARGEST_DIAMETER_A


def micrograph_table(columns: Mapping[str, object]) -> pd.DataFrame:
    """Return a micrograph table from the columns that are known; the others are filled with NaN, NA or None.

    Raises
    ------
    ValueError
        Where `name` is missing or a column is not in `MICROGRAPH_COLUMNS`.
    """
    if "name" not in columns or not set(columns) <= set(MICROGRAPH_COLUMNS):
        raise ValueError(f"a micrograph table needs name, and only columns of {list(MICROGRAPH_COLUMNS)}")
    n = len(columns["name"])  # type: ignore[arg-type]
    table: dict[str, object] = {}
    for name, (dtype, _) in MICROGRAPH_COLUMNS.items():
        if name in columns:
            table[name] = pd.Series(columns[name], dtype=dtype)
        elif name == "status":
            table[name] = pd.Series(["missing"] * n, dtype="object")
        else:
            empty: object = {"object": None, "Int32": pd.NA}.get(dtype, np.nan)
            table[name] = pd.Series([empty] * n, dtype=dtype)
    return pd.DataFrame(table)


def _finite_and_inside(
    micrographs: pd.DataFrame, index: npt.NDArray[np.int32], x_px: FloatArray, y_px: FloatArray
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Return which positions are numbers, and which lie on their micrograph; (n,) each, a piece at a time to save
    memory."""
    nx = micrographs["nx"].to_numpy(np.float64, na_value=np.inf)
    ny = micrographs["ny"].to_numpy(np.float64, na_value=np.inf)
    lowest_x, lowest_y = (np.where(np.isinf(size), -np.inf, -0.5) for size in (nx, ny))
    finite, inside = np.empty(len(index), bool), np.empty(len(index), bool)
    for start in range(0, len(index), 1 << 16):
        part = slice(start, start + (1 << 16))
        i, x, y = index[part], x_px[part], y_px[part]
        finite[part] = np.isfinite(x) & np.isfinite(y)
        with np.errstate(invalid="ignore"):
            inside[part] = (x >= lowest_x[i]) & (x < nx[i] - 0.5) & (y >= lowest_y[i]) & (y < ny[i] - 0.5)
    return finite, inside


def _normal_micrographs(micrographs: pd.DataFrame) -> tuple[pd.DataFrame, npt.NDArray[np.intp]]:
    """Return the table sorted by name, and the new row of each old row."""
    if list(micrographs.columns) != list(MICROGRAPH_COLUMNS):
        raise ValueError("make micrograph tables with micrograph_table()")
    names = micrographs["name"].to_numpy()
    by_name = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.intp)
    if len(set(names)) != len(names):
        raise ValueError("two micrographs of one name in a table: merge them first")
    order = np.empty(len(names), np.intp)
    order[by_name] = np.arange(len(names))
    return micrographs.iloc[by_name].reset_index(drop=True), order
