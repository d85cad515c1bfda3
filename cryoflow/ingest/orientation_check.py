"""Comparison of an entry with the pixels: the orientation check, and pictures of its picks on a few micrographs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, tee
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.database import OrientationRecord
from cryoflow.errors import BadInput
from cryoflow.picks import ExtractedSample, PickSet
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention

log = logging.getLogger(__name__)
MICROGRAPHS_CHECKED = 5
MICROGRAPHS_DRAWN = 2
DIAMETER_OF_BOX = 0.6
"""Boxes are commonly 1.5 to 2 particle diameters; the check does not mind 30 % more or less."""
_MARK_OF_EDGE = 0.03
"""Diameter of the mark around a pick of unknown size, as a part of the micrograph's shorter edge."""
_SMALLEST_BOX_PX = 8

Image = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]


def check_entry(pickset: PickSet, flip: AxisConvention = AS_STORED) -> tuple[OrientationRecord, dict[str, bytes]]:
    """Return the verdict on the convention of picks, and pictures (name -> JPEG) of a few micrographs with their picks.

    `flip` is the user's change of axes: where the pixels contradict it, the verdict is `contradicted`.
    """
    verdict, pictures = _check(pickset)
    if flip != AS_STORED and verdict.verdict == "contradicted":
        verdict = replace(verdict, detail=f"the picks were turned by {flip} as asked, and now {verdict.detail}")
    return verdict, pictures


def _check(pickset: PickSet) -> tuple[OrientationRecord, dict[str, bytes]]:
    """Return the verdict on picks as they are.

    Extracted particles tell most surely, where they are there and agree; else what lies under the picks is compared
    with what lies beside them. Micrographs that cannot be read are passed over: that is an error for whoever needs
    them, not for the entry.
    """
    rows = _micrographs_to_see(pickset)
    if not rows:
        return OrientationRecord(detail="no micrograph with picks is there"), {}
    diameter_px = _diameter_px(pickset, rows[0])
    pictures: dict[str, bytes] = {}
    by_boxes = _by_extracted_particles(pickset)
    if by_boxes.verdict in ("confirmed", "contradicted"):
        for _ in islice(_seen(pickset, rows, diameter_px, pictures), MICROGRAPHS_DRAWN):
            pass  # drawn on the way
        return by_boxes, pictures
    images, centers = tee(_seen(pickset, rows, diameter_px, pictures))
    both = (image for image, _ in images), (xy for _, xy in centers)
    size = ""
    if diameter_px is None:
        from cryoflow.micrographs.orientation_sizes import SIZES_A, check_at_sizes

        step_A = _pixel_size_A(pickset, rows[0])
        found, fits_px = check_at_sizes(*both, [size_A / (step_A or 1) for size_A in SIZES_A])
        fits = f"{fits_px * step_A:.0f} A" if step_A else f"{fits_px:.0f} px"
        size = f"; the particles' diameter is not known: of several, {fits} stands out most"
    else:
        from cryoflow.micrographs.orientation import check_orientation

        found = check_orientation(*both, diameter_px)
    if not pictures:
        return OrientationRecord(detail="none of its micrographs could be read"), {}
    if by_boxes.verdict == "undecided" and found.verdict == "undecided":
        return by_boxes, pictures
    return OrientationRecord(found.verdict, str(found.best), str(found).partition(": ")[2] + size), pictures


def _seen(
    pickset: PickSet, rows: Sequence[int], diameter_px: float | None, pictures: dict[str, bytes]
) -> Iterator[tuple[Image, Points]]:
    """Yield each micrograph that can be read, with its picks; the first ones are drawn into `pictures` on the way."""
    offsets, all_centers = pickset.offsets, pickset.centers_xy_px
    for row in rows:
        image = _read(str(pickset.micrographs["path"].iloc[row]))
        if image is None:
            continue
        centers = all_centers[offsets[row] : offsets[row + 1]]
        if len(pictures) < MICROGRAPHS_DRAWN:
            pictures[f"overlay_{len(pictures) + 1}.jpg"] = _picture(pickset, row, image, centers, diameter_px)
        yield image, centers


def _by_extracted_particles(pickset: PickSet) -> OrientationRecord:
    """Return the convention that extracted particles show; `not checked` where none can be compared."""
    some = pickset.extracted
    if some is None:
        return OrientationRecord()
    from cryoflow.micrographs.orientation import check_against_stack

    row = {name: i for i, name in enumerate(pickset.micrographs["name"])}[some.micrographs[0]]
    box_px = round(some.box_A / float(pickset.micrographs["pixel_size_A"].iloc[row]))
    if box_px < _SMALLEST_BOX_PX:
        return OrientationRecord()
    images, centers, stacks = tee(_with_boxes(pickset, some), 3)
    found = check_against_stack((t[0] for t in images), (t[1] for t in centers), (t[2] for t in stacks), box_px)
    if found.n_picks == 0:
        return OrientationRecord()
    detail = f"extracted particles against their micrographs: {str(found).partition(': ')[2]}"
    return OrientationRecord(found.verdict, str(found.best), detail)


def _with_boxes(pickset: PickSet, some: ExtractedSample) -> Iterator[tuple[Image, Points, Image]]:
    """Yield each micrograph of the sample that can be read, where boxes were cut from it, and these boxes."""
    from cryoflow.micrographs.image import read_stack

    paths = dict(zip(pickset.micrographs["name"], pickset.micrographs["path"], strict=True))
    for name in dict.fromkeys(some.micrographs):
        of_it = [i for i, its in enumerate(some.micrographs) if its == name]
        try:
            boxes = np.concatenate([read_stack(some.stacks[i], some.sections[i : i + 1]) for i in of_it])
        except (BadInput, OSError, ValueError) as error:
            log.info("extracted particles are not compared: %s", error)
            continue
        image = _read(str(paths[name]))
        is_sound = boxes.shape[1] == boxes.shape[2] and np.isfinite(boxes).all()
        if image is not None and is_sound and np.isfinite(image).all():
            yield image, some.cut_xy_px[of_it], boxes


def _micrographs_to_see(pickset: PickSet) -> list[int]:
    """Return rows of the micrographs that are there and have most picks; of one pixel size, where the set is a mixed
    one."""
    counts = np.diff(pickset.offsets)
    there = (pickset.micrographs["status"] == "found").to_numpy() & pickset.micrographs["path"].notna().to_numpy()
    rows = np.flatnonzero(there & (counts > 0))
    sizes_A = np.round(pickset.micrographs["pixel_size_A"].to_numpy(np.float64)[rows], 4)
    known, n_of_size = np.unique(sizes_A[np.isfinite(sizes_A)], return_counts=True)
    if len(known) > 1:
        rows = rows[sizes_A == known[n_of_size.argmax()]]
    return sorted(rows[np.argsort(-counts[rows], kind="stable")][:MICROGRAPHS_CHECKED].tolist())


def _diameter_px(pickset: PickSet, row: int) -> float | None:
    pixel_size_A = _pixel_size_A(pickset, row)
    if pickset.diameter_A and pixel_size_A:
        return pickset.diameter_A / pixel_size_A
    return pickset.box_px * DIAMETER_OF_BOX if pickset.box_px else None


def _pixel_size_A(pickset: PickSet, row: int) -> float | None:
    value = float(pickset.micrographs["pixel_size_A"].iloc[row])
    return value if value > 0 else None


def _read(path: str) -> Image | None:
    from cryoflow.micrographs.image import read_micrograph

    try:
        return read_micrograph(Path(path))
    except (BadInput, OSError) as error:
        log.info("not looked at: %s", error)
        return None


def _picture(pickset: PickSet, row: int, image: Image, centers_xy_px: Points, diameter_px: float | None) -> bytes:
    import matplotlib.pyplot as plt

    from cryoflow.drawing.figures import Marks, jpeg, overlay

    who, name = pickset.provenance, str(pickset.micrographs["name"].iloc[row])
    figure = overlay(
        image,
        [Marks(centers_xy_px, who.entry_name)],
        diameter_px=diameter_px or _MARK_OF_EDGE * min(image.shape),
        title=Path(name).name.encode(errors="replace").decode(),
        pixel_size_A=_pixel_size_A(pickset, row),
    )
    try:
        return jpeg(figure, dpi=100)
    finally:
        plt.close(figure)
