"""Features of picks: what the detector's network computes around each of them, in one pass over the micrograph.

The general detector has learned from thousands of simulated specimens. A small network on its features learns in
seconds, and a micrograph costs about the same whatever the number of its picks.

Features of a rotated micrograph are not the rotated features. To learn from all eight orientations, the micrograph is
rotated and passed through the network eight times; to use a model, once.
"""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from cryoflow.detector.bundle import Detector, half, tiles_of
from cryoflow.detector.network import JUNK, OFFSET_X, OFFSET_Y, PARTICLE, STRIDE, build
from cryoflow.detector.targets import from_output, to_output
from cryoflow.micrographs.fourier import rescale_xy
from cryoflow.preparation.augment import ORIENTATIONS, oriented, oriented_xy
from cryoflow.preparation.devices import inference_precision, load_keras
from cryoflow.preparation.folded_weights import fold
from cryoflow.preparation.model_folder import WEIGHTS, npz_bytes, set_weights
from cryoflow.preparation.patches import Image, Patches
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.storage.fingerprints import fingerprint_of

if TYPE_CHECKING:
    import keras
    from scipy.sparse import csr_array

Float32 = npt.NDArray[np.float32]

_RINGS_DIAMETERS = (0.25, 0.5, 0.85)
"""Radii of the rings around a pick that features are taken on: within the particle, at its edge, at its neighbors."""

_ANGLES = np.arange(8) * np.pi / 4
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)
_GRID = 4
"""The detector's particle and junk logits are taken on a grid of (2 * 4 + 1)^2 output pixels around a pick."""

_REACH_DIAMETERS = 0.3
"""Features are taken at the likeliest center of a particle within this distance of a pick: picks up to a quarter of a
diameter off count as positive, and their own places look like broken particles."""

_MOST_MOVED_DIAMETERS = 0.4

_PADDED_PX = 64
"""Sides are padded to multiples of this: each new size of an image is traced anew, which takes seconds."""


class Backbone:
    """A detector's network, from the micrograph to the maps that features are taken from."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector
        self._lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Backbone) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @cached_property
    def fingerprint(self) -> str:
        """Return a short hash of everything that determines the features, which excludes the detector's calibration."""
        described = (self.detector.architecture.to_json(), self.detector.pixels_per_diameter)
        return fingerprint_of(npz_bytes(half(self.detector.weights)), json.dumps(described, sort_keys=True), digits=16)

    @property
    def levels(self) -> tuple[tuple[str, int, int], ...]:
        """Return name, stride in pixels and channels of the maps; the last one is the detector's output."""
        widths, blocks = self.detector.architecture.widths, self.detector.architecture.blocks
        coarse = [(f"level{i}_block{blocks[i - 1]}_relu2", 2**i, widths[i - 1]) for i in (2, 3, 4) if blocks[i - 1] > 0]
        return (*coarse, ("up2_relu2", STRIDE, widths[1]), ("answers", STRIDE, 5))

    @cached_property
    def network(self) -> keras.Model:
        """Return the network from a prepared micrograph to its maps."""
        load_keras()  # micrographs are prepared before anything is trained: without its messages
        import keras

        whole = build(self.detector.architecture, mixed_precision=inference_precision(), folded=True)
        set_weights(whole, fold(self.detector.weights), self.detector.folder or Path(WEIGHTS))
        return keras.Model(whole.inputs, [whole.get_layer(name).output for name, _, _ in self.levels])

    def maps(self, prepared: npt.NDArray[np.float16]) -> list[Float32]:
        """Return the maps of a prepared micrograph, each (height, width, channels)."""
        ny, nx = prepared.shape[:2]
        padded = np.pad(prepared, [(0, -ny % _PADDED_PX), (0, -nx % _PADDED_PX), (0, 0)], mode="edge")
        with self._lock:  # threads prepare micrographs; the network has threads of its own
            found = self.network.predict_on_batch(padded.astype(np.float32)[None])
        return [np.asarray(one)[0].astype(np.float32, copy=False) for one in found]


@dataclass(frozen=True)
class DetectorFeatures:
    """Preprocessing whose patches are feature vectors, (n, orientations, 1, n_channels) float16.

    Attributes
    ----------
    backbone
        The detector's network; it becomes a part of every model that is trained on its features.
    phase_flip
        Whether to correct the phases by the CTF first.
    n_orientations
        Orientations of the micrograph: 1, 2, 4 or 8.
    centered
        Whether features are taken at the particle's center near the pick, with the distance from the pick as one more
        feature; False for models of before, whose features are taken at the pick.
    """

    backbone: Backbone = field(default_factory=lambda: Backbone(Detector.general()))
    phase_flip: bool = False
    n_orientations: int = 1
    centered: bool = True

    kind: ClassVar[str] = "detector-features"
    input_px: ClassVar[int] = 1
    margin_px: ClassVar[int] = 0

    @property
    def n_channels(self) -> int:
        """Return the number of features of a pick."""
        *coarse, fine, answers = (channels for _, _, channels in self.backbone.levels)
        per_ring = 3 * len(_RINGS_DIAMETERS)
        at_points = 4 * sum(coarse) + (1 + per_ring) * (fine + answers) + 2 * (2 * _GRID + 1) ** 2
        return at_points + (2 if self.centered else 0)

    @property
    def values_a_pick(self) -> int:
        """Return how many numbers are stored for a pick."""
        return self.n_orientations * self.n_channels

    @property
    def images(self) -> TwoChannelPreprocessing:
        """Return the preparation of micrographs with which the detector was trained."""
        return TwoChannelPreprocessing(self.backbone.detector.pixels_per_diameter, phase_flip=self.phase_flip)

    def with_orientations(self, number: int) -> DetectorFeatures:
        """Return the same with another number of orientations."""
        return replace(self, n_orientations=number)

    def patches(self, image: Image, micrograph: PickedMicrograph) -> Patches:
        """Return the features of all picks of a micrograph, (n, n_orientations, 1, n_channels)."""
        prepared = self.images.channels(image, micrograph)
        centers = rescale_xy(micrograph.centers_xy_px, image.shape, prepared.shape[:2])
        found = np.empty((len(centers), self.n_orientations, 1, self.n_channels), np.float16)
        for i, orientation in enumerate(ORIENTATIONS[: self.n_orientations]):
            xy = oriented_xy(centers, orientation, prepared.shape[:2])
            found[:, i, 0] = self.features(oriented(prepared, orientation), xy)
        return found

    def features(self, prepared: npt.NDArray[np.float16], xy_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float16]:
        """Return the features at points of a prepared micrograph, (n, n_channels); large ones are cut into tiles."""
        limit = np.finfo(np.float16).max
        found = np.empty((len(xy_px), self.n_channels), np.float16)
        nearest = np.clip(np.rint(xy_px).astype(np.intp), 0, np.array(prepared.shape[1::-1]) - 1)
        for rows, inner_rows in tiles_of(prepared.shape[0]):
            for columns, inner_columns in tiles_of(prepared.shape[1]):
                mine = np.ones(len(xy_px), bool)
                for axis, inner in enumerate((inner_columns, inner_rows)):
                    mine &= (nearest[:, axis] >= inner.start) & (nearest[:, axis] < inner.stop)
                if mine.any():
                    maps = self.backbone.maps(prepared[rows, columns])
                    near = self.from_maps(maps, xy_px[mine] - (columns.start, rows.start))
                    found[mine] = np.clip(near, -limit, limit)
        return found

    def from_maps(self, maps: list[Float32], xy_px: npt.NDArray[np.float64]) -> Float32:
        """Return the features at points of a micrograph whose maps are given, (n, n_channels)."""
        diameter_px = self.backbone.detector.pixels_per_diameter
        parts: list[Float32] = []
        if self.centered:
            centers = likeliest_centers(maps[-1], xy_px, diameter_px)
            moved = (np.linalg.norm(centers - xy_px, axis=1, keepdims=True) / diameter_px).astype(np.float32)
            parts += [moved, moved**2]
            xy_px = centers
        shared: dict[tuple[int, bool], csr_array] = {}
        for values, (name, stride, _) in zip(maps, self.backbone.levels, strict=True):
            fine = name in ("up2_relu2", "answers")
            radii = _RINGS_DIAMETERS if fine else _RINGS_DIAMETERS[:2]
            if (stride, fine) not in shared:
                points = np.concatenate([np.zeros((1, 2)), *(r * _CIRCLE for r in radii)]) * diameter_px
                # Points first, so that means and extremes of a ring are those of whole arrays.
                shared[stride, fine] = interpolation(points[:, None] + xy_px, values.shape[:2], stride)
            channels = values.shape[-1]
            near = (shared[stride, fine] @ values.reshape(-1, channels)).reshape(-1, len(xy_px), channels)
            on_rings = np.split(near[1:], len(radii))
            parts.append(near[0])
            if fine:
                parts += [f for ring in on_rings for f in (ring.mean(0), ring.max(0), ring.min(0))]
            else:
                # These maps are coarse: their outer ring, and extremes of their inner one, repeat the rest.
                parts += [on_rings[0].mean(0), on_rings[1].mean(0), on_rings[1].max(0)]
        parts.append(logits_around(maps[-1], xy_px))
        return np.concatenate(parts, axis=1)

    def training_views(self, patches: Patches, rng: np.random.Generator, *, contrast: float = 0.0) -> Float32:
        """Return each pick in a random orientation, (n, 1, 1, n_channels); contrast is left to the network's noise."""
        del contrast
        drawn = rng.integers(0, patches.shape[1], len(patches))
        return patches[np.arange(len(patches)), drawn][:, None].astype(np.float32)

    def view(self, patches: Patches, number: int) -> Float32:
        """Return the picks in the orientation of a number, (n, 1, 1, n_channels)."""
        return patches[:, number % patches.shape[1]][:, None].astype(np.float32)

    def to_json(self) -> dict[str, object]:
        """Return kind and fields; the detector by its fingerprint."""
        return {
            "kind": self.kind,
            "detector": self.backbone.fingerprint,
            "phase_flip": self.phase_flip,
            "n_orientations": self.n_orientations,
            **({"centered": True} if self.centered else {}),  # models of before have no such field
        }


def likeliest_centers(answers: Float32, xy_px: npt.NDArray[np.float64], diameter_px: float) -> npt.NDArray[np.float64]:
    """Return the center of the particle that each pick is likeliest on, (n, 2), in pixels of the micrograph.

    The output pixel with the highest particle logit within 0.3 diameters of the pick, moved by its offset, but not
    further than 0.4 diameters from the pick.

    Parameters
    ----------
    answers : (height, width, 5)
        The detector's, at every fourth pixel.
    xy_px : (n, 2)
        Picks, in pixels of the micrograph.
    """
    ny, nx = answers.shape[:2]
    reach = math.ceil(_REACH_DIAMETERS * diameter_px / STRIDE)
    row, column = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    around = np.stack([column.ravel(), row.ravel()], axis=1)
    near = np.clip(np.rint(to_output(xy_px)).astype(np.intp)[:, None] + around, 0, (nx - 1, ny - 1))
    answer = answers[near[..., 1], near[..., 0]]
    distance_px = np.linalg.norm(from_output(near) - xy_px[:, None], axis=2)
    logit = np.where(distance_px <= _REACH_DIAMETERS * diameter_px, answer[..., PARTICLE], -np.inf)
    each, best = np.arange(len(xy_px)), logit.argmax(axis=1)
    moved = from_output(near[each, best] + answer[each, best][:, [OFFSET_X, OFFSET_Y]].astype(np.float64)) - xy_px
    length = np.linalg.norm(moved, axis=1, keepdims=True)
    centers: npt.NDArray[np.float64] = xy_px + moved * np.minimum(
        1, _MOST_MOVED_DIAMETERS * diameter_px / np.maximum(length, 1e-6)
    )
    return centers


def interpolation(xy_px: npt.NDArray[np.float64], shape_yx: tuple[int, ...], stride: int) -> csr_array:
    """Return linear weights of a map's pixels at points, (points, height * width); beyond the map its edge goes on.

    Parameters
    ----------
    xy_px : (..., 2)
        In pixels of the micrograph.
    shape_yx
        Of the map. Its pixel (i, j) covers `stride` pixels of the micrograph on each axis.
    """
    from scipy.sparse import csr_array

    ny, nx = shape_yx
    low, fraction = _below(xy_px.reshape(-1, 2), stride)
    column, row = (np.clip(low[:, i, None] + (0, 1), 0, n - 1) for i, n in ((0, nx), (1, ny)))
    weight_x, weight_y = (np.stack([1 - fraction[:, i], fraction[:, i]], axis=1) for i in (0, 1))
    indices = (row[:, :, None] * nx + column[:, None, :]).astype(np.int32)
    weights = weight_y[:, :, None] * weight_x[:, None, :]
    # One row of four weights a point: a product of matrices is several times as fast as indexing.
    n = len(low)
    return csr_array((weights.ravel(), indices.ravel(), np.arange(0, 4 * n + 1, 4, dtype=np.int32)), shape=(n, ny * nx))


def logits_around(answers: Float32, xy_px: npt.NDArray[np.float64]) -> Float32:
    """Return the particle and junk logits on a grid of 9 x 9 output pixels around each point, (n, 81 * 2).

    The points of a grid lie equally far between output pixels, so that each pick's 10 x 10 pixels are read once.
    """
    ny, nx = answers.shape[:2]
    low, fraction = _below(xy_px, STRIDE)
    around = np.arange(-_GRID, _GRID + 2)
    column, row = (np.clip(low[:, i, None] + around, 0, n - 1) for i, n in ((0, nx), (1, ny)))
    near = answers[..., [PARTICLE, JUNK]][row[:, :, None], column[:, None, :]]
    x, y = (fraction[:, i, None, None, None] for i in (0, 1))
    near = (1 - y) * near[:, :-1] + y * near[:, 1:]
    near = (1 - x) * near[:, :, :-1] + x * near[:, :, 1:]
    found: Float32 = near.reshape(len(xy_px), -1)
    return found


def _below(xy_px: npt.NDArray[np.float64], stride: int) -> tuple[npt.NDArray[np.intp], Float32]:
    """Return the pixels of a map next below points, and how far beyond them the points lie, in pixels of the map."""
    at = (xy_px - (stride - 1) / 2) / stride
    low = np.floor(at).astype(np.intp)
    return low, (at - low).astype(np.float32)
