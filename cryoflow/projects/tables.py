"""Tables of picks that no project explains, given by hand with the folder of their micrographs.

| content | reader |
|---|---|
| CryoSPARC datasets (`.cs`, `.csg`) | `cryosparc/standalone.py` |
| RELION particles, or a list of coordinate files | `relion/standalone.py` |
| any other format of `cryoflow.formats.pick_tables` | this module |
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.pick_tables import FilePicks, format_of, read_file
from cryoflow.formats.pick_tables.file_names import is_repeated, negative_suffix
from cryoflow.micrographs.find_micrographs import Finder
from cryoflow.picks import PickSet
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention
from cryoflow.projects.table_folders import TableFolder, TableGroup, tables_of
from cryoflow.projects.table_pickset import TableOptions, pickset_of_tables

_ENOUGH_PICKS = 20
_SHOWN = 3


@dataclass(frozen=True)
class TableReading:
    """Picks read from a table or from a folder of tables.

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
    options = TableOptions(finder, flip_y, scale, flip)
    picksets: list[PickSet] = []
    unread = _Unread()
    for group in folder.groups:
        found = _sets_of(path, group, places, remaps, options, unread)
        if not found and not group.suffix:
            raise unread.first  # without the main set, rejected picks would stand in its place
        picksets += found
    if not picksets:
        raise unread.first
    if added := (*unread.notes, *folder.notes):
        picksets[0] = replace(picksets[0], notes=(*picksets[0].notes, *added))
    failures = [f"not read: {error}" for error in unread.errors]
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


@dataclass(frozen=True)
class _Unread:
    """Files of a folder without a set of picks: failures, and files that are no tables of picks."""

    errors: list[CryoflowError] = field(default_factory=list)
    strangers: list[CryoflowError] = field(default_factory=list)

    @property
    def first(self) -> CryoflowError:
        """Return the error to raise where nothing was read."""
        return [*self.errors, *self.strangers][0]

    @property
    def notes(self) -> tuple[str, ...]:
        """Return a note on files that are no tables of picks."""
        if not self.strangers:
            return ()
        n = len(self.strangers)
        return (f"no table of picks, and not read: {n} files of the folder: {self.strangers[0]}",)

    def add(self, error: CryoflowError) -> None:
        """Record why a file was not read."""
        (self.strangers if isinstance(error, MissingMetadata) else self.errors).append(error)


def _sets_of(
    path: Path,
    group: TableGroup,
    places: Path | None,
    remaps: dict[str, str],
    options: TableOptions,
    unread: _Unread,
) -> list[PickSet]:
    """Return the sets of picks of a group of files: one for all tables of the same kind, one for each dataset."""
    read: list[tuple[Path, FilePicks]] = []
    picksets: list[PickSet] = []
    done: set[Path] = set()
    for part in sorted(group.files, key=lambda part: ("passthrough" in part.name, part)):
        if part in done:
            continue
        try:
            form = format_of(part)
            if form is not None and form.project_reader == "cryosparc":
                picksets.append(_dataset(part, places, options, remaps, done))
                continue
            is_relion = form is not None and form.project_reader == "relion"
            if is_relion and options.flip_y is None and options.scale == 1.0 and len(group.files) == 1:
                from cryoflow.projects.relion.standalone import is_relion_table, read_standalone

                if is_relion_table(part):
                    picksets.append(read_standalone(part, places, remaps, options.flip))
                    continue
            picks = read_file(part)
            if is_relion and picks.micrographs is not None:  # the many files of one micrograph each have no shifts
                picks = _without_shifts(part, picks, places, remaps, options.scale)
            read.append((part, picks))
        except CryoflowError as error:
            unread.add(error)
    if read:
        try:
            picksets.insert(0, pickset_of_tables(path, read, options))
        except CryoflowError as error:
            if not group.suffix:
                raise
            unread.errors.append(error)
    return [_marked(pickset, group) for pickset in picksets]


def _without_shifts(
    part: Path, picks: FilePicks, places: Path | None, remaps: dict[str, str], scale: float
) -> FilePicks:
    """Return the picks of a RELION table, its refined shifts subtracted where it has some."""
    from cryoflow.projects.relion.standalone import has_shifts, is_relion_table, read_shifted, refuse_shifts

    if not (is_relion_table(part) and has_shifts(part)):
        return picks
    if scale != 1.0:
        refuse_shifts(part)
        return picks
    return read_shifted(part, places, remaps)


def _marked(pickset: PickSet, group: TableGroup) -> PickSet:
    """Return a set with the suffix and the label of its group."""
    if not group.suffix:
        return pickset
    picks = pickset.picks.copy()
    picks["label"] = np.full(len(picks), group.label, np.int8)
    return replace(pickset, picks=picks, provenance=replace(pickset.provenance, suffix=group.suffix))


def _dataset(
    path: Path, places: Path | None, options: TableOptions, remaps: dict[str, str], done: set[Path]
) -> PickSet:
    from cryoflow.projects.cryosparc.standalone import read_standalone

    if options.flip_y is not None or options.scale != 1.0:
        raise BadInput(path, "says itself where its particles are: it is neither turned nor scaled while read.")
    pickset = read_standalone(path, Finder(places, remaps) if places else None, options.flip)
    done.update(source.path for source in pickset.provenance.sources)
    return pickset
