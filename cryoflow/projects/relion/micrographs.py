"""The micrograph table of a set of picks: every micrograph that was searched, with the best that is known of each.

The pixel size comes from the first of these that has it: the optics of the file itself; the tables of micrographs
that the job goes back to, by micrograph name, then by the name of the optics group; the MRC header; the movie's pixel
size times the binning of motion correction. Else it is unknown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_table
from cryoflow.formats.star_blocks import walk
from cryoflow.micrographs.find_micrographs import Finder, notes_on_other_names
from cryoflow.micrographs.header import MicrographHeader, micrograph_status
from cryoflow.picks import micrograph_table
from cryoflow.projects.relion.optics import NAN, OLD_COLUMNS, Optics, merged, optics_of_row, read_optics
from cryoflow.system.threads import on_each_file

_CTF_COLUMNS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle", "rlnPhaseShift")
_FEW_FILES = 64


@dataclass(frozen=True)
class RelionCtf:
    """Defocus of one micrograph; what is not known is NaN."""

    defocus_u_A: float = NAN
    defocus_v_A: float = NAN
    defocus_angle_deg: float = NAN
    phase_shift_deg: float = NAN


@dataclass(frozen=True)
class Tabulated:
    """A micrograph table, the pixel size of each MRC header (NaN where unknown), and notes."""

    table: pd.DataFrame
    header_pixel_size_A: npt.NDArray[np.float64]
    notes: list[str]


@dataclass(frozen=True)
class KnownMicrographs:
    """Values from tables of micrographs, by micrograph name and by the name of the optics group."""

    names: tuple[str, ...] = ()
    """In the first of the tables."""
    optics: Mapping[str, Optics] = field(default_factory=dict)
    ctf: Mapping[str, RelionCtf] = field(default_factory=dict)
    optics_of_group: Mapping[str, Optics] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    """Motion correction's own file on a micrograph, by micrograph name."""
    notes: tuple[str, ...] = ()


def read_micrograph_stars(paths: Sequence[Path]) -> KnownMicrographs:
    """Bring tables of micrographs together, the first has the word. Tables that are gone are passed over."""
    names: tuple[str, ...] = ()
    optics: dict[str, Optics] = {}
    ctf: dict[str, RelionCtf] = {}
    of_group: dict[str, Optics] = {}
    metadata: dict[str, str] = {}
    notes: list[str] = []
    for path in paths:
        try:
            os.stat(path)
            found, groups, files = _read_one(path)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue
        except OSError as error:
            notes.append(f"{path.name} of {path.parent.name} could not be used: {error.strerror or error}")
            continue
        except BadInput as error:
            notes.append(f"{path.name} of {path.parent.name} could not be used: {error.reason}")
            continue
        names = names or tuple(found)
        metadata = files | metadata
        for name, (its_optics, its_ctf) in found.items():
            optics[name] = merged(optics[name], its_optics) if name in optics else its_optics
            if name not in ctf or math.isnan(ctf[name].defocus_u_A):
                ctf[name] = its_ctf
        for group in groups:
            of_group[group.name] = merged(of_group[group.name], group) if group.name in of_group else group
    return KnownMicrographs(names, optics, ctf, of_group, metadata, tuple(notes))


def _read_one(path: Path) -> tuple[dict[str, tuple[Optics, RelionCtf]], list[Optics], dict[str, str]]:
    optional = ["rlnOpticsGroup", "rlnMicrographMetadata", *_CTF_COLUMNS, *OLD_COLUMNS]
    table = read_table(path, None, ["rlnMicrographName"], optional=optional)
    groups = read_optics(path) if any(block.name == "optics" for block in walk(path)) else {}
    found: dict[str, tuple[Optics, RelionCtf]] = {}
    values = [np.asarray(table[c], np.float64) if c in table else None for c in _CTF_COLUMNS]
    for row, name in enumerate(table["rlnMicrographName"]):
        optics = optics_of_row(groups, table, row)
        if math.isnan(optics.micrograph_pixel_size_A):  # in a table of micrographs, the pixel is the micrograph's
            optics = merged(optics, Optics(micrograph_pixel_size_A=optics.image_pixel_size_A))
        found[str(name)] = (optics, RelionCtf(*(NAN if v is None else float(v[row]) for v in values)))
    files = table.get("rlnMicrographMetadata", ())
    metadata = {str(name): str(file) for name, file in zip(table["rlnMicrographName"], files, strict=False)}
    return found, list(groups.values()), metadata


def tabulate(
    own: Mapping[str, tuple[Optics, RelionCtf]],
    known: KnownMicrographs,
    searched: Sequence[str],
    finder: Finder,
    binning: float | None,
) -> Tabulated:
    """Return the table, sorted by name, and notes on what was fallen back to.

    Parameters
    ----------
    own
        Values of each micrograph in the file with the picks.
    known
        What tables of micrographs say.
    searched
        Names of all micrographs in which particles were looked for.
    binning
        Of motion correction; None where unknown.
    """
    names = sorted({*own, *searched})
    paths = [finder.find(name) for name in names]
    statuses = _statuses(paths)
    rows: list[dict[str, object]] = []
    fell_back: dict[str, int] = {}
    for name, path, (status, header) in zip(names, paths, statuses, strict=True):
        optics, ctf = own.get(name, (Optics(), RelionCtf()))
        if name in known.optics:
            optics = merged(optics, known.optics[name])
        if optics.name and optics.name in known.optics_of_group:
            optics = merged(optics, known.optics_of_group[optics.name])
        if math.isnan(ctf.defocus_u_A):
            ctf = known.ctf.get(name, ctf)
        pixel_size_A = optics.micrograph_pixel_size_A
        header_size_A = header.pixel_size_A if header else None
        if math.isnan(pixel_size_A) and header_size_A:
            pixel_size_A = header_size_A
            fell_back["their MRC headers"] = fell_back.get("their MRC headers", 0) + 1
        elif math.isnan(pixel_size_A) and binning and not math.isnan(optics.movie_pixel_size_A):
            pixel_size_A = optics.movie_pixel_size_A * binning
            fell_back["the movies' times the binning"] = fell_back.get("the movies' times the binning", 0) + 1
        rows.append(
            {
                "name": name,
                "path": str(path) if path and status in ("found", "movie", "unreadable") else None,
                "status": status,
                "uid": None,
                "ny": header.shape_yx[0] if header else None,
                "nx": header.shape_yx[1] if header else None,
                "pixel_size_A": pixel_size_A,
                "voltage_kV": optics.voltage_kV,
                "cs_mm": optics.cs_mm,
                "amplitude_contrast": optics.amplitude_contrast,
                **vars(ctf),
            }
        )
    notes = [f"pixel size of {n} micrographs from {source}" for source, n in fell_back.items()]
    notes += notes_on_other_names(
        names, [p if s == "found" else None for p, (s, _) in zip(paths, statuses, strict=True)]
    )
    if unknown := sum(1 for row in rows if math.isnan(float(str(row["pixel_size_A"])))):
        notes.append(f"pixel size of {unknown} micrographs is not known")
    columns = rows[0].keys() if rows else ["name"]
    table = {c: [row[c] for row in rows] for c in columns}
    header_sizes = [NAN if header is None else header.pixel_size_A or NAN for _, header in statuses]
    return Tabulated(micrograph_table(table), np.array(header_sizes, np.float64), notes)


def _statuses(paths: Sequence[Path | None]) -> list[tuple[str, MicrographHeader | None]]:
    """Return status and header of each file; many are read side by side, since a network file system answers slowly."""
    if len(paths) < _FEW_FILES or all(path is None for path in paths):
        return [micrograph_status(path) for path in paths]
    return on_each_file(micrograph_status, paths)
