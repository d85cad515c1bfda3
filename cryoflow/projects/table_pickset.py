"""Make one set of picks of the tables that lie in one folder, with the micrographs that their names lead to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import MissingMetadata
from cryoflow.formats.pick_tables import FilePicks
from cryoflow.formats.pick_tables.file_names import without_appended
from cryoflow.formats.pick_tables.text import median
from cryoflow.micrographs.find_micrographs import Finder, notes_on_other_names
from cryoflow.micrographs.header import (
    MicrographHeader,
    believable_pixel_size,
    is_pixel_size,
    micrograph_status,
)
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.projects.axis_convention import AxisConvention, apply
from cryoflow.projects.duplicates import HELICAL_NOTE, distance_px, fold_duplicates
from cryoflow.projects.found import standalone_job
from cryoflow.storage.fingerprints import source_file

_SAME_PIXEL_SIZE = 0.01
"""Pixel sizes that differ by a smaller share are one."""


@dataclass(frozen=True)
class TableOptions:
    """Options for reading tables: where micrographs are found, and what is done to positions."""

    finder: Finder
    flip_y: bool | None
    scale: float
    flip: AxisConvention


def pickset_of_tables(path: Path, read: list[tuple[Path, FilePicks]], options: TableOptions) -> PickSet:
    """Return one set of the picks of several tables, read already, of a folder `path`."""
    finder = options.finder
    names = np.concatenate([_names(part, picks) for part, picks in read])
    distinct, index = np.unique(names, return_inverse=True) if len(names) else (np.zeros(0, object), np.zeros(0, int))
    empty = {_own_name(part, picks) for part, picks in read if picks.micrographs is None and not len(picks)}
    given = [*map(str, distinct), *sorted(empty - set(map(str, distinct)))]
    found = [finder.find_named(name) for name in given]
    statuses = [micrograph_status(place) for place in found]
    plain = [without_appended(name) if name in _own_names(read) else name for name in given]
    shown = [str(place.name) if place else name for name, place in zip(plain, found, strict=True)]
    if len({(name, place) for name, place in zip(shown, found, strict=True)}) > len(set(shown)):
        # one base name in two folders
        shown = [str(place) if place else name for name, place in zip(plain, found, strict=True)]
    merged = {name: row for row, name in reversed(list(enumerate(shown)))}
    keep = sorted(merged.values())
    row_of = {row: new for new, row in enumerate(keep)}
    to_row = np.array([row_of[merged[name]] for name in shown], np.int32)
    sizes_A = {picks.pixel_size_A for _, picks in read if is_pixel_size(picks.pixel_size_A or 0)}
    own_size_A = sizes_A.pop() if len(sizes_A) == 1 else None
    table = {
        "name": [shown[i] for i in keep],
        "path": [str(found[i]) if found[i] else None for i in keep],
        "status": [statuses[i][0] for i in keep],
        "ny": [h.shape_yx[0] if (h := statuses[i][1]) else None for i in keep],
        "nx": [h.shape_yx[1] if (h := statuses[i][1]) else None for i in keep],
        "pixel_size_A": [_pixel_size_A(statuses[i][1], own_size_A) for i in keep],
    }
    micrographs = micrograph_table(table)
    used_A = micrographs["pixel_size_A"].dropna()
    other_A = used_A[abs(used_A / own_size_A - 1) > _SAME_PIXEL_SIZE].tolist() if own_size_A else []
    columns: dict[str, npt.NDArray[np.generic]] = {"micrograph": to_row[index] if len(index) else np.zeros(0, np.int32)}
    columns["x_px"] = _joined(read, "x_px") * options.scale
    columns["y_px"] = _joined(read, "y_px") * options.scale
    flip_y = options.flip_y
    flips = np.repeat([p.y_is_flipped if flip_y is None else flip_y for _, p in read], [len(p) for _, p in read])
    notes = _flip(path, columns, flips.astype(bool), micrographs, asked=flip_y is not None)
    for ours, theirs in (("score", "score"), ("psi_deg", "psi_deg"), ("class", "class_number")):
        if any(getattr(picks, theirs) is not None for _, picks in read):
            columns[ours] = _joined(read, theirs)
    if any(picks.label is not None for _, picks in read):
        columns["label"] = np.repeat([p.label or 0 for _, p in read], [len(p) for _, p in read])
    is_helical = any(picks.is_helical for _, picks in read)
    if is_helical:
        notes.append(HELICAL_NOTE)
    if other_A:
        notes.append(
            f"it states {own_size_A:.6g} A a pixel, and its micrographs have {other_A[0]:.6g} A: were its picks made "
            f"on copies of another size? Then read it with --scale {own_size_A / other_A[0]:.6g}"
        )
    notes += _merged_notes([picks.notes for _, picks in read])
    notes += notes_on_other_names([plain[i] for i in keep], [found[i] for i in keep])
    notes += apply(columns, micrographs, options.flip, path)
    formats = sorted({picks.format for _, picks in read})
    box_px = _common("box", [picks.box_px for _, picks in read], micrographs, notes)
    diameter_px = _common("diameter", [picks.diameter_px for _, picks in read], micrographs, notes)
    sizes = micrographs["pixel_size_A"].dropna().unique()
    box_px = box_px * options.scale if box_px else None
    diameter_A = float(diameter_px * options.scale * sizes[0]) if diameter_px and len(sizes) == 1 else None
    counts: Counter[str] = Counter()
    for _, picks in read:
        counts.update(picks.counts)
    counts["duplicate"] += fold_duplicates(columns, distance_px(diameter_A, sizes, box_px, is_helical=is_helical))
    return PickSet.build(
        _provenance(path, read, ", ".join(formats)),
        micrographs,
        pd.DataFrame(columns),
        box_px=box_px,
        diameter_A=diameter_A,
        counts={name: number for name, number in counts.items() if number},
        score_kind=next((p.score_kind for _, p in read if p.score is not None), ""),
        notes=(f"read as {', '.join(formats)}", *dict.fromkeys(notes)),
    )


def _pixel_size_A(header: MicrographHeader | None, own_size_A: float | None) -> float | None:
    """Return the pixel size of a micrograph: its header's, else the table's own; an unset header has 1 A or none."""
    in_header_A = header.pixel_size_A if header else None
    return believable_pixel_size(in_header_A) or own_size_A or in_header_A


def _merged_notes(of_files: Sequence[tuple[str, ...]]) -> list[str]:
    """Return the notes of several files, each once, with the number of files that have it."""
    tally = Counter(note for notes in of_files for note in dict.fromkeys(notes))
    return [f"{note} (in {n} of {len(of_files)} files)" if len(of_files) > 1 else note for note, n in tally.items()]


def _provenance(path: Path, read: list[tuple[Path, FilePicks]], formats: str) -> Provenance:
    return Provenance(
        program="file",
        project=path.parent,
        project_name=path.parent.name or "file",
        job=standalone_job(path),
        kind=Kind.IMPORT,
        job_type=formats,
        output_group=path.name,
        sources=tuple(source_file(part) for part, _ in read),
    )


def _own_name(part: Path, picks: FilePicks) -> str:
    """Return the micrograph of a file that names none for its picks: that of a comment, else as the file is called."""
    return picks.micrograph or part.stem


def _own_names(read: list[tuple[Path, FilePicks]]) -> set[str]:
    return {part.stem for part, picks in read if picks.micrographs is None}


def _names(part: Path, picks: FilePicks) -> npt.NDArray[np.object_]:
    """Return the micrograph of each pick."""
    if picks.micrographs is not None:
        return picks.micrographs
    return np.array([_own_name(part, picks)] * len(picks), object)


def _joined(read: list[tuple[Path, FilePicks]], column: str) -> npt.NDArray[np.float64]:
    parts = [getattr(picks, column) for _, picks in read]
    sizes = [len(picks) for _, picks in read]
    unknown = 0.0 if column == "class_number" else np.nan
    return np.concatenate([np.full(n, unknown) if p is None else p for p, n in zip(parts, sizes, strict=True)])


def _flip(
    path: Path,
    columns: dict[str, npt.NDArray[np.generic]],
    flips: npt.NDArray[np.bool_],
    micrographs: pd.DataFrame,
    *,
    asked: bool,
) -> list[str]:
    """Mirror y of those picks, in place; the pixel row of y is then `ny - 1 - y`."""
    if not flips.any():
        return []
    ny = micrographs["ny"].to_numpy(np.float64, na_value=np.nan)[columns["micrograph"]]
    if np.isnan(ny[flips]).any():
        rows = np.asarray(columns["micrograph"], np.int64)[flips & np.isnan(ny)]
        first = micrographs["name"].iloc[int(rows[0])]
        raise MissingMetadata(
            path,
            f"counts y from the last row of micrographs, and the height of {first} is not known: it was not found.",
            "Name the folder of its micrographs with --micrographs.",
        )
    columns["y_px"] = np.where(flips, ny - 1 - columns["y_px"].astype(np.float64), columns["y_px"].astype(np.float64))
    return ["y was turned around, as asked" if asked else "y was turned around: CryoPPP counts it from the last row"]


def _common(what: str, values: list[float | None], micrographs: pd.DataFrame, notes: list[str]) -> float | None:
    """Return the median size of several files in pixels; None, with a note, where it is larger than all micrographs."""
    size_px = median(np.array([value for value in values if value], np.float64))
    edges = micrographs[["ny", "nx"]].to_numpy(np.float64, na_value=np.nan)
    if size_px and np.isfinite(edges).any() and size_px > np.nanmax(edges):
        notes.append(f"a {what} of {size_px:.6g} pixels is larger than the micrographs: it was taken for unknown")
        return None
    return size_px
