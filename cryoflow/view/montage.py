"""The montage: picks in the order in which a person looks at them, and their patches as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Literal

import numpy as np
import numpy.typing as npt
from fastapi.exceptions import HTTPException

from cryoflow.errors import BadInput
from cryoflow.view import pictures
from cryoflow.view.answers import finite_or_none
from cryoflow.view.candidates import Float
from cryoflow.view.opened_entries import Opened
from cryoflow.view.pyramid import Pyramid, open_micrograph
from cryoflow.view.request_checks import check_micrograph
from cryoflow.view.review import kept_by, labels_by

MOST_PATCHES = 60
"""Most patches of one picture."""
Order = Literal["threshold", "low", "high", "random", "doubt"]


def montage_page(
    opened: Opened, threshold: float, order: Order, micrograph: int, page: int, size: int
) -> dict[str, object]:
    """Return one page of the picks in the order in which a person looks at them."""
    c, decisions = opened.candidates, opened.review.decisions
    rows = np.arange(len(c)) if micrograph < 0 else np.arange(c.rows(micrograph).start, c.rows(micrograph).stop)
    scores = c.scores[rows]
    bad = [m for m, mark in decisions.marks.items() if mark == "bad"]
    usable = ~np.isin(c.micrograph[rows], bad)
    if order == "random" or not c.has_scores:
        key = np.random.default_rng(0).random(len(rows))
    elif order in ("threshold", "doubt"):
        key = np.abs(scores - (threshold if order == "threshold" else 0.5))
    else:
        key = scores if order == "low" else -scores
    rows = rows[usable]
    these = rows[_first(np.nan_to_num(key[usable], nan=np.inf), (page + 1) * size)[page * size :]]
    kept, decided = kept_by(c, decisions, threshold), labels_by(c, decisions)
    return {
        "n": len(rows),
        "page": page,
        "picks": [
            {
                "micrograph": int(c.micrograph[r]),
                "pick": int(r - c.offsets[c.micrograph[r]]),
                "score": finite_or_none(c.scores[r]),
                "kept": bool(kept[r]),
                "decided": bool(decided[r]),
            }
            for r in these.tolist()
        ],
    }


def _first(key: Float, n: int) -> npt.NDArray[np.intp]:
    """Return where the `n` lowest values are, lowest first. Of a million values only those are sorted."""
    low = np.flatnonzero(key <= np.partition(key, n - 1)[n - 1]) if n < len(key) else np.arange(len(key))
    return low[np.argsort(key[low], kind="stable")][:n]


def patches_picture(pool: Executor, opened: Opened, wanted: Sequence[tuple[int, int]], lowpass_A: float) -> bytes:
    """Return patches side by side as one JPEG, in order; a patch that cannot be read is gray."""
    c = opened.candidates
    for micrograph, pick in wanted:
        check_micrograph(opened, micrograph)
        if pick >= opened.review.n_picks(micrograph):
            raise HTTPException(404, "there is no such pick")
    files: dict[int, Pyramid | None] = {}

    def open_(micrograph: int) -> Pyramid | None:
        try:
            return open_micrograph(opened.path(micrograph))
        except BadInput:
            return None

    numbers = sorted({m for m, _ in wanted})
    files = dict(zip(numbers, pool.map(open_, numbers), strict=True))

    def cut(which: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        micrograph, pick = which
        file = files[micrograph]
        rows = c.rows(micrograph)
        n = rows.stop - rows.start
        x, y = (
            c.centers_xy_px[rows.start + pick]
            if pick < n
            else opened.review.decisions.added[micrograph].xy_px[pick - n]
        )
        try:
            if file is not None:
                size = opened.pixel_size_A(micrograph)
                return pictures.patch(file, (float(x), float(y)), opened.diameter_px(micrograph), lowpass_A, size)
        except BadInput:
            pass
        return np.full((pictures.PATCH_PX, pictures.PATCH_PX), 64, np.uint8)

    return pictures.jpeg(np.concatenate(list(pool.map(cut, wanted)), axis=1), quality=80)
