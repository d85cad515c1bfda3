"""What can be found wrong with a picker's folder before a GPU is asked for, and before an export is taken as it is."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables import read_file
from cryoflow.micrographs.header import read_header
from cryoflow.pickers.base import Picker
from cryoflow.pickers.training_sets import manifest as manifests
from cryoflow.pickers.training_sets.contents import REPLACED, read_contents
from cryoflow.storage import inputs
from cryoflow.system.threads import on_each_file

log = logging.getLogger(__name__)
_NAMED = 5
_TIFF_STARTS = (b"II*\0", b"MM\0*")
_OF_THE_PICKER = {"proc", "picks", "filtered", REPLACED}
"""Folders of a picker's own results, which are not looked into."""


def preflight(target: Picker, folder: Path) -> None:
    """Check a picker's folder before its program runs: links open, shapes fit, names match, boxes are inside.

    Files that were edited since the export are no error, as a user may change a configuration; a warning names them.

    Raises
    ------
    BadInput
        With the first problem, and their number.
    """
    if contents := read_contents(folder):
        for change in contents.changes(folder)[:_NAMED]:
            log.warning("%s: %s", folder, change)
    if found := problems_of(target, folder):
        raise BadInput(
            folder, f"cannot be used as it is: {first_of(found)}.", "Export it again: what is damaged is written anew."
        )


def first_of(problems: list[str]) -> str:
    """Return the first of some problems, and how many there are."""
    more = f" ({len(problems)} such problems)" if len(problems) > 1 else ""
    return problems[0].rstrip(".") + more


def problems_of(target: Picker, folder: Path) -> list[str]:
    """Return all that is wrong with a folder that was written for a picker; nothing where it gets no micrographs."""
    if not target.links_micrographs:
        return []
    table = manifests.read_manifest(folder)
    pictures = _pictures(folder)
    rows = list(zip(table["stem"], table["ny"], table["nx"], strict=True))
    found = on_each_file(lambda row: _problem_of_picture(pictures.get(str(row[0])), *row), rows)
    try:
        of_its_own = target.problems(folder, table)
    except (BadInput, OSError) as error:
        of_its_own = [str(error)]
    return [problem for problem in found if problem] + of_its_own


def _problem_of_picture(path: Path | None, stem: str, ny: int, nx: int) -> str:
    if path is None:
        return f"{stem} has no picture"
    try:
        if path.suffix == ".tif":
            with inputs.opened(path) as file:
                return "" if file.read(4) in _TIFF_STARTS else f"{path.name} is no TIFF"
        shape = read_header(path).shape_yx
    except (BadInput, OSError) as error:
        return f"{stem}: {error}"
    if not pd.isna(ny) and shape != (int(ny), int(nx)):
        return f"{stem} is {shape[0]} x {shape[1]} pixels now, and was {ny} x {nx} when exported"
    return ""


def problems_of_labels(
    pictures: Collection[str], labels: Collection[Path], manifest: pd.DataFrame, *, empty_files: bool
) -> Iterator[str]:
    """Yield what is wrong with files of labels, each named after its picture; a program leaves out pictures without a
    file.

    Parameters
    ----------
    pictures
        Their stems.
    manifest
        Shapes of the micrographs; positions are in their pixels.
    empty_files
        Whether a file of no bytes is one of no particles.
    """
    stems = {label.stem for label in labels}
    yield from (f"{stem} has a picture and no file of labels" for stem in sorted(set(pictures) - stems))
    shapes = manifest.set_index("stem")[["nx", "ny"]].astype("float64")
    for label in sorted(labels):
        if label.stem not in pictures or label.stem not in shapes.index:
            yield f"{label.name} belongs to no picture"
            continue
        if not empty_files and not label.stat().st_size:
            yield f"{label.name} is empty"
        try:
            picks = read_file(label)
        except BadInput as error:
            yield str(error)
            continue
        table = picks.frame()
        if len(table) == 0:
            continue
        if label.suffix == ".box" and picks.box_px is None:
            yield f"{label.name} has boxes without a size"
        centers_xy = table[["x_px", "y_px"]].to_numpy(np.float64)
        if not ((centers_xy >= -0.5) & ~(centers_xy > shapes.loc[label.stem].to_numpy())).all():
            yield f"{label.name} has boxes outside its micrograph"


def _pictures(folder: Path) -> dict[str, Path]:
    """Return picture by stem."""
    return {
        p.stem: p
        for pattern in ("*/*.mrc", "*/*/*.mrc", "*/*.tif")
        for p in folder.glob(pattern)
        if not _OF_THE_PICKER & set(p.relative_to(folder).parts)
    }
