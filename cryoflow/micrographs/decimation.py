"""Fewer rows before a Fourier transform that keeps only low frequencies along y.

Most of the time of Fourier cropping goes to the transforms of rows. Where the image shrinks at least 2.5 times along y,
rows are first filtered and thinned by 2 or 4, and the filter's known gain is divided out of the frequencies that are
kept. What other frequencies leak into them is below 1e-4 of their own amplitude, less than float16 resolves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.signal.windows import chebwin

Float32 = npt.NDArray[np.float32]

_LEAK = 1e-4
_ROWS = 16  # of one matrix product: OpenBLAS multiplies such small matrices several times as fast as larger ones


@dataclass(frozen=True)
class RowDecimation:
    """A filter along y that keeps one row of some; `taps` has a multiple of `factor` taps."""

    factor: int
    taps: Float32

    @classmethod
    def of(cls, ny: int, new_ny: int) -> RowDecimation | None:
        """Return the cheapest decimation that keeps `new_ny` of `ny` frequencies; None where none pays."""
        highest = new_ny / (2 * ny)
        for factor in (4, 2):
            if ny % factor == 0 and highest * factor <= 0.4:
                # A Chebyshev window has the least leak for its length. Its side lobes begin at the lowest frequency
                # that aliases into the kept ones; its gain at the highest kept one is so many times theirs.
                aliased = 1 / factor - highest
                ratio = math.acosh(math.cos(math.pi * highest) / math.cos(math.pi * aliased))
                length = factor * math.ceil((math.acosh(1 / _LEAK) / ratio + 1) / factor)
                lobes = math.cosh((length - 1) * math.acosh(1 / math.cos(math.pi * aliased)))
                window = chebwin(length, 20 * math.log10(lobes))
                return cls(factor, (window / window.sum()).astype(np.float32))
        return None

    @property
    def n_overlap(self) -> int:
        """Return the number of output rows beyond its own that a block of rows adds to."""
        return len(self.taps) // self.factor - 1

    def matrix(self) -> Float32:
        """Return what 16 rows add to the rows that are kept, (16 / factor + n_overlap, 16)."""
        kept = np.arange(_ROWS // self.factor + self.n_overlap)[:, None]
        tap = np.arange(_ROWS)[None, :] - self.factor * kept + len(self.taps) - self.factor
        inside = (tap >= 0) & (tap < len(self.taps))
        found: Float32 = np.where(inside, self.taps[np.where(inside, tap, 0)], 0).astype(np.float32)
        return found

    def apply(self, block: Float32, before: Float32, matrix: Float32) -> tuple[Float32, Float32]:
        """Filter and thin a block of rows.

        Parameters
        ----------
        block : (n, nx) float32
            `n` is a multiple of `factor`.
        before : (n_overlap, nx) float32
            What the blocks before added to this one's rows.
        matrix : (16 / factor + n_overlap, 16) float32
            Of `RowDecimation.matrix`.

        Returns
        -------
        rows : (n / factor, nx) float32
        after : (n_overlap, nx) float32
            What this block adds to the rows of the next one; after the last block, to those of the first.
        """
        n_kept = len(block) // self.factor
        total = np.zeros((n_kept + self.n_overlap, block.shape[1]), np.float32)
        total[: self.n_overlap] = before
        for row in range(0, len(block), _ROWS):
            some = block[row : row + _ROWS]
            n_rows = len(some) // self.factor + self.n_overlap
            first = row // self.factor
            total[first : first + n_rows] += matrix[:n_rows, : len(some)] @ some
        return total[:n_kept], total[n_kept:]

    def gain(self, frequency: npt.NDArray[np.float64]) -> npt.NDArray[np.complex128]:
        """Return the factor that frequencies have after filtering and thinning.

        Parameters
        ----------
        frequency : (n,) float
            In cycles a row of the input.

        Returns
        -------
        (n,) complex
        """
        place = np.arange(len(self.taps)) - len(self.taps) + self.factor
        turned: npt.NDArray[np.complex128] = np.exp(2j * np.pi * frequency[:, None] * place) @ self.taps
        return turned / self.factor
