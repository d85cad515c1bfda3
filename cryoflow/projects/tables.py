"""A lone table of picks, given by hand with the folder of its micrographs: any format, told by its content.

| content | reader |
|---|---|
| CryoSPARC dataset (`.cs`) or group (`.csg`) | `cryosparc/lone.py` |
| RELION particles, or a list of coordinate files | `relion/lone.py` |
| anything else with positions (STAR, .box, .cbox, Topaz, CSV ...) | `coordinate_files.py` |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.micrographs.find import Finder
from cryoflow.micrographs.header import micrograph_status
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.projects.coordinate_files import FilePicks, read_coordinate_file
from cryoflow.projects.duplicates import distance_px, fold_duplicates
from cryoflow.projects.flip import NO_FLIP, Flip, turn
from cryoflow.projects.found import lone_job
from cryoflow.storage import inputs
from cryoflow.storage.fingerprints import source_file

_TABLE_ENDINGS = (".star", ".box", ".cbox", ".txt", ".csv", ".tsv", ".coord", ".thi")
_IMAGE_ENDINGS = (".mrc", ".map", ".tif", ".tiff", ".eer", ".mrcs")
_ENOUGH_PICKS = 20
_PICKER_ENDINGS = re.compile(
    r"_(autopick\w*|manualpick|extract|reextract|picks|particles|topaz\w*|cryolo|boxnet\w*|warp)$", re.IGNORECASE
)


def read_table_of_picks(
    file: str | Path,
    micrographs_dir: str | Path | None = None,
    *,
    remaps: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    flip_y: bool | None = None,
    scale: float = 1.0,
    flip: Flip = NO_FLIP,
) -> PickSet:
    """The picks of one file, or of a folder of files with one file a micrograph.

    Parameters
    ----------
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
        Where the content is none that is known, or is damaged.
    MissingMetadata
        Where a needed value is not there: a micrograph's shape for `flip_y`, positions in a dataset.
    """
    path = Path(os.path.abspath(file))  # noqa: PTH100 (links stay as they are named)
    places = Path(os.path.abspath(micrographs_dir)) if micrographs_dir is not None else None  # noqa: PTH100
    if places is not None and not places.is_dir():
        raise BadInput(places, "is not a folder.", "Name the folder that holds the micrographs.")
    if not path.is_dir() and _is_cryosparc(path):
        from cryoflow.projects.cryosparc.lone import read_lone

        if flip_y is not None or scale != 1.0:
            raise BadInput(path, "says itself where its particles are: it is neither turned nor scaled while read.")
        return read_lone(path, Finder(places, dict(remaps)) if places else None, flip)
    if not path.is_dir() and flip_y is None and scale == 1.0:
        from cryoflow.projects.relion.lone import is_relion_table, read_lone_star

        if is_relion_table(path):
            return read_lone_star(path, places, dict(remaps), flip)
    files = _files_of(path)
    read = [(part, read_coordinate_file(part)) for part in files]
    finder = Finder(places or (path if path.is_dir() else path.parent), dict(remaps))
    return _pickset(path, read, finder, flip_y, scale, flip)


def corner(pickset: PickSet) -> str:
    """A sentence where all picks lie in the first corner of their micrographs, as those made on smaller copies do.

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


def _is_cryosparc(path: Path) -> bool:
    try:
        with inputs.opened(path) as file:
            head = file.read(8)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    return head.startswith((b"\x93NUMPY", b"\x95CSDAT", b"\x94CSDAT")) or path.suffix in (".cs", ".csg")


def _files_of(path: Path) -> list[Path]:
    """The file, or those of a folder that can be tables of picks."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.iterdir() if p.suffix.lower() in _TABLE_ENDINGS and not p.name.startswith("."))
    if not files:
        raise BadInput(path, f"holds no table of picks ({', '.join(_TABLE_ENDINGS)}).")
    return files


def _pickset(
    path: Path, read: list[tuple[Path, FilePicks]], finder: Finder, flip_y: bool | None, scale: float, flip: Flip
) -> PickSet:
    names = np.concatenate([_names(part, picks) for part, picks in read])
    distinct, index = np.unique(names, return_inverse=True) if len(names) else (np.zeros(0, object), np.zeros(0, int))
    empty = {_stem(part) for part, picks in read if picks.micrographs is None and not len(picks.x_px)}
    given = [*map(str, distinct), *sorted(empty - set(map(str, distinct)))]
    found = [_find(finder, name) for name in given]
    statuses = [micrograph_status(place) for place in found]
    shown = [str(place.name) if place else name for name, place in zip(given, found, strict=True)]
    if len(set(shown)) < len(shown):  # one base name in two folders
        shown = [str(place) if place else name for name, place in zip(given, found, strict=True)]
    merged = {name: row for row, name in reversed(list(enumerate(shown)))}
    keep = sorted(merged.values())
    row_of = {row: new for new, row in enumerate(keep)}
    to_row = np.array([row_of[merged[name]] for name in shown], np.int32)
    table = {
        "name": [shown[i] for i in keep],
        "path": [str(found[i]) if found[i] else None for i in keep],
        "status": [statuses[i][0] for i in keep],
        "ny": [h.shape_yx[0] if (h := statuses[i][1]) else None for i in keep],
        "nx": [h.shape_yx[1] if (h := statuses[i][1]) else None for i in keep],
        "pixel_size_A": [h.pixel_size_A if (h := statuses[i][1]) and h.pixel_size_A else np.nan for i in keep],
    }
    micrographs = micrograph_table(table)
    columns: dict[str, npt.NDArray[np.generic]] = {"micrograph": to_row[index] if len(index) else np.zeros(0, np.int32)}
    columns["x_px"] = _joined(read, "x_px") * scale
    columns["y_px"] = _joined(read, "y_px") * scale
    flips = np.repeat([p.y_is_flipped if flip_y is None else flip_y for _, p in read], [len(p.x_px) for _, p in read])
    notes = _flip(path, columns, flips.astype(bool), micrographs, said=flip_y is not None)
    for ours, theirs in (("score", "score"), ("psi_deg", "psi_deg"), ("class", "class_number")):
        if any(getattr(picks, theirs) is not None for _, picks in read):
            columns[ours] = _joined(read, theirs)
    is_helical = any(picks.is_helical for _, picks in read)
    if is_helical:
        notes.append("segments of helices: neighbours overlap on purpose")
    notes += turn(columns, micrographs, flip, path)
    formats = sorted({picks.format for _, picks in read})
    box_px = _common([picks.box_px for _, picks in read])
    diameter_px = _common([picks.diameter_px for _, picks in read])
    sizes = micrographs["pixel_size_A"].dropna().unique()
    box_px = box_px * scale if box_px else None
    diameter_A = float(diameter_px * scale * sizes[0]) if diameter_px and len(sizes) == 1 else None
    closest_px = distance_px(diameter_A, sizes, box_px, is_helical=is_helical)
    counts = {"duplicate": n} if (n := fold_duplicates(columns, closest_px)) else {}
    return PickSet.build(
        _provenance(path, read, ", ".join(formats)),
        micrographs,
        pd.DataFrame(columns),
        box_px=box_px,
        diameter_A=diameter_A,
        counts=counts,
        score_kind=next((p.score_kind for _, p in read if p.score is not None), ""),
        notes=(f"read as {', '.join(formats)}", *notes),
    )


def _provenance(path: Path, read: list[tuple[Path, FilePicks]], formats: str) -> Provenance:
    return Provenance(
        program="file",
        project=path.parent,
        project_name=path.parent.name or "file",
        job=lone_job(path),
        kind=Kind.IMPORT,
        job_type=formats,
        output_group=path.name,
        sources=tuple(source_file(part) for part, _ in read),
    )


def _names(part: Path, picks: FilePicks) -> npt.NDArray[np.object_]:
    """The micrograph of each pick: as the file says, else as it is called itself."""
    if picks.micrographs is not None:
        return picks.micrographs
    return np.array([_stem(part)] * len(picks.x_px), object)


def _stem(part: Path) -> str:
    """A file's name without what pickers append to the micrograph's."""
    stem = part.stem
    return _PICKER_ENDINGS.sub("", stem) or stem


def _find(finder: Finder, name: str) -> Path | None:
    """A micrograph by a name with or without its extension."""
    if name.lower().endswith(_IMAGE_ENDINGS):
        return finder.find(name)
    return next((place for ending in _IMAGE_ENDINGS if (place := finder.find(name + ending))), None)


def _joined(read: list[tuple[Path, FilePicks]], column: str) -> npt.NDArray[np.float64]:
    parts = [getattr(picks, column) for _, picks in read]
    sizes = [len(picks.x_px) for _, picks in read]
    unknown = 0.0 if column == "class_number" else np.nan
    return np.concatenate([np.full(n, unknown) if p is None else p for p, n in zip(parts, sizes, strict=True)])


def _flip(
    path: Path,
    columns: dict[str, npt.NDArray[np.generic]],
    flips: npt.NDArray[np.bool_],
    micrographs: pd.DataFrame,
    *,
    said: bool,
) -> list[str]:
    """Turn y around for those picks, in place; the pixel row of y is then `ny - 1 - y`."""
    if not flips.any():
        return []
    ny = micrographs["ny"].to_numpy(np.float64, na_value=np.nan)[columns["micrograph"]]
    if np.isnan(ny[flips]).any():
        raise MissingMetadata(
            path,
            "counts y from the last row of micrographs whose height is not known.",
            "Name the folder of its micrographs with --micrographs.",
        )
    columns["y_px"] = np.where(flips, ny - 1 - columns["y_px"].astype(np.float64), columns["y_px"].astype(np.float64))
    return ["y was turned around, as asked" if said else "y was turned around: CryoPPP counts it from the last row"]


def _common(values: list[float | None]) -> float | None:
    known = [value for value in values if value]
    return round(float(np.mean(known)), 2) if known else None
