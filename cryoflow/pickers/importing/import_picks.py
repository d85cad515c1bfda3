"""Import picks that a picker wrote: back to the micrographs of the manifest, in their pixels."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables import FilePicks, read_file, suffixes
from cryoflow.formats.pick_tables.file_names import is_repeated, negative_suffix, without_appended
from cryoflow.micrographs.find_micrographs import IMAGE_SUFFIXES
from cryoflow.pickers.base import Picker
from cryoflow.pickers.comparing.matching import without_duplicates
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets import manifest as manifests
from cryoflow.pickers.training_sets.names import match_names
from cryoflow.picks import Kind, PickSet, Provenance
from cryoflow.storage.fingerprints import source_file
from cryoflow.storage.safe_names import safe_name

log = logging.getLogger(__name__)

_SERIAL = re.compile(r"\d{6,}__")
DUPLICATE_OF_RADIUS = 0.3
"""CryoSegNet repeats sure picks with a jitter of a tenth of a radius: picks nearer than this are one."""


def import_picks(
    picker_name: str | Picker,
    folder: Path,
    manifest: Path | None = None,
    *,
    name: str = "",
    threshold: float | None = None,
    keep_all: bool = False,
    scaled: bool | None = None,
    flip_y: bool | None = None,
    model: str = "",
) -> list[PickSet]:
    """Import what a picker wrote.

    Parameters
    ----------
    folder
        Folder of its output, or one file.
    manifest
        `manifest.tsv` of the set that was picked, or its folder. None takes that of the set that `folder` lies in.
    name
        Name of the run, the job's part of the entry's name; by default the folder's.
    threshold
        Picks below it are left out; None takes the picker's own, see `Picker.threshold_of`. Files without scores have
        no threshold.
    keep_all
        Apply no threshold at all.
    scaled
        Whether positions are in the picker's pixels (the manifest's `scale`), or in the micrographs' own, as after
        `topaz extract -x`. None takes the manifest's, and refuses picks that then lie outside.
    flip_y
        Count y from the last row. None does so for CryoPPP's tables only.
    model
        Recorded with the picks.

    Returns
    -------
    list of PickSet
        One per entry of the manifest, with its micrographs without picks.

    Raises
    ------
    BadInput
        If there is no file of picks, none belongs to a micrograph of the manifest, or positions do not fit.
    """
    source = picker(picker_name)
    folder = Path(folder)
    manifest = _manifest_of(folder, manifest)
    table = manifests.read_manifest(manifest)
    failed = source.not_picked(folder if folder.is_dir() else folder.parent)
    table = table[~table["stem"].isin(list(failed))].reset_index(drop=True)
    for stem, reason in failed.items():
        log.warning("%s was not picked: %s", stem, reason)
    files = [folder] if folder.is_file() else source.pick_files(folder)
    if others := [path for path in files if not folder.is_file() and (negative_suffix(path) or is_repeated(path))]:
        log.warning("%d files of rejected or repeated picks are left out, such as %s", len(others), others[0].name)
        files = [path for path in files if path not in others]
    if not files:
        raise BadInput(folder, f"holds no picks of {source.title}.", "Name the folder of its output.")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(read_file, files))
    picks, unknown = _on_micrographs(files, found, table)
    if picks.empty and any(len(f) for f in found):
        raise BadInput(
            folder,
            "names no micrograph of the manifest.",
            f"It has {_some(files)}; the manifest has {', '.join(table['stem'].head(2))}. Is it of this run?",
        )
    picks = _in_micrograph_pixels(picks, table, folder, scaled=scaled)
    picks = _flipped(picks, table, all(f.y_is_flipped for f in found) if flip_y is None else flip_y)
    picks, repeated = _deduplicated(picks, found)
    found_wrong = (("unknown_micrograph", unknown), ("duplicate", repeated), ("not_picked", len(failed)))
    counts = {n: c for n, c in found_wrong if c}
    used: float | None = None
    if "score" in picks and not keep_all:
        used = source.threshold_of(picks["score"].to_numpy(np.float64)) if threshold is None else threshold
        if used is not None:
            keep = (picks["score"] >= used).to_numpy()
            counts["below_threshold"] = int((~keep).sum())
            picks = picks[keep].reset_index(drop=True)
    elif threshold is not None:
        raise BadInput(
            folder, f"has no scores, so no threshold of {threshold:g} can be applied.", "Leave --threshold out."
        )
    return _entries(source, picks, table, name or folder.stem, used, model, counts, manifest)


def _manifest_of(folder: Path, given: Path | None) -> Path:
    """Return the manifest to use; warn if it is not that of the set that the picks lie in.

    Sets of the same micrographs have the same names, and may differ in scale.
    """
    nearest = manifests.nearest(folder)
    if given is None and nearest is None:
        raise BadInput(folder, "lies in no set that cryoflow wrote.", "Name the set that was picked: --manifest.")
    if given is None or nearest is None:
        return Path(given or nearest or folder)
    given = Path(given)
    if manifests.is_manifest(given / manifests.NAME if given.is_dir() else given) and (
        manifests.made_with(given) != manifests.made_with(nearest)
    ):
        log.warning("%s lies in the set of %s, but %s was named, and is taken", folder, nearest.parent, given)
    return given


def _some(files: Sequence[Path]) -> str:
    return ", ".join(f.name for f in files[:2]) + (", ..." if len(files) > 2 else "")


def _on_micrographs(files: Sequence[Path], found: Sequence[FilePicks], table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return all picks in one table with their row of the manifest; how many names were not found in it."""
    parts = []
    for path, coordinates in zip(files, found, strict=True):
        part = coordinates.frame()
        if len(part):
            part["name"] = part["name"].where(part["name"].notna(), path.name)
            parts.append(part)
    if not parts:
        return pd.DataFrame({"micrograph": np.zeros(0, np.int64), "x_px": np.zeros(0), "y_px": np.zeros(0)}), 0
    picks = pd.concat(parts, ignore_index=True)
    codes, names = pd.factorize(picks["name"].to_numpy(object))
    rows = _rows_of([str(n) for n in names], table)
    picks["micrograph"] = rows[codes]
    unknown = int((rows < 0).sum())
    for missing in [str(n) for n, row in zip(names, rows, strict=True) if row < 0][:5]:
        log.warning("%s is no micrograph of the manifest; its picks are left out", missing)
    picks = picks[picks["micrograph"] >= 0].drop(columns="name")
    return picks.sort_values("micrograph", kind="stable", ignore_index=True), unknown


def _rows_of(names: Sequence[str], table: pd.DataFrame) -> npt.NDArray[np.int64]:
    """Return the row of the manifest for each name: by the exported stem, else by the micrograph's name."""
    by_serial = {stem.partition("__")[0]: (row, stem) for row, stem in enumerate(table["stem"])}
    rows = np.full(len(names), -1, np.int64)
    for i, name in enumerate(names):
        base = PurePosixPath(name.replace("\\", "/")).name
        if _SERIAL.match(base):
            row, stem = by_serial.get(base.partition("__")[0], (-1, ""))
            if row >= 0 and base.startswith(stem):
                rows[i] = row
    left = [i for i in range(len(names)) if rows[i] < 0]
    if left:
        bare = [_without_ending(names[i]) for i in left]
        theirs = [_without_ending(n) for n in table["name"]]
        rows[left] = match_names(bare, theirs).index
    return rows


def _without_ending(name: str) -> str:
    """Return a name without extensions and without what pickers append to the micrograph's."""
    while PurePosixPath(name).suffix.lower() in (*suffixes(), *IMAGE_SUFFIXES):
        name = name[: -len(PurePosixPath(name).suffix)]
    return without_appended(name)


def _in_micrograph_pixels(
    picks: pd.DataFrame, table: pd.DataFrame, folder: Path, *, scaled: bool | None
) -> pd.DataFrame:
    row = picks["micrograph"].to_numpy()
    scale = table["scale"].fillna(1.0).to_numpy(np.float64)[row]
    ny, nx = (table[c].to_numpy(np.float64, na_value=np.inf)[row] for c in ("ny", "nx"))
    factor = scale if scaled is None or scaled else np.ones_like(scale)
    x, y = picks["x_px"].to_numpy() * factor, picks["y_px"].to_numpy() * factor
    outside = (x > nx + factor) | (y > ny + factor)
    if len(picks) and outside.mean() > 0.05:
        hint = (
            "They may be in the micrographs' own pixels already (`topaz extract -x`): give --micrograph-pixels."
            if (factor > 1).any()
            else "Is it the manifest of this run?"
        )
        raise BadInput(folder, f"has {outside.mean():.0%} of its picks outside the micrographs.", hint)
    if scaled is False and len(picks) > 20 and (scale > 1).any() and ((x <= nx / scale) & (y <= ny / scale)).all():
        raise BadInput(
            folder, "has all its picks in one corner: they are in downsampled pixels.", "Leave --micrograph-pixels out."
        )
    _warn_of_a_corner(picks["micrograph"].to_numpy(), x / nx, y / ny, folder)
    return picks.assign(x_px=x, y_px=y)


def _warn_of_a_corner(
    row: npt.NDArray[np.int64], x_of_width: npt.NDArray[np.float64], y_of_height: npt.NDArray[np.float64], folder: Path
) -> None:
    """Warn if all picks of several micrographs lie in their upper left: their scale is most likely another one."""
    if len(row) < 50 or len(np.unique(row)) < 3:
        return
    right, low = float(x_of_width.max()), float(y_of_height.max())
    if max(right, low) < 0.75:
        log.warning(
            "%s has all its picks in the upper left %.0f%% x %.0f%% of the micrographs: is it this manifest's run?",
            folder,
            100 * right,
            100 * low,
        )


def _flipped(picks: pd.DataFrame, table: pd.DataFrame, flip_y: bool) -> pd.DataFrame:
    if not flip_y:
        return picks
    ny = table["ny"].to_numpy(np.float64, na_value=np.nan)[picks["micrograph"].to_numpy()]
    return picks.assign(y_px=ny - 1 - picks["y_px"])


def _deduplicated(picks: pd.DataFrame, found: Sequence[FilePicks]) -> tuple[pd.DataFrame, int]:
    """Remove repeats from STAR files that have a diameter and no score: CryoSegNet's predictions."""
    diameters = [f.diameter_px for f in found if f.diameter_px and f.format == "RELION STAR"]
    if "score" in picks or not diameters:
        return picks, 0
    keep = np.ones(len(picks), bool)
    xy = picks[["x_px", "y_px"]].to_numpy()
    radius = DUPLICATE_OF_RADIUS * float(np.mean(diameters)) / 2
    for rows in picks.groupby("micrograph").indices.values():
        keep[rows] = without_duplicates(xy[rows], radius)
    return picks[keep].reset_index(drop=True), int((~keep).sum())


def _entries(
    source: Picker,
    picks: pd.DataFrame,
    table: pd.DataFrame,
    name: str,
    threshold: float | None,
    model: str,
    counts: dict[str, int],
    manifest: Path,
) -> list[PickSet]:
    entries = []
    path = manifest / manifests.NAME if manifest.is_dir() else manifest
    columns = [c for c in ("x_px", "y_px", "score", "uid") if c in picks]
    notes = [f"picked with {source.title}" + (f", model {model}" if model else "")]
    if threshold is not None:
        notes.append(f"threshold {threshold:g} on {source.score_kind or 'its score'}")
    key = list(zip(table["project_path"], table["project"], strict=True))
    projects = sorted(set(key), key=str)
    for project_path, project in projects:
        rows = np.array([i for i, k in enumerate(key) if k == (project_path, project)])
        new_row = np.full(len(table), -1, np.int64)
        new_row[rows] = np.arange(len(rows))
        mine = new_row[picks["micrograph"].to_numpy()]
        part = picks[columns][mine >= 0].assign(micrograph=mine[mine >= 0])
        provenance = Provenance(
            "picker",
            Path(project_path or path.parent),
            str(project),
            safe_name(name),
            Kind.AUTO_PICK,
            job_type=source.name,
            title="; ".join(notes),
            sources=(source_file(path),),
        )
        of_project = table.iloc[rows]
        boxes, diameters = of_project["box_px"].dropna(), of_project["diameter_A"].dropna()
        entries.append(
            PickSet.build(
                provenance,
                manifests.micrographs_of(of_project),
                part,
                box_px=float(boxes.iloc[0]) if len(boxes) else None,
                diameter_A=float(diameters.iloc[0]) if len(diameters) else None,
                score_kind=source.score_kind if "score" in picks else "",
                counts=counts if len(projects) == 1 else {},
                notes=tuple(notes),
            )
        )
    return entries
