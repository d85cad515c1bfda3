"""crYOLO's labels: EMAN's `.box` and crYOLO's own `.cbox`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.pickers.base import rows_writer
from cryoflow.pickers.training_sets.training_set import TrainingSet

_CBOX_COLUMNS = (
    *("CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Depth"),
    *("EstWidth", "EstHeight", "Confidence", "NumBoxes", "Angle"),
)
_CBOX_HEAD = (
    "\ndata_global\n\n_cbox_format_version 1.0\n\n\ndata_cryolo\n\nloop_\n"
    + "".join(f"_{name} #{i}\n" for i, name in enumerate(_CBOX_COLUMNS, 1))
).encode()  # fmt: skip
_CBOX_END = b"\n\ndata_cryolo_include\n\nloop_\n_slice_index #1\n\n"


def whole_boxes(some: TrainingSet) -> npt.NDArray[np.int64]:
    """Return how many boxes of each micrograph lie wholly on it.

    Returns
    -------
    (n_micrographs,) int
    """
    row = some.picks["micrograph"].to_numpy()[~_leaves_micrograph(some)]
    return np.asarray(np.bincount(row, minlength=len(some.micrographs)), np.int64)


def write_boxes(some: TrainingSet, folders: Mapping[str, Path], settings: Mapping[str, str]) -> None:
    """Write one file of boxes per micrograph, into the folder of its split."""
    if settings["drop_partial_boxes"] == "yes" and (partial := _leaves_micrograph(some)).any():
        some = some.without(partial)
    box = some.per_pick("box_px")
    corner_x, corner_y = some.picks["x_px"].to_numpy() - box / 2, some.picks["y_px"].to_numpy() - box / 2
    form = settings["annotation"]
    if form == "box":
        write, head, end = rows_writer("%.1f\t%.1f\t%d\t%d\n", (corner_x, corner_y, box, box)), b"", b""
    else:
        pattern = "%.1f %.1f <NA> %d %d <NA> %d %d 1.0 1 <NA>\n"
        write = rows_writer(pattern, (corner_x, corner_y, box, box, box, box))
        head, end = _CBOX_HEAD, _CBOX_END
    for split in sorted(set(some.micrographs["split"])):
        folders[split].mkdir(parents=True, exist_ok=True)
    for stem, split, first, last in some.each():
        content = head + write(first, last) + end if last > first else b""
        (folders[split] / f"{stem}.{form}").write_bytes(content)


def _leaves_micrograph(training: TrainingSet) -> npt.NDArray[np.bool_]:
    half = training.per_pick("box_px") / 2
    leaves = np.zeros(len(training.picks), bool)
    for axis, size in (("x_px", "nx"), ("y_px", "ny")):
        position = training.picks[axis].to_numpy()
        with np.errstate(invalid="ignore"):
            leaves |= (position - half < 0) | (position + half > training.per_pick(size))
    return leaves
