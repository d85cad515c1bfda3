"""Pictures of the report: micrographs with what was kept, removed and missed, and boxes of picks side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from cryoflow.detector.masks import MaskOptions, mask_of, read_mask
from cryoflow.drawing.figures import KEPT, MISSED, NEUTRAL, REMOVED, Marks, montage, overlay
from cryoflow.errors import CryoflowError
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.image import read_micrograph
from cryoflow.parameters import MATCH_RADIUS
from cryoflow.pickers.comparing.compare import centers_of, same_micrographs
from cryoflow.pickers.comparing.matching import match_picks
from cryoflow.picks import FloatArray, PickSet
from cryoflow.report.page import Block, Gallery, Picture
from cryoflow.unpicker.decision import is_doubtful

BOXES = 20
"""Boxes that are shown, of each project."""
EXAMPLES = 2
"""Micrographs that are shown, of each project."""
SMOOTHING_A = 6.0
"""Of boxes that are shown, so that an eye sees the particle through the noise."""


def has_image(picks: PickSet, i: int) -> bool:
    """Return whether the file of a micrograph is known."""
    return picks.micrographs["path"].iloc[i] is not None


def example(before: PickSet, after: PickSet, truth: PickSet | None, i: int, masks: Path | None) -> Picture:
    """Return a micrograph with its kept, removed and missed picks.

    Parameters
    ----------
    before, after
        Picks before and after un-picking.
    truth
        True particles of the micrographs, None where they are unknown.
    i
        Number of the micrograph in `before`.
    masks
        Folder of masks to draw.
    """
    row = before.micrographs.iloc[i]
    image = read_micrograph(Path(row["path"]))
    size = float(row["pixel_size_A"])
    diameter_px = (before.diameter_A or after.diameter_A or 150.0) / size
    kept, removed = _kept_and_removed(before, after, i)
    doubtful = is_doubtful(_scores(after, i))
    marks = [
        Marks(kept[~doubtful], "kept", KEPT),
        Marks(kept[doubtful], "kept, doubtful", NEUTRAL),
        Marks(removed, "removed", REMOVED),
    ]
    if truth is not None:
        marks.append(Marks(_missed(truth, before, kept, i, diameter_px), "missed", MISSED))
    name = Path(row["name"]).name
    caption, mask = f"{before.provenance.project_name}: {name}", None
    if masks is not None and (file := mask_of(masks, str(row["name"]))):
        try:
            mask = read_mask(file, image.shape, MaskOptions())
            caption += f"; {mask.mean():.0%} is masked"
        except CryoflowError as error:
            caption += f"; mask not drawn: {error}"
    figure = overlay(image, marks, diameter_px=diameter_px, title=name, pixel_size_A=size, mask=mask)
    return Picture(figure, caption=caption, photo=True)


def _kept_and_removed(before: PickSet, after: PickSet, i: int) -> tuple[FloatArray, FloatArray]:
    every, kept = centers_of(before, i), centers_of(after, i)
    gone = np.ones(len(every), bool)
    gone[match_picks(every, kept, 0.5).reference] = False
    return kept, every[gone]


def _scores(picks: PickSet, i: int) -> FloatArray:
    """Return the scores of the picks on one micrograph, NaN where they have none."""
    offsets = picks.offsets
    some = picks.picks.iloc[offsets[i] : offsets[i + 1]]
    return some["score"].to_numpy(np.float64) if "score" in some else np.full(len(some), np.nan)


def _missed(truth: PickSet, picks: PickSet, kept: FloatArray, i: int, diameter_px: float) -> FloatArray:
    j = dict(same_micrographs(picks, truth)).get(i)
    if j is None:
        return np.zeros((0, 2))
    true = centers_of(truth, j)
    missed = np.ones(len(true), bool)
    missed[match_picks(true, kept, MATCH_RADIUS * diameter_px).reference] = False
    return true[missed]


def montages(before: PickSet, after: PickSet, shown: Sequence[int]) -> list[Block]:
    """Return boxes of kept and of removed picks of the first `EXAMPLES` micrographs that are shown, side by side."""
    boxes: dict[str, list[FloatArray]] = {"kept": [], "removed": []}
    for i in shown[:EXAMPLES]:
        if not has_image(before, i):
            continue
        row = before.micrographs.iloc[i]
        side = 2 * round(0.75 * (before.diameter_A or after.diameter_A or 150.0) / float(row["pixel_size_A"]))
        try:
            image = read_micrograph(Path(row["path"]))
        except CryoflowError:
            continue
        image = gaussian_filter(image, SMOOTHING_A / float(row["pixel_size_A"]))
        for name, centers in zip(boxes, _kept_and_removed(before, after, i), strict=True):
            boxes[name].append(cut_boxes(image, centers[:BOXES], side).astype(np.float64))
    pictures = []
    for (name, parts), color in zip(boxes.items(), (KEPT, REMOVED), strict=True):
        if parts and len(all_boxes := np.concatenate(parts)):
            figure = montage(all_boxes[:BOXES], columns=10, title=f"{name} picks", color=color)
            pictures.append(Picture(figure, caption=f"{before.provenance.project_name}: {name}", photo=True))
    return [Gallery(pictures)] if pictures else []
