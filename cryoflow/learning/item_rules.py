"""Rules for the arrays of a network's items: a file of learning material may come from somebody else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]

_NAMES = {"f": "floating-point numbers", "i": "signed integers", "b": "truth values"}


@dataclass(frozen=True)
class LabelRule:
    """One array of labels.

    Attributes
    ----------
    kind
        numpy's letter of its data type: f, i or b.
    shape
        -1 for one row of each label; all such arrays of an item have equally many.
    values
        The only values of integers.
    low, high
        Limits of floating-point numbers, which are finite.
    may_be_nan
        Whether NaN means that a value is not known.
    """

    kind: str
    shape: tuple[int, ...] = (-1,)
    values: tuple[int, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    may_be_nan: bool = False

    def problem(self, array: Array) -> str:
        """Return why an array is no such labels, or ""."""
        if array.dtype.kind != self.kind:
            return f"is of {array.dtype}, not of {_NAMES[self.kind]}"
        if len(array.shape) != len(self.shape) or any(
            n not in (-1, m) for n, m in zip(self.shape, array.shape, strict=True)
        ):
            return f"has the shape {array.shape}, not {self.shape}"
        if self.values and (other := sorted(set(np.unique(array).tolist()) - set(self.values))):
            return f"has the value {other[0]}, which is none of {', '.join(map(str, self.values))}"
        if self.kind == "f":
            numbers = np.asarray(array, np.float64)
            known = numbers[~np.isnan(numbers)] if self.may_be_nan else numbers
            if not (np.isfinite(known) & (known >= self.low) & (known <= self.high)).all():
                return f"has values that are not finite, or outside {self.low:g} to {self.high:g}"
        return ""


@dataclass(frozen=True)
class ItemRule:
    """The arrays of an item.

    Attributes
    ----------
    pixels_ndim
        Dimensions of the pixels.
    labels
        All arrays of labels by name.
    row_of_each
        Whether the pixels have one row of each label; otherwise the labels are points of one image.
    """

    pixels_ndim: int
    labels: Mapping[str, LabelRule]
    row_of_each: bool = False

    def problem(self, labels: Mapping[str, Array], pixels: Array) -> str:
        """Return why arrays are no such item, or ""."""
        if labels.keys() != self.labels.keys():
            return f"it has the labels {', '.join(sorted(labels)) or 'none'}, not {', '.join(sorted(self.labels))}"
        if pixels.ndim != self.pixels_ndim:
            return f"its pixels have {pixels.ndim} dimensions, not {self.pixels_ndim}"
        for name, rule in self.labels.items():
            if problem := rule.problem(labels[name]):
                return f"{name} {problem}"
        lengths = {name: len(labels[name]) for name, rule in self.labels.items() if -1 in rule.shape}
        if self.row_of_each:
            lengths["pixels"] = len(pixels)
        if len(set(lengths.values())) > 1:
            return f"its arrays have different lengths ({', '.join(f'{name} {n}' for name, n in lengths.items())})"
        return ""


def problem_of_pixels(pixels: Array) -> str:
    """Return why an array is no pixels of any item, or ""."""
    if pixels.dtype != np.float16:
        return f"its pixels are of {pixels.dtype}, not of float16"
    return "" if np.isfinite(pixels).all() else "its pixels are not finite"
