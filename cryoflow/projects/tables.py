"""Tables of picks that no project explains, given by hand with the folder of their micrographs.

| content | reader |
|---|---|
| CryoSPARC datasets (`.cs`, `.csg`) | `cryosparc/standalone.py` |
| RELION particles, or a list of coordinate files | `relion/standalone.py` |
| any other format of `cryoflow.formats.pick_tables` | this module |
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.pick_tables import FilePicks, format_of, read_file
from cryoflow.formats.pick_tables.file_names import is_repeated, negative_suffix, without_appended
from cryoflow.formats.pick_tables.text import median
from cryoflow.micrographs.find_micrographs import Finder, notes_on_other_names
from cryoflow.micrographs.header import is_pixel_size, micrograph_status
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention, apply
from cryoflow.projects.duplicates import distance_px, fold_duplicates
from cryoflow.projects.found import standalone_job
from cryoflow.projects.table_folders import TableFolder, TableGroup, tables_of
from cryoflow.storage.fingerprints import source_file

_ENOUGH_PICKS = 20
_SHOWN = 3


@dataclass(frozen=True)
class TableReading:
    """What was read of a table or of a folder of tables.

    Attributes
    ----------
    picksets
        The main set first; then sets of picks that are labeled as no particles.
    failures
        What went wrong with a part of it: files that could not be read, micrographs that were not found in the folder
        that was named.
    """

    picksets: tuple[PickSet, ...]
    failures: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Options:
    finder: Finder
    flip_y: bool | None
    scale: float
    flip: AxisConvention


def read_tables(
    file: str | Path,
    micrographs_dir: str | Path | None = None,
    *,
    remaps: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    flip_y: bool | None = None,
    scale: float = 1.0,
    flip: AxisConvention = AS_STORED,
) -> TableReading:
    """Read one file, or a folder of files with one file a micrograph.

    Parameters
    ----------
    file
        A table of any format of `cryoflow.formats.pick_tables`, or a folder of them.
    micrographs_dir
        Where the micrographs are, with their folders below it. Without it, names are looked for beside the file, and
        those that are not found are kept as missing.
    remaps
        Old folder -> new folder of micrographs that were moved.
    flip_y
        Whether y counts from the last stored row. By default only for CryoPPP's labels, which do.
    scale
        What positions are multiplied with: the downsampling under which a Topaz table was made.
    flip
        What brings positions into the frame, where the file has another convention than its format.

    Raises
    ------
    BadInput
        Where nothing can be read. Of a folder, files that cannot be read are among the failures.
    MissingMetadata
        Where a needed value is not there: a micrograph's shape for `flip_y`, positions in a dataset.
    """
    path = Path(os.path.abspath(file))  # noqa: PTH100 (links stay as they are named)
    places = Path(os.path.abspath(micrographs_dir)) if micrographs_dir is not None else None  # noqa: PTH100
    if places is not None and not places.is_dir():
        raise BadInput(places, "is not a folder.", "Name the folder that holds the micrographs.")
    remaps = dict(remaps)
    if path.is_dir():
        folder = tables_of(path)
    else:
        suffix = negative_suffix(path)
        notes = ("holds near repeats of picks",) if is_repeated(path) else ()
        folder = TableFolder((TableGroup((path,), suffix, -1 if suffix else None),), notes=notes)
    places = places or folder.micrographs
    finder = Finder(places or (path if path.is_dir() else path.parent), remaps)
    options = _Options(finder, flip_y, scale, flip)
    picksets: list[PickSet] = []
    failures: list[str] = []
    for group in folder.groups:
        picksets += _sets_of(path, group, places, remaps, options, failures)
    if folder.notes:
        picksets[0] = replace(picksets[0], notes=(*picksets[0].notes, *folder.notes))
    if places is not None and (lost := _nothing_found(picksets, places, finder)):
        failures.append(lost)
    return TableReading(tuple(picksets), tuple(failures))


def read_table_of_picks(file: str | Path, micrographs_dir: str | Path | None = None, **options: Any) -> PickSet:
    """Return the main set of picks of a table or of a folder of tables; options are those of `read_tables`.

    Raises
    ------
    BadInput
        Where it cannot be read as a whole.
    """
    reading = read_tables(file, micrographs_dir, **options)
    main = reading.picksets[0]
    return replace(main, notes=(*main.notes, *reading.failures)) if reading.failures else main


def corner(pickset: PickSet) -> str:
    """Return a sentence where all picks lie in the first corner of their micrographs, as on smaller copies.

    Chance puts so many into one quarter of their micrographs less than once in a million million times.
    """
    shapes = pickset.micrographs[["nx", "ny"]].to_numpy(np.float64, na_value=np.nan)[pickset.picks["micrograph"]]
    reach = float((pickset.centers_xy_px / shapes).max()) if len(pickset) >= _ENOUGH_PICKS else np.nan
    if not 0 < reach < 0.5:
        return ""
    return (
        f"all picks lie in the first {reach:.0%} of their micrographs: were they made on smaller copies? "
        f"Then read the table again with --scale, of at most {int(1 / reach)}"
    )


def _nothing_found(picksets: Sequence[PickSet], places: Path, finder: Finder) -> str:
    """Return a sentence where no micrograph with picks is in the folder that was named for them."""
    names = sorted({str(name) for pickset in picksets for name in pickset.micrographs["name"]})
    if not names or any((pickset.micrographs["path"].notna()).any() for pickset in picksets):
        return ""
    there = ", ".join(finder.some_names) or "no image"
    count = "its micrograph was" if len(names) == 1 else f"none of its {len(names)} micrographs was"
    found = "not found" if len(names) == 1 else "found"
    return f"{count} {found} in {places}: looked for {', '.join(names[:_SHOWN])}; there is {there}"


def _sets_of(
    path: Path,
    group: TableGroup,
    places: Path | None,
    remaps: dict[str, str],
    options: _Options,
    failures: list[str],
) -> list[PickSet]:
    """Return the sets of picks of a group of files: one for all tables of the same kind, one for each dataset."""
    read: list[tuple[Path, FilePicks]] = []
    picksets: list[PickSet] = []
    errors: list[CryoflowError] = []
    strangers: list[CryoflowError] = []
    done: set[Path] = set()
    for part in sorted(group.files, key=lambda part: ("passthrough" in part.name, part)):
        if part in done:
            continue
        try:
            form = format_of(part)
            if form is not None and form.project_reader == "cryosparc":
                picksets.append(_dataset(part, places, options, remaps, done))
                continue
            plain = options.flip_y is None and options.scale == 1.0
            if form is not None and form.project_reader == "relion" and plain and len(group.files) == 1:
                from cryoflow.projects.relion.standalone import is_relion_table, read_standalone

                if is_relion_table(part):
                    picksets.append(read_standalone(part, places, remaps, options.flip))
                    continue
            read.append((part, read_file(part)))
        except CryoflowError as error:
            (strangers if isinstance(error, MissingMetadata) and len(group.files) > 1 else errors).append(error)
    if read:
        picksets.insert(0, _pickset(path, read, options))
    if not picksets:
        raise [*errors, *strangers][0]
    failures += [f"not read: {error}" for error in errors]
    if strangers:
        note = f"no table of picks, and not read: {len(strangers)} files of the folder: {strangers[0]}"
        picksets[0] = replace(picksets[0], notes=(*picksets[0].notes, note))
    return [_marked(pickset, group) for pickset in picksets]


def _marked(pickset: PickSet, group: TableGroup) -> PickSet:
    """Return a set with the suffix and the label of its group."""
    if not group.suffix:
        return pickset
    picks = pickset.picks.copy()
    picks["label"] = np.full(len(picks), group.label, np.int8)
    return replace(pickset, picks=picks, provenance=replace(pickset.provenance, suffix=group.suffix))


def _dataset(path: Path, places: Path | None, options: _Options, remaps: dict[str, str], done: set[Path]) -> PickSet:
    from cryoflow.projects.cryosparc.standalone import read_standalone

    if options.flip_y is not None or options.scale != 1.0:
        raise BadInput(path, "says itself where its particles are: it is neither turned nor scaled while read.")
    pickset = read_standalone(path, Finder(places, remaps) if places else None, options.flip)
    done.update(source.path for source in pickset.provenance.sources)
    return pickset


def _pickset(path: Path, read: list[tuple[Path, FilePicks]], options: _Options) -> PickSet:
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
    own_size_A = sizes_A.pop() if len(sizes_A) == 1 else np.nan
    table = {
        "name": [shown[i] for i in keep],
        "path": [str(found[i]) if found[i] else None for i in keep],
        "status": [statuses[i][0] for i in keep],
        "ny": [h.shape_yx[0] if (h := statuses[i][1]) else None for i in keep],
        "nx": [h.shape_yx[1] if (h := statuses[i][1]) else None for i in keep],
        "pixel_size_A": [(h.pixel_size_A if (h := statuses[i][1]) else None) or own_size_A for i in keep],
    }
    micrographs = micrograph_table(table)
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
        notes.append("segments of helices: neighbours overlap on purpose")
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
