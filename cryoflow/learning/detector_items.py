"""Items of the detector: labeled examples, divided for training and calibration, and crops that are kept of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import NEGATIVE, POSITIVE, UNKNOWN, Example
from cryoflow.detector.training_data import class_prior_of
from cryoflow.learning.item_rules import ItemRule, LabelRule
from cryoflow.learning.items import Item, Piece

RULE = ItemRule(
    pixels_ndim=3,
    labels={
        "xy": LabelRule("f", (-1, 2)),
        "kind": LabelRule("i", values=(POSITIVE, UNKNOWN, NEGATIVE)),
        "weight": LabelRule("f", low=0),
        "log_size": LabelRule("f", (), may_be_nan=True),
        "background": LabelRule("b", ()),
        "class_prior": LabelRule("f", (), low=0, high=1),
    },
)
"""Arrays of an item of the detector: an image (ny, nx, channels) and its labeled points."""
SET_APART = 8
"""About one of so many micrographs is not learned from: it calibrates the scores."""


def example_of(item: Item) -> Example:
    """Return an item as the detector's training takes it."""
    labels = item.labels
    return Example(
        pixels=item.pixels,
        data_set=item.project,
        xy_px=np.asarray(labels["xy"], np.float64),
        kind=np.asarray(labels["kind"], np.int8),
        weight=np.asarray(labels["weight"], np.float32),
        log_size=float(labels["log_size"]),
        background=bool(labels["background"]),
        class_prior=float(labels["class_prior"]),
    )


def labels_of(example: Example) -> dict[str, npt.NDArray[np.generic]]:
    """Return the labels of an example as the arrays of an item; `example_of` reads them."""
    return {
        "xy": np.asarray(example.xy_px, np.float32),
        "kind": example.kind,
        "weight": example.weight,
        "log_size": np.float32(example.log_size),  # type: ignore[dict-item]
        "background": np.bool_(example.background),  # type: ignore[dict-item]
        "class_prior": np.float32(example.class_prior),  # type: ignore[dict-item]
    }


def divided_examples(
    items: Sequence[Item], apart: frozenset[str], start: Detector
) -> tuple[list[Example], list[Example]]:
    """Return examples to learn from and those set apart, with the class prior that `start` estimates.

    It estimates a project's on what is set apart of it, if there is anything: it may have learned from the rest.
    """
    examples = [(example_of(i), i.content in apart) for i in items]
    priors = {}
    for project in dict.fromkeys(e.data_set for e, _ in examples):
        mine = [(e, set_apart) for e, set_apart in examples if e.data_set == project]
        priors[project] = class_prior_of(start, [e for e, set_apart in mine if set_apart] or [e for e, _ in mine])
    learn, calibrate = (
        [replace(e, class_prior=priors[e.data_set]) for e, set_apart in examples if set_apart == wanted]
        for wanted in (False, True)
    )
    return learn, calibrate


def crops(item: Item, edge: int, number: int) -> Iterator[Piece]:
    """Yield crops of a prepared micrograph: a grid that is shifted from one micrograph to the next."""
    pixels = item.map_pixels()
    ny, nx = pixels.shape[:2]
    xy = np.asarray(item.labels["xy"], np.float64)
    size_yx = (min(edge, ny), min(edge, nx))
    rows, columns = (
        _starts(n, size, np.random.default_rng(number).random()) for n, size in zip((ny, nx), size_yx, strict=True)
    )
    for row in rows:
        for column in columns:
            shifted = xy - (column, row)
            inside = ((shifted >= 0) & (shifted < size_yx[::-1])).all(axis=1)
            labels = {**item.labels, "xy": shifted[inside].astype(np.float32)}
            labels |= {name: item.labels[name][inside] for name in ("kind", "weight")}
            part = np.array(pixels[row : row + size_yx[0], column : column + size_yx[1]])
            if inside.any() or bool(item.labels["background"]):
                yield Piece(item.content, part, labels, item.defocus_A, item.diameter_A)


def _starts(length: int, size: int, shift: float) -> list[int]:
    """Return starts of crops along an axis, multiples of 4 as the network's output is."""
    room = length - size
    first = int(shift * (room % size if room else 0)) // 4 * 4
    return list(range(first, room + 1, size)) or [0]
