"""EMAN2's `info/NAME_info.json`: a list of boxes by their centers.

Each is `[x, y, tag]`, from e2boxer's neural networks also `[x, y, tag, score]`. `boxes_rct` holds pairs of tilted and
untilted micrographs, which the tag says. Boxes of tomograms (`boxes_3d`) are not read.

Sources: EMAN2 (programs/e2boxer.py, e2rctboxer.py, e2import.py).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, OverBudget
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.storage.parsing import read_json

_LISTS = ("boxes", "boxes_rct")
_BAD_TAGS = ("bad", "badparticle", "bg", "background", "_bgbad", "ref_bad", "ref_bg")
_KEY = re.compile(rb'"(boxes|boxes_rct|boxes_3d|class_list|ctf|quality|tiltparams\w*|apix_unbin)"\s*:')


def read(path: Path) -> FilePicks:
    """Read the boxes of one micrograph.

    Raises
    ------
    BadInput
        Where it is no such file, has no boxes in two dimensions, or is damaged.
    """
    try:
        found = read_json(path)
    except OverBudget:
        raise
    except (BadInput, OSError) as error:
        raise _damaged(path, error) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it holds no JSON object")
    if wrong := [name for name in _LISTS if not isinstance(found.get(name) or [], list)]:
        raise _damaged(path, f"{wrong[0]} is no list")
    lists: dict[str, list[object]] = {name: found[name] for name in _LISTS if found.get(name)}
    if not lists and "boxes_3d" in found and "boxes" not in found:
        raise BadInput(path, "is of tomography (it has boxes_3d).", "Picks in three dimensions are not read.")
    rows = next(iter(lists.values()), [])
    # number by number: a table of Python's numbers needs ten times the memory
    x_px, y_px, scores = (np.fromiter((_number(row, at) for row in rows), np.float64, len(rows)) for at in (0, 1, 3))
    tags = [_tag(row) for row in rows]
    size = found.get("boxsize", found.get("global.boxsize"))
    box_px = _number(size if isinstance(size, list) else [size], 0)
    keep = np.fromiter((tag.lower() not in _BAD_TAGS for tag in tags), bool, len(tags))
    counts = {"marked_bad": int((~keep).sum())} if not keep.all() else {}
    notes = []
    kinds = Counter(tag for tag in tags if tag in ("tilted", "untilted"))
    if kinds:
        notes.append("a micrograph of a tilt pair: " + ", ".join(f"{n} {tag}" for tag, n in sorted(kinds.items())))
    notes += [f"the list {name} was not read ({len(lists[name])} boxes)" for name in list(lists)[1:]]
    if isinstance(of_tomogram := found.get("boxes_3d"), list) and of_tomogram:
        notes.append(f"the list boxes_3d was not read ({len(of_tomogram)} boxes in three dimensions)")
    has_score = bool(np.isfinite(scores).any())
    return FilePicks(
        FORMAT.name,
        x_px[keep],
        y_px[keep],
        scores[keep] if has_score else None,
        "EMAN2 score" if has_score else "",
        box_px=box_px if box_px > 0 else None,
        notes=tuple(notes),
        counts=counts,
    )


def _damaged(path: Path, why: object) -> BadInput:
    return BadInput(path, f"is no info file of EMAN2 with boxes: {why}", "It may be cut short.")


def _tag(row: object) -> str:
    """Return the third value of a row where it is text."""
    return row[2] if isinstance(row, list) and len(row) > 2 and isinstance(row[2], str) else ""


def _number(row: object, at: int) -> float:
    """Return the number at a place of a row; NaN where there is none, since a damaged row costs no other."""
    if not isinstance(row, list) or len(row) <= at:
        return math.nan
    try:
        number = float(str(row[at]))
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _sniff(head: Head) -> bool:
    return head.start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{") and bool(_KEY.search(head.start))


FORMAT = PickFormat(
    name="EMAN2 JSON",
    programs=("EMAN2 (e2boxer, e2rctboxer)",),
    suffixes=(".json",),
    recognized_by="a JSON object with `boxes` or `boxes_rct`",
    sniff=_sniff,
    read=read,
    position="center",
    score="the fourth value of a box, where it is there",
    marks="tags `tilted` and `untilted` are noted; boxes tagged as background or bad are left out and counted",
    blocks="`boxes`, else `boxes_rct`",
    kept="center, score, box size",
    not_kept="tags; boxes in three dimensions (`boxes_3d`)",
    is_lines=False,
    priority=10,
)
