"""Batches for training: random crops of prepared micrographs, drawn and changed at random, in constant memory.

A batch depends on the seed and its number alone, so a resumed training gets the same batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from cryoflow.detector.examples import POSITIVE, Example
from cryoflow.detector.network import N_OUTPUTS, STRIDE
from cryoflow.detector.targets import N_TARGETS, WEIGHT, Labels, target_maps
from cryoflow.storage.inputs import load_npy

if TYPE_CHECKING:
    import keras

Batch = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class StreamOptions:
    """Options for drawing batches.

    Attributes
    ----------
    crop_px
        Edge of a crop; a multiple of 16.
    batch
        Crops in a batch.
    centered
        Share of crops that surely hold a particle, where the micrograph has one.
    power
        Data sets are drawn with the number of their particles to this power.
    low_pass
        Share of crops that lose their finest detail, as binned micrographs of small particles have none.
    """

    crop_px: int = 256
    batch: int = 8
    centered: float = 0.8
    power: float = 0.5
    low_pass: float = 0.0


class Batches(Protocol):
    """Batches by number."""

    def batch(self, number: int) -> Batch:
        """Return inputs and targets of batch `number`."""


class CropStream:
    """Random crops of many micrographs, with targets."""

    def __init__(
        self,
        examples: Sequence[Example],
        pixels_per_diameter: float,
        *,
        seed: int,
        options: StreamOptions | None = None,
    ) -> None:
        self.examples = list(examples)
        self.pixels_per_diameter = pixels_per_diameter
        self.seed = seed
        self.options = options or StreamOptions()
        names, self._member = np.unique([e.data_set for e in self.examples], return_inverse=True)
        counts = np.bincount(self._member, [max(e.n_positive, 1) for e in self.examples], len(names))
        share = counts**self.options.power
        of_set = np.bincount(self._member, minlength=len(names))
        self.probability_of_examples = (share / share.sum())[self._member] / of_set[self._member]

    def batch(self, number: int) -> Batch:
        """Return batch `number`: inputs (n, crop, crop, channels) and targets (n, crop / 4, crop / 4, 11)."""
        rng = np.random.default_rng([self.seed, number])
        chosen = rng.choice(len(self.examples), self.options.batch, p=self.probability_of_examples)
        edge = self.options.crop_px
        out_edge = edge // STRIDE
        first = self.examples[0].map_pixels().shape[-1]
        x = np.empty((len(chosen), edge, edge, first), np.float32)
        y = np.empty((len(chosen), out_edge, out_edge, N_TARGETS), np.float32)
        for i, index in enumerate(chosen.tolist()):
            x[i], y[i] = self._crop(self.examples[index], rng)
        return x, y

    def _crop(
        self, example: Example, rng: np.random.Generator
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        edge = self.options.crop_px
        pixels = example.map_pixels()
        row, column = self._corner(example, pixels.shape[:2], rng)
        crop = _padded(pixels, row, column, edge)
        junk = None
        if example.junk is not None:
            mask = load_npy(example.junk, mapped=True)
            junk = _padded(mask, row // STRIDE, column // STRIDE, edge // STRIDE, fill=255).astype(np.uint8)
        xy = example.xy_px - (column, row)
        orientation = rng.integers(8)
        crop, xy, junk = _turned(crop, xy, junk, int(orientation))
        labels = Labels(
            xy, example.kind, example.weight, example.log_size, example.background, junk, example.class_prior
        )
        maps = target_maps(labels, (edge, edge), self.pixels_per_diameter)
        _ignore_beyond(maps, (pixels.shape[0] - row, pixels.shape[1] - column), int(orientation))
        changed = crop.astype(np.float32)
        if self.options.low_pass and rng.random() < self.options.low_pass:
            changed = band_limited(changed, rng.uniform(0.2, 0.5))
        return augmented(changed, rng), maps

    def _corner(self, example: Example, shape_yx: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
        """Return first row and column of a crop, multiples of the stride."""
        edge = self.options.crop_px
        room = [max(0, n - edge) for n in shape_yx]
        particles = example.xy_px[example.kind == POSITIVE]
        if len(particles) and rng.random() < self.options.centered:
            x, y = particles[int(rng.integers(len(particles)))]
            corner = [v - rng.uniform(0.1, 0.9) * edge for v in (y, x)]
        else:
            corner = [rng.uniform(0, r) for r in room]
        row, column = (int(np.clip(c, 0, r)) // STRIDE * STRIDE for c, r in zip(corner, room, strict=True))
        return row, column


class MixedStream:
    """Batches whose first half is new and whose second half is replayed, with a teacher's answers for the latter.

    The targets have `network.N_OUTPUTS` more channels, the answers, and a last one: the weight of distillation, 1 on
    replayed crops. On new ones the earlier model may be wrong, so that it teaches nothing there.
    """

    def __init__(self, new: CropStream, replayed: CropStream, teacher: keras.Model | None) -> None:
        self.new, self.replayed, self.teacher = new, replayed, teacher

    def batch(self, number: int) -> Batch:
        """Return inputs and targets of batch `number`."""
        x_new, y_new = self.new.batch(number)
        x_old, y_old = self.replayed.batch(number)
        x = np.concatenate((x_new, x_old))
        y = np.concatenate((y_new, y_old))
        if self.teacher is None:
            return x, y
        taught = np.zeros((*y.shape[:-1], N_OUTPUTS + 1), np.float32)
        taught[len(x_new) :, ..., :N_OUTPUTS] = self.teacher.predict_on_batch(x_old)
        taught[len(x_new) :, ..., N_OUTPUTS] = 1
        return x, np.concatenate((y, taught), axis=-1)


def band_limited(crop: npt.NDArray[np.float32], highest: float) -> npt.NDArray[np.float32]:
    """Return a crop without frequencies above `highest` cycles a pixel; edges of the band are soft.

    Parameters
    ----------
    crop : (ny, nx, channels) float32
    highest
        In cycles a pixel; 0.5 is the Nyquist frequency.

    Returns
    -------
    (ny, nx, channels) float32
    """
    spectrum = fft.rfft2(crop, axes=(0, 1), workers=1)
    k = np.hypot(np.fft.fftfreq(crop.shape[0])[:, None], np.fft.rfftfreq(crop.shape[1])[None, :])
    spectrum *= np.clip((highest + 0.02 - k) / 0.04, 0, 1).astype(np.float32)[..., None]
    limited: npt.NDArray[np.float32] = fft.irfft2(spectrum, s=crop.shape[:2], axes=(0, 1), workers=1)
    return limited


def augmented(crop: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Return a crop with its contrast, level, noise and sharpness changed a little at random.

    Parameters
    ----------
    crop : (ny, nx, channels) float32

    Returns
    -------
    (ny, nx, channels) float32
    """
    if rng.random() < 0.3:
        sigma = abs(rng.normal(0, 0.6))
        crop = ndimage.gaussian_filter(crop, (sigma, sigma, 0))
    crop = crop * np.exp(rng.normal(0, 0.2, crop.shape[-1])).astype(np.float32)
    crop[..., 0] += np.float32(rng.normal(0, 0.3))
    if rng.random() < 0.4:
        crop += np.float32(abs(rng.normal(0, 0.35))) * rng.standard_normal(crop.shape, np.float32)
    return crop


def _padded(image: npt.NDArray[np.generic], row: int, column: int, edge: int, fill: int = 0) -> npt.NDArray[np.generic]:
    """Return a square part of an image; beyond its edge, a constant."""
    part = np.asarray(image[row : row + edge, column : column + edge])
    short = [(0, edge - n) for n in part.shape[:2]]
    if any(n for _, n in short):
        part = np.pad(part, [*short, *[(0, 0)] * (part.ndim - 2)], constant_values=fill)
    return part


def _ignore_beyond(maps: npt.NDArray[np.float32], size_yx: tuple[int, int], orientation: int) -> None:
    """Give no weight to what lies beyond a micrograph that is smaller than the crop."""
    n_y, n_x = (n // STRIDE for n in size_yx)
    edge = len(maps)
    if n_y >= edge and n_x >= edge:
        return
    beyond = np.zeros((edge, edge), bool)
    beyond[n_y:] = True
    beyond[:, n_x:] = True
    if orientation & 4:
        beyond = beyond.T
    if orientation & 2:
        beyond = beyond[::-1]
    if orientation & 1:
        beyond = beyond[:, ::-1]
    maps[beyond, WEIGHT] = 0


def _turned(
    crop: npt.NDArray[np.generic],
    xy: npt.NDArray[np.float64],
    junk: npt.NDArray[np.uint8] | None,
    orientation: int,
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.float64], npt.NDArray[np.uint8] | None]:
    """Return one of the eight orientations of a crop, its points and its mask."""
    last = crop.shape[0] - 1
    if orientation & 4:
        crop, xy = np.swapaxes(crop, 0, 1), xy[:, ::-1]
        junk = None if junk is None else junk.T
    if orientation & 2:
        crop, xy = crop[::-1], xy * (1, -1) + (0, last)
        junk = None if junk is None else junk[::-1]
    if orientation & 1:
        crop, xy = crop[:, ::-1], xy * (-1, 1) + (last, 0)
        junk = None if junk is None else junk[:, ::-1]
    return crop, xy, junk
