"""Reading micrographs for a detector: their pixel sizes, what makes them unusable, and their prepared images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cryoflow.detector.parameters import LARGEST_DIAMETER_A, LEAST_DIAMETER_A
from cryoflow.detector.prepare import prepare
from cryoflow.errors import BadInput
from cryoflow.micrographs.header import believable_pixel_size
from cryoflow.micrographs.image import MicrographFile
from cryoflow.storage.inputs import load_npy

_LEAST_PIXELS = 6.0  # a particle of fewer pixels across is a dot in any image
_LEAST_DIAMETERS = 2.0  # a micrograph narrower than that holds no surroundings to compare with
_MOST_PIXELS = 9000
_MOST_REASONS = 6  # reasons that name a number may be as many as micrographs


@dataclass(frozen=True)
class MicrographToPick:
    """A micrograph that is to be picked.

    Attributes
    ----------
    name
        As its table names it.
    pixel_size_A
        None takes the header's; see `open_micrograph`.
    """

    name: str
    path: Path
    pixel_size_A: float | None = None


class Loaded(NamedTuple):
    """A prepared micrograph, with the pixel size that is used and the one in its header."""

    item: MicrographToPick
    shape_yx: tuple[int, int]
    pixel_size_A: float
    header_pixel_size_A: float | None
    pixels: npt.NDArray[np.float16]


def check_diameter(diameter_A: float) -> None:
    """Refuse a diameter that no particle has.

    Raises
    ------
    BadInput
        Below 30 and above 3,000 angstrom.
    """
    if not LEAST_DIAMETER_A <= diameter_A <= LARGEST_DIAMETER_A:
        raise BadInput(
            f"{diameter_A:g} A",
            f"is no particle diameter: detectors look for {LEAST_DIAMETER_A:g} to {LARGEST_DIAMETER_A:g} A.",
            "Give the diameter in angstrom, not in pixels or nanometers.",
        )


def open_micrograph(item: MicrographToPick) -> tuple[MicrographFile, float]:
    """Open a micrograph and return it with its pixel size in angstrom.

    A given pixel size has precedence over the header's. A header of 0 or 1 A is unset, as in un-picking: it contradicts
    no given value. Where none is given, 1 A is used nevertheless, because micrographs of exactly 1 A exist; `pick_set`
    notes both that, and headers that differ from the given value by 1 to 10 %.

    Raises
    ------
    BadInput
        Where the pixel size is unknown, or differs from the header's by more than 10 %: the picks would be of another
        size than the particles.
    """
    file = MicrographFile.open(item.path)
    in_header = file.header.pixel_size_A
    if item.pixel_size_A is None:
        if in_header is None or not in_header > 0:
            raise BadInput(
                item.path, "has no pixel size in its header.", "Give the pixel size in angstrom (--pixel-size)."
            )
        return file, in_header
    believable = believable_pixel_size(in_header)
    if believable is not None and abs(believable / item.pixel_size_A - 1) > 0.1:
        raise BadInput(
            item.path,
            f"its header says {believable:.4g} A a pixel, but {item.pixel_size_A:.4g} was given.",
            "Is it binned, or the pixel size that of extracted boxes?",
        )
    return file, item.pixel_size_A


def none_usable(failed: Sequence[BadInput]) -> BadInput:
    """Return one error for micrographs none of which can be used: how many for each reason, with an example."""
    if len(failed) == 1:
        return failed[0]
    by_reason: dict[str, list[BadInput]] = {}
    for error in failed:
        by_reason.setdefault(error.reason.rstrip("."), []).append(error)
    groups = sorted(by_reason.items(), key=lambda group: -len(group[1]))
    shown = [f"{len(errors)}, such as {errors[0].path.name}: {reason}" for reason, errors in groups[:_MOST_REASONS]]
    if rest := sum(len(errors) for _, errors in groups[_MOST_REASONS:]):
        shown.append(f"{rest}: other reasons")
    hint = failed[0].hint if len(groups) == 1 else ""
    return BadInput(failed[0].path.parent, f"none of {len(failed)} micrographs can be used: {'; '.join(shown)}.", hint)


def prepare_one(
    item: MicrographToPick, diameter_A: float, pixels_per_diameter: float, *, known: Path | None = None
) -> tuple[tuple[int, int], npt.NDArray[np.float16]]:
    """Return a micrograph's shape, and its prepared image, from the file `known` where it was prepared before.

    Returns
    -------
    shape_yx : (int, int)
        Of the micrograph.
    prepared : (ny, nx, 2) float16
        At `pixels_per_diameter`; a read-only memory map where `known` is given.

    Raises
    ------
    BadInput
        Where the micrograph cannot be used.
    """
    file, pixel_size_A = _open_to_pick(item, diameter_A, pixels_per_diameter)
    if known is not None:
        return file.shape, load_npy(known, mapped=True)
    return file.shape, prepare(file, pixel_size_A, diameter_A, pixels_per_diameter=pixels_per_diameter)


def load(item: MicrographToPick, diameter_A: float, pixels_per_diameter: float) -> Loaded:
    """Open and prepare a micrograph.

    Raises
    ------
    BadInput
        Where the micrograph cannot be used.
    """
    file, pixel_size_A = _open_to_pick(item, diameter_A, pixels_per_diameter)
    prepared = prepare(file, pixel_size_A, diameter_A, pixels_per_diameter=pixels_per_diameter)
    return Loaded(item, file.shape, pixel_size_A, file.header.pixel_size_A, prepared)


def _open_to_pick(
    item: MicrographToPick, diameter_A: float, pixels_per_diameter: float
) -> tuple[MicrographFile, float]:
    """Open a micrograph on which particles of a diameter can be found; see `open_micrograph`."""
    file, pixel_size_A = open_micrograph(item)
    if problem := problem_of(file.shape, pixel_size_A, diameter_A, pixels_per_diameter):
        raise BadInput(item.path, problem, "Check the pixel size and the diameter.")
    return file, pixel_size_A


def problem_of(shape_yx: tuple[int, ...], pixel_size_A: float, diameter_A: float, pixels_per_diameter: float) -> str:
    """Return why particles of a diameter cannot be found on a micrograph, empty where they can."""
    across = diameter_A / pixel_size_A
    if across < _LEAST_PIXELS:
        return f"a particle of {diameter_A:g} A is only {across:.1f} pixels of {pixel_size_A:.4g} A across."
    if min(shape_yx[:2]) < _LEAST_DIAMETERS * across:
        return f"its {shape_yx[1]} x {shape_yx[0]} pixels are too few for particles of {diameter_A:g} A."
    if max(shape_yx[:2]) / across * pixels_per_diameter > _MOST_PIXELS:
        return f"it is {max(shape_yx[:2]) / across:.0f} particles of {diameter_A:g} A wide, more than can be right."
    return ""
