"""Masks of carbon, ice and aggregates: of the detector, or of any program that writes one MRC file a micrograph.

A mask may be as coarse as it likes; it covers the whole micrograph. Files are found by the micrograph's name:
`STEM_junk.mrc` (`cryoflow pick --masks`), `STEM.mrc` or `STEM_mask.mrc` (MicrographCleaner and others).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import MicrographFile
from cryoflow.picks import Kind, PickSet

SUFFIXES = ("_junk", "_mask", "")
SUFFIX = "unmasked"
"""Of entries whose picks on masks are left out."""

_SAME_ASPECT = 0.1  # a coarse grid is a few pixels long: rounding alone changes its aspect by some percent

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class MaskOptions:
    """Options for reading masks.

    Attributes
    ----------
    at_least
        Values from here on are junk.
    marks_good
        Whether the masks mark what is good, as some programs do; values below `at_least` are junk then.
    """

    at_least: float = 0.5
    marks_good: bool = False


def mask_of(folder: Path, micrograph: str) -> Path | None:
    """Return the file with the mask of a micrograph; None where there is none."""
    stem = Path(micrograph).stem
    return next((p for s in SUFFIXES if (p := folder / f"{stem}{s}.mrc").is_file()), None)


def read_mask(path: Path, shape_yx: tuple[int, int], options: MaskOptions) -> Mask:
    """Return where a mask marks junk, on its own grid.

    Parameters
    ----------
    shape_yx
        Of the micrograph.

    Returns
    -------
    (mask_ny, mask_nx) bool
        True on junk.

    Raises
    ------
    BadInput
        Where the file is no image, has values that are no numbers, or another aspect than the micrograph.
    """
    values = MicrographFile.open(path).whole()
    if not np.isfinite(values).all():
        raise BadInput(path, "has values that are no numbers.")
    check_shape(path, (int(values.shape[0]), int(values.shape[1])), shape_yx)
    marked = values >= options.at_least
    junk: Mask = ~marked if options.marks_good else marked
    return junk


def check_shape(path: Path, mask_yx: tuple[int, int], shape_yx: tuple[int, int]) -> None:
    """Check that a mask has the aspect of its micrograph.

    Raises
    ------
    BadInput
        Where it has another.
    """
    aspect = (mask_yx[1] / mask_yx[0]) / (shape_yx[1] / shape_yx[0])
    if abs(np.log(aspect)) > _SAME_ASPECT:
        raise BadInput(
            path,
            f"is {mask_yx[1]} x {mask_yx[0]}, another shape than its micrograph of "
            f"{shape_yx[1]} x {shape_yx[0]} pixels.",
            "Is it the mask of another micrograph?",
        )


def lies_on(mask: Mask, xy_px: npt.NDArray[np.float64], shape_yx: tuple[int, int]) -> Mask:
    """Return which positions of a micrograph lie on the mask.

    Parameters
    ----------
    mask : (mask_ny, mask_nx) bool
        Covers the whole micrograph, on any grid.
    xy_px : (n, 2) float, x first
        In pixels of the micrograph.
    shape_yx
        Of the micrograph.

    Returns
    -------
    (n,) bool
    """
    rows, columns = (
        np.clip(((v + 0.5) * n / full).astype(int), 0, n - 1)
        for v, n, full in zip(xy_px.T[::-1], mask.shape, shape_yx, strict=True)
    )
    on: Mask = mask[rows, columns]
    return on


def exclude(
    picks: PickSet, folder: Path, options: MaskOptions | None = None
) -> tuple[PickSet, dict[str, int], list[BadInput]]:
    """Return a set without its picks on masks, the counts, and why masks could not be used.

    Micrographs without a usable mask keep all their picks; they are counted.

    Raises
    ------
    BadInput
        Where no micrograph has a mask that can be used.
    """
    options = options or MaskOptions()
    keep = np.ones(len(picks.picks), bool)
    offsets, centers = picks.offsets, picks.centers_xy_px
    failed: list[BadInput] = []
    n_without = n_masked = 0
    for i, name in enumerate(picks.micrographs["name"]):
        path = mask_of(folder, str(name))
        if path is None:
            n_without += 1
            continue
        try:
            shape_yx = _shape(picks, i)
            mask = read_mask(path, shape_yx, options)
        except BadInput as error:
            failed.append(error)
            continue
        n_masked += 1
        some = slice(offsets[i], offsets[i + 1])
        keep[some] = ~lies_on(mask, centers[some], shape_yx)
    if not n_masked:
        if failed:
            raise failed[0]
        raise BadInput(
            folder,
            "has no mask of these micrographs.",
            f"Masks are named after them: {Path(str(picks.micrographs['name'].iloc[0])).stem}_junk.mrc or .mrc.",
        )
    counts = {"on_mask": int((~keep).sum()), "no_mask": n_without, "unusable_mask": len(failed)}
    counts = {name: n for name, n in counts.items() if n}
    source = picks.provenance
    result = replace(
        picks,
        provenance=replace(
            source,
            program="cryoflow",
            kind=Kind.UNPICKED,
            job_type="cryoflow.masks",
            output_group=source.entry_name,
            suffix="_".join(part for part in (source.suffix, SUFFIX) if part),
            title=f"{source.entry_name} without picks on masks",
        ),
        picks=picks.picks[keep].reset_index(drop=True),
        counts=counts,
        notes=(*picks.notes, f"picks on masks of {folder} are left out"),
    )
    return result, counts, failed


def _shape(picks: PickSet, row: int) -> tuple[int, int]:
    ny, nx = picks.micrographs["ny"].iloc[row], picks.micrographs["nx"].iloc[row]
    if not pd.isna(ny) and not pd.isna(nx):
        return int(ny), int(nx)
    path = picks.micrographs["path"].iloc[row]
    if path is None:
        raise BadInput(str(picks.micrographs["name"].iloc[row]), "has no known size.", "Link it on ingest.")
    return MicrographFile.open(path).shape
