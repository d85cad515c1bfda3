"""Answers of the addresses below `/api`, as JSON: an entry, its list of micrographs, one micrograph, decisions."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
from fastapi.responses import Response

from cryoflow.errors import BadInput
from cryoflow.unpicker.decision import DOUBTFUL
from cryoflow.view import pictures
from cryoflow.view.candidates import Float
from cryoflow.view.counts import Tally, doubt, per_micrograph, tally
from cryoflow.view.decisions import Added
from cryoflow.view.opened_entries import SAME_PICK_DIAMETERS, Library, Opened
from cryoflow.view.pyramid import TILE_PX, n_levels, open_micrograph
from cryoflow.view.review import kept_by, touched_by


def about(opened: Opened) -> dict[str, object]:
    """Return what does not change while an entry is looked at."""
    c = opened.candidates
    table = c.picks.micrographs
    defocus = (table["defocus_u_A"].to_numpy(np.float64) + table["defocus_v_A"].to_numpy(np.float64)) / 2
    low, high = c.score_range
    scoring = opened.scoring
    problem = (scoring.problem,) if scoring and scoring.problem else ()
    return {
        "name": opened.name,
        "n": len(c),
        "names": [printable(name) for name in table["name"]],
        "status": table["status"].tolist(),
        "defocus_um": finite_or_nones(defocus / 1e4, 2),
        "n_picks": np.diff(c.offsets).tolist(),
        "doubt": finite_or_nones(doubt(c), 1),
        "diameter_A": opened.diameter_A,
        "diameter_known": c.picks.diameter_A is not None,
        "same_pick_diameters": SAME_PICK_DIAMETERS,
        "has_scores": c.has_scores,
        "histogram": histogram(c.scores, low, high),
        "doubtful": list(DOUBTFUL),
        "suggested": scoring.suggested if scoring else [None] * len(table),
        "scoring": {"done": scoring.done, "of": scoring.of} if scoring and not scoring.finished else None,
        "calibrated": c.calibrated,
        "score_kind": c.picks.score_kind,
        "threshold": c.threshold,
        "score_low": low,
        "score_high": high,
        "has_labels": bool(c.labels.any()),
        "notes": [printable(note) for note in (*problem, *c.notes, *c.picks.notes)],
        "lowpass_A": list(pictures.LOWPASS_A),
        "first_lowpass_A": pictures.FIRST_LOWPASS_A,
        "tile_px": TILE_PX,
        "patch_px": pictures.PATCH_PX,
        "revision": opened.review.revision,
        "kind": opened.candidates.entry.kind.value,
        "orientation": c.entry.orientation.verdict,
        "status_of_entry": c.entry.status,
        "reason": printable(c.entry.reason),
    }


def listed(opened: Opened, threshold: float) -> dict[str, object]:
    """Return what the list of micrographs shows of decisions."""
    c, d = opened.candidates, opened.review.decisions
    kept = per_micrograph(c, kept_by(c, d, threshold))
    for micrograph, added in d.added.items():
        if d.marks.get(micrograph) != "bad":
            kept[micrograph] += sum(added.labels)
    return {
        "n_kept": kept.tolist(),
        "marks": {str(m): mark for m, mark in sorted(d.marks.items())},
        "touched": sorted(touched_by(c, d)),
        "tally": counted(tally(opened.review, threshold)),
        "revision": d.revision,
    }


def one_micrograph(library: Library, opened: Opened, i: int, others: Sequence[Opened]) -> dict[str, object]:
    """Return a micrograph: its size, its picks, what was decided, and the picks of other entries."""
    c = opened.candidates
    row, rows = c.picks.micrographs.iloc[i], c.rows(i)
    xy = c.centers_xy_px[rows]
    shape, problem = shape_of(opened, i)
    return {
        "micrograph": i,
        "name": printable(row["name"]),
        "problem": printable(problem),
        "ny": shape[0],
        "nx": shape[1],
        "levels": n_levels(shape),
        "pixel_size_A": opened.pixel_size_A(i),
        "diameter_px": opened.diameter_px(i),
        "mask": library.mask_path(opened, i) is not None,
        "x": finite_or_nones(xy[:, 0], 2),
        "y": finite_or_nones(xy[:, 1], 2),
        "score": finite_or_nones(c.scores[rows], 9),
        "label": c.labels[rows].tolist(),
        "removed": np.flatnonzero(c.removed_without_score[rows]).tolist(),
        "state": decided_on(opened, i),
        "others": [
            {"name": other.name, "xy": np.round(library.picks_of_partner(opened, other, i), 2).tolist()}
            for other in others
        ],
    }


def shape_of(opened: Opened, i: int) -> tuple[tuple[int, int], str]:
    """Return rows and columns of a micrograph, and why its picture cannot be shown, empty where it can.

    Without a picture the shape is the one that the database holds, else the extent of the picks.
    """
    try:
        return open_micrograph(opened.path(i)).shape_yx, ""
    except BadInput as error:
        problem = f"{error.reason} {error.hint}".strip()
    row = opened.candidates.picks.micrographs.iloc[i]
    if row["ny"] == row["ny"] and row["ny"] is not None and row["nx"] is not None:
        return (int(row["ny"]), int(row["nx"])), problem
    xy = opened.candidates.centers_xy_px[opened.candidates.rows(i)]
    extent = xy.max(axis=0) if len(xy) else np.array([1000.0, 1000.0])
    return (int(extent[1]) + 1, int(extent[0]) + 1), problem


def decided_on(opened: Opened, i: int) -> dict[str, object]:
    """Return what people decided on one micrograph."""
    d, rows = opened.review.decisions, opened.candidates.rows(i)
    labels = d.labels[rows]
    decided = np.flatnonzero(labels)
    added = d.added.get(i, Added())
    return {
        "decided": [[int(k), int(labels[k])] for k in decided],
        "added": [[x, y, label] for (x, y), label in zip(added.xy_px, added.labels, strict=True)],
        "mark": d.marks.get(i, ""),
        "finished_at": d.finished_at.get(i),
    }


def changed(opened: Opened, since: int, window: str) -> dict[str, object]:
    """Return what has changed after a revision, micrograph by micrograph, and by whom."""
    review = opened.review
    lines = review.changes_since(since)
    micrographs = sorted({m for line in lines for m in review.micrographs_of(line)})
    return {
        "revision": review.revision,
        "micrographs": {str(m): decided_on(opened, m) for m in micrographs},
        "by_others": sorted({printable(line.by) for line in lines if line.window != window}),
    }


def counted(found: Tally) -> dict[str, object]:
    """Return counts at a threshold."""
    return {
        "n": found.n,
        "n_kept": found.n_kept,
        "precision": finite_or_none(found.precision),
        "recall": finite_or_none(found.recall),
    }


def finite_or_none(value: float) -> float | None:
    """Return a number, None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def finite_or_nones(values: Float, decimals: int) -> list[float | None]:
    """Return rounded numbers, None for those that are not finite."""
    rounded: list[float | None] = np.round(values, decimals).tolist()
    for i in np.flatnonzero(~np.isfinite(values)):
        rounded[i] = None
    return rounded


def printable(text: object) -> str:
    """Return a file name as JSON can carry it: bytes that are not UTF-8 become question marks."""
    return str(text).encode(errors="replace").decode()


def histogram(scores: Float, low: float, high: float) -> list[int]:
    """Return how many of the known scores lie in each of 64 equal ranges."""
    known = scores[np.isfinite(scores)]
    counts: list[int] = np.histogram(known, bins=64, range=(low, high if high > low else low + 1))[0].tolist()
    return counts


def as_json(value: object, status: int = 200) -> Response:
    """Return a response whose content is JSON."""
    return Response(json.dumps(value, allow_nan=False, separators=(",", ":")), status, media_type="application/json")
