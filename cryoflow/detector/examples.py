"""Prepared micrographs with labels: what a detector is trained on, as memory maps and small arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.storage.inputs import load_npy

POSITIVE, UNKNOWN, NEGATIVE = 1, 0, -1
"""Kinds of a labeled point: a particle; a candidate of unknown fate; something that is known to be no particle."""

Pixels = npt.NDArray[np.float16]


@dataclass(frozen=True)
class Example:
    """One prepared micrograph with its labels; pixels stay on disk.

    Attributes
    ----------
    pixels
        `.npy` file of (ny, nx, channels) float16, at the network's pixels per assumed diameter.
    data_set
        Micrographs of one data set (project, specimen) are drawn together.
    xy_px : (n, 2) float
        Labeled points in pixels of the prepared image.
    kind : (n,) int8
        `POSITIVE`, `UNKNOWN` or `NEGATIVE`.
    weight : (n,) float32
        What a positive counts; 1 for the surest.
    log_size
        log(true diameter / assumed diameter); NaN where the true one is not known better than the assumed one.
    background
        Whether places without a label are negatives. False where no job searched for particles.
    junk
        `.npy` file of uint8 at the network's output resolution: 1 junk, 0 clean, 255 not known; None where unknown.
    class_prior
        Estimated share of particles among the unknown points.
    """

    pixels: Path
    data_set: str
    xy_px: npt.NDArray[np.float64]
    kind: npt.NDArray[np.int8]
    weight: npt.NDArray[np.float32]
    log_size: float = float("nan")
    background: bool = True
    junk: Path | None = None
    class_prior: float = 0.0

    def map_pixels(self) -> Pixels:
        """Map the pixels; only what is read of them is loaded."""
        return load_npy(self.pixels, mapped=True)

    @property
    def n_positive(self) -> int:
        """Return the number of particles."""
        return int((self.kind == POSITIVE).sum())
