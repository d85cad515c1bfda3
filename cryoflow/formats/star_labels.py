"""Labels of an entry as two STAR files a micrograph, as `cryoflow unpicker label FOLDER` and emUnpicker read them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from cryoflow.formats.star_write import star_text
from cryoflow.picks import PickSet
from cryoflow.storage.safe_names import safe_name, short_hash

X, Y, FOM = "rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit"


def star_files(picks: PickSet) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of two STAR files a micrograph: all picks, and those that are labeled as right.

    They are what `cryoflow unpicker label FOLDER` and emUnpicker read. Where two micrographs have one base name, the
    files' names get a short hash of the whole names.
    """
    stems = [PurePosixPath(name).stem for name in picks.micrographs["name"]]
    times = Counter(stems)
    for i, rows in picks.by_micrograph():
        name = str(picks.micrographs["name"].iloc[i])
        stem = safe_name(stems[i]) if times[stems[i]] == 1 else safe_name(f"{stems[i]}-{short_hash(name, 6)}")
        right = rows["label"].to_numpy() > 0
        yield f"{stem}_autopick.star", _star(rows)
        yield f"{stem}_autopick_correct.star", _star(rows[right])


def _star(rows: pd.DataFrame) -> bytes:
    scores = rows["score"].to_numpy(np.float64) if "score" in rows else np.full(len(rows), math.nan)
    known = np.where(np.isfinite(scores), scores, -999.0)  # RELION's value of an unknown score
    return b"".join(star_text({"": {X: rows["x_px"].to_numpy(), Y: rows["y_px"].to_numpy(), FOM: known}}))
