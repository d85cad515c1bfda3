"""Do recorded coordinates lie on the pixels that they mean? Decided from pixels, against all flips and transposes.

Programs, and people who moved files between programs, disagree on where y starts and which axis comes first. Two
comparisons decide: `check_orientation` compares the pixels under the picks with those beside them, which needs nothing
but a micrograph; `check_against_stack` compares extracted particles with the micrograph, for which a few
particles are enough.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import fourier_resample, resample_to_shape, rescale_xy
from cryoflow.micrographs.normalize import median_and_deviation, normalize_locally

Image = npt.NDArray[np.float32]

DIAMETER_PX = 10
"""Micrographs are brought to a pixel size at which a particle is this wide."""

MIN_Z = 5.0
"""A convention must stand out from its surroundings by this many deviations."""

MIN_MARGIN = 3.0
"""And beat all others by this many, and by half."""

_REACH_PX = 4 * DIAMETER_PX
_MIN_PICKS = 10
_STACK_EDGE_PX = 32


@dataclass(frozen=True)
class Orientation:
    """A convention: what has to be done to recorded coordinates, the exchange of x and y first, then the flips."""

    swap_xy: bool = False
    flip_x: bool = False
    flip_y: bool = False

    def apply(self, xy_px: npt.ArrayLike, shape_yx: tuple[int, int]) -> npt.NDArray[np.float64]:
        """Return coordinates in the frame of `cryoflow.picks`, on an image of `shape_yx`.

        >>> Orientation(flip_y=True).apply([[3, 0]], (10, 20)).tolist()
        [[3.0, 9.0]]

        Parameters
        ----------
        xy_px : (n, 2) float, x first
            As recorded, in pixels.
        shape_yx
            Of the image.

        Returns
        -------
        (n, 2) float, x first
        """
        xy = np.array(xy_px, np.float64).reshape(-1, 2)
        if self.swap_xy:
            xy = xy[:, ::-1].copy()
        if self.flip_x:
            xy[:, 0] = shape_yx[1] - 1 - xy[:, 0]
        if self.flip_y:
            xy[:, 1] = shape_yx[0] - 1 - xy[:, 1]
        return xy

    def turn_boxes(self, boxes: Image) -> Image:
        """Return boxes turned the way that this convention turns the coordinates.

        Parameters
        ----------
        boxes : (n, b, b) float32

        Returns
        -------
        (n, b, b) float32
            A view of `boxes`.
        """
        if self.swap_xy:
            boxes = boxes.swapaxes(1, 2)
        if self.flip_x:
            boxes = boxes[:, :, ::-1]
        if self.flip_y:
            boxes = boxes[:, ::-1]
        return boxes

    def __str__(self) -> str:
        """Return the options of the command line: `--swap-xy --flip-y`."""
        names = [f"--{name.replace('_', '-')}" for name, is_set in vars(self).items() if is_set]
        return " ".join(names) or "as recorded"


AS_RECORDED = Orientation()
ORIENTATIONS = tuple(Orientation(s, x, y) for s in (False, True) for x in (False, True) for y in (False, True))
"""All eight, as recorded first."""


@dataclass(frozen=True)
class OrientationVerdict:
    """Result of the orientation check.

    Attributes
    ----------
    verdict
        `confirmed`: as recorded, clearly, and on the particles. `contradicted`: another convention, `best`, clearly.
        `undecided`: neither.
    best
        The convention with the highest score.
    scores
        How far each stands out, in standard deviations of its surroundings.
    offset_xy_px
        Where, seen from the picks as recorded, most particles lie: far from (0, 0) where picks are corners of boxes.
        None where nothing stands out.
    """

    verdict: Literal["confirmed", "contradicted", "undecided"]
    best: Orientation
    scores: Mapping[Orientation, float]
    n_micrographs: int
    n_picks: int
    offset_xy_px: tuple[float, float] | None = None

    def __str__(self) -> str:
        """Return one line for people.

        `contradicted: --flip-y fits better (z 31.2 against 0.4 as recorded; 812 picks on 5 micrographs)`
        """
        recorded = self.scores[AS_RECORDED]
        others = {o: z for o, z in self.scores.items() if o != AS_RECORDED}
        rival = max(others, key=lambda o: others[o])
        seen = f"{self.n_picks} picks on {self.n_micrographs} micrographs"
        if self.verdict == "contradicted":
            return (
                f"contradicted: {rival} fits better (z {others[rival]:.1f} against {recorded:.1f} as recorded; {seen})"
            )
        text = f"{self.verdict}: z {recorded:.1f} as recorded, {others[rival]:.1f} for the best other ({rival}); {seen}"
        if self.verdict == "undecided" and self.offset_xy_px and max(map(abs, self.offset_xy_px)) > 0:
            text += (
                f"; particles seem to lie {self.offset_xy_px[0]:+.0f}, {self.offset_xy_px[1]:+.0f} px from the picks"
            )
        return text


def check_orientation(
    images: Iterable[Image], centers_xy_px: Iterable[npt.ArrayLike], diameter_px: float
) -> OrientationVerdict:
    """Compare what lies under the picks, under each convention, with what lies a few diameters around them.

    Each micrograph is brought to ten pixels a diameter, flattened, and turned into two maps that do not ask whether
    particles are dark or bright: how much a blob of the particle's size stands out, and how much finer detail there is.
    The maps are averaged around all picks of all micrographs; where the convention is right, the middle of that average
    stands out from the rest of it, otherwise not. The rest serves as the measure, so that crowding, junk and few picks
    lower the score by themselves.

    Parameters
    ----------
    images : (ny, nx) float32 each
        Micrographs, one at a time: a generator keeps memory low. Five to twenty are enough. One that has NaN
        in it is passed over.
    centers_xy_px : (n, 2) float each, x first
        Their recorded picks, in pixels of the micrograph.
    diameter_px
        Of a particle, in pixels of the micrographs; 30 % more or less does not matter.
    """
    if not diameter_px > 0:
        raise ValueError(f"a diameter of {diameter_px} pixels")
    edge = 2 * _REACH_PX + 1
    sums = {o: np.zeros((2, edge, edge)) for o in ORIENTATIONS}
    counts = dict.fromkeys(ORIENTATIONS, 0)
    n_micrographs = n_picks = 0
    for image, centers in zip(images, centers_xy_px, strict=True):
        recorded = np.asarray(centers, np.float64).reshape(-1, 2)
        if not (np.isfinite(image.min()) and np.isfinite(image.max())):
            continue
        maps = _feature_maps(image, diameter_px)
        n_micrographs += 1
        n_picks += len(recorded)
        for orientation in ORIENTATIONS:
            xy = rescale_xy(orientation.apply(recorded, image.shape), image.shape, maps[0].shape)
            xy = xy[((xy >= -0.5) & (xy < np.array(maps[0].shape[::-1]) - 0.5)).all(axis=1)]
            counts[orientation] += len(xy)
            for total, one in zip(sums[orientation], maps, strict=True):
                total += cut_boxes(one, xy, edge).sum(axis=0, dtype=np.float64)
    scores = {o: _prominence(sums[o]) if counts[o] >= _MIN_PICKS else 0.0 for o in ORIENTATIONS}
    offset = _offset(sums[AS_RECORDED], max(1.0, diameter_px / DIAMETER_PX))
    found = _orientation_of(scores, n_micrographs, n_picks, offset)
    if found.verdict == "confirmed" and offset and np.hypot(*offset) > 0.4 * diameter_px:
        return replace(found, verdict="undecided")  # the right way round, perhaps, but not on the particles
    return found


def check_against_stack(
    images: Iterable[Image], centers_xy_px: Iterable[npt.ArrayLike], stacks: Iterable[Image], box_px: int
) -> OrientationVerdict:
    """Compare extracted particles with the micrographs that they were cut from.

    Boxes are cut under each convention, brought to 32 pixels or fewer, and correlated with the extracted ones: as they
    are, and turned as the convention turns. Inverted contrast, binning and a rounded center do not matter.

    Parameters
    ----------
    images, centers_xy_px
        As for `check_orientation`; ten particles in all are plenty.
    stacks : (n, b, b) float32 each
        The extracted particles of each micrograph, in the order of their centers.
    box_px
        How many pixels of the micrograph a box of the stacks spans.
    """
    found: dict[Orientation, list[npt.NDArray[np.float64]]] = {o: [] for o in ORIENTATIONS}
    n_micrographs = n_picks = 0
    for image, centers, stack in zip(images, centers_xy_px, stacks, strict=True):
        recorded = np.asarray(centers, np.float64).reshape(-1, 2)
        n_micrographs += 1
        n_picks += len(recorded)
        edge = min(_STACK_EDGE_PX, box_px, stack.shape[1])
        extracted = _coarse(stack, edge)
        for orientation in ORIENTATIONS:
            boxes = _coarse(cut_boxes(image, orientation.apply(recorded, image.shape), box_px), edge)
            turned = orientation.turn_boxes(boxes)
            found[orientation].append(np.stack([_correlate(boxes, extracted), _correlate(turned, extracted)]))
    scores = {}
    for orientation, parts in found.items():
        correlation = np.concatenate(parts, axis=1) if parts else np.zeros((2, 0))
        scores[orientation] = max(_mean_in_errors(c) for c in correlation)
    return _orientation_of(scores, n_micrographs, n_picks, None)


def _feature_maps(image: Image, diameter_px: float) -> tuple[Image, Image]:
    """Return a map of blobs and a map of detail, both with median 0 and deviation 1, of one small shape."""
    small, _ = fourier_resample(image, 1.0, max(1.0, diameter_px / DIAMETER_PX))
    d = diameter_px / max(1.0, diameter_px / DIAMETER_PX)
    flat = normalize_locally(small, 3 * d, clip=4.0)
    blobs = ndimage.gaussian_filter(flat, 0.18 * d) - ndimage.gaussian_filter(flat, 0.45 * d)
    detail = (flat - ndimage.gaussian_filter(flat, 0.15 * d)) ** 2
    detail = ndimage.gaussian_filter(detail, 0.25 * d) - ndimage.gaussian_filter(detail, 0.8 * d)
    return _standard(blobs), _standard(detail)


def _standard(image: Image) -> Image:
    median, deviation = median_and_deviation(image)
    scaled = (image - np.float32(median)) / np.float32(deviation or 1)
    return np.clip(scaled, -4, 4, out=scaled)  # one gold bead must not outweigh a hundred particles


def _prominence(sums: npt.NDArray[np.float64]) -> float:
    """Return how far the middles of the averages (maps, edge, edge) stand out from what is around; maps add in
    quadrature."""
    y, x = np.indices(sums.shape[1:]) - _REACH_PX
    beside = np.hypot(x, y) > 0.75 * DIAMETER_PX
    middle = np.hypot(x, y) <= 1.5
    squares = 0.0
    for one in sums:
        median, deviation = median_and_deviation(one[beside])
        squares += float(np.mean(one[middle] - median) / deviation) ** 2 if deviation > 0 else 0.0
    return float(np.sqrt(squares))


def _offset(sums: npt.NDArray[np.float64], scale: float) -> tuple[float, float] | None:
    """Return where, within 1.5 diameters, the average of blobs stands out most, in micrograph pixels; None where
    nowhere.

    A box's corner lies about a diameter from its center; further away are the neighbors of a crowd.
    """
    smooth = ndimage.gaussian_filter(sums[0], 1.0)
    median, deviation = median_and_deviation(smooth)
    reach = 3 * DIAMETER_PX // 2
    near = np.abs(smooth - median)[_REACH_PX - reach : _REACH_PX + reach + 1, _REACH_PX - reach : _REACH_PX + reach + 1]
    row, column = np.unravel_index(int(near.argmax()), near.shape)
    if not deviation > 0 or near[row, column] < MIN_Z * deviation:
        return None
    if near[reach, reach] > 0.7 * near[row, column]:
        return 0.0, 0.0
    return float(column - reach) * scale, float(row - reach) * scale


def _coarse(boxes: Image, edge: int) -> Image:
    """Return boxes of `edge` pixels, band-passed, each with unit norm."""
    small = np.stack([resample_to_shape(b, (edge, edge)) for b in boxes]) if len(boxes) else np.zeros((0, edge, edge))
    small = ndimage.gaussian_filter(small, (0, 0.8, 0.8)) - ndimage.gaussian_filter(small, (0, 6, 6))
    norm = np.sqrt((small**2).sum(axis=(1, 2), keepdims=True))
    unit: Image = np.divide(small, norm, out=np.zeros_like(small, np.float32), where=norm > 0)
    return unit


def _correlate(boxes: Image, others: Image) -> npt.NDArray[np.float64]:
    together: npt.NDArray[np.float64] = (boxes * others).sum(axis=(1, 2), dtype=np.float64)
    return together


def _mean_in_errors(correlation: npt.NDArray[np.float64]) -> float:
    """Return size of the mean in standard errors; for the 200 independent points of a box none is below 0.07 /
    sqrt(n)."""
    if len(correlation) < 3:
        return 0.0
    error = max(float(correlation.std()), 0.07) / np.sqrt(len(correlation))
    return abs(float(correlation.mean())) / float(error)


def _orientation_of(
    scores: Mapping[Orientation, float], n_micrographs: int, n_picks: int, offset: tuple[float, float] | None
) -> OrientationVerdict:
    best = max(scores, key=lambda o: scores[o])
    second = max(z for o, z in scores.items() if o != best)
    clear = scores[best] >= max(MIN_Z, second + MIN_MARGIN, 1.5 * second)
    verdict: Literal["confirmed", "contradicted", "undecided"] = "undecided"
    if clear:
        verdict = "confirmed" if best == AS_RECORDED else "contradicted"
    return OrientationVerdict(verdict, best, scores, n_micrographs, n_picks, offset)
