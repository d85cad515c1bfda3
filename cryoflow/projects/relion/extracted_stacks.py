"""Some of the particles of a table as RELION extracted them: the stacks that `rlnImageName` names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_table
from cryoflow.formats.star_words import whole_number
from cryoflow.micrographs.header import read_header
from cryoflow.picks import ExtractedSample, FloatArray
from cryoflow.projects.axis_convention import AxisConvention
from cryoflow.projects.extracted_sample import choose, sample
from cryoflow.projects.relion.particles import Particles


def extracted_sample(
    project: Path, path: Path, particles: Particles, micrographs: pd.DataFrame, scale: FloatArray, flip: AxisConvention
) -> ExtractedSample | None:
    """Return some particles of a table with where they were cut, None where their stacks are gone. Reads the first
    rows alone.

    Parameters
    ----------
    scale : (n_micrographs,) float
        What positions have to be multiplied with on each micrograph of `micrographs`.
    """
    wanted = ["rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnImageName"]
    try:
        table = read_table(path, None, wanted, only_head=True)
    except BadInput:
        return None
    row_of: Mapping[str, int] = {name: row for row, name in enumerate(micrographs["name"])}
    rows = np.array([row_of.get(str(name), -1) for name in table["rlnMicrographName"]], np.int32)
    some = choose(rows, micrographs)
    images = [str(name).rpartition("@") for name in table["rlnImageName"][some]]
    numbers = np.array([whole_number(number) or 0 for number, _, _ in images], np.int64)
    is_good = numbers > 0
    some, images = some[is_good], [image for image, good in zip(images, is_good, strict=True) if good]
    if not len(some):
        return None
    xy = np.stack([np.asarray(table[f"rlnCoordinate{axis}"], np.float64)[some] for axis in "XY"], axis=1)
    stacks = [stack for _, _, stack in images]
    return sample(
        rows[some],
        xy * scale[rows[some], None],
        stacks,
        numbers[is_good] - 1,
        particles.box_A if np.isfinite(particles.box_A) else _box_A(project / stacks[0], particles),
        micrographs,
        project,
        flip,
    )


def _box_A(stack: Path, particles: Particles) -> float | None:
    """Return the size of a box from the stack itself, its only place before 3.1."""
    sizes = {optics.image_pixel_size_A for optics, _ in particles.own.values()}
    try:
        return read_header(stack).shape_yx[1] * sizes.pop() if len(sizes) == 1 else None
    except BadInput:
        return None
