"""What surrounds the particles: ice of varying thickness, the edge of the carbon, and dirt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from cryoflow.simulate.conditions import STANDARD, Conditions

Field = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Surroundings:
    """Fields of one shape.

    Attributes
    ----------
    ice_A : (ny, nx) float32
        Thickness of the ice.
    phase_rad : (ny, nx) float32
        Phase that carbon and dirt add to the electron wave, beside that of the ice.
    opacity : (ny, nx) float32
        What carbon and dirt take from the beam, as -log of the part that passes.
    dirty : (ny, nx) bool
        Where no particle can be used: on carbon, ice crystals, gold, crystalline patches.
    """

    ice_A: Field
    phase_rad: Field
    opacity: Field
    dirty: npt.NDArray[np.bool_]


def build_surroundings(
    shape_yx: tuple[int, int], pixel_size_A: float, rng: np.random.Generator, conditions: Conditions = STANDARD
) -> Surroundings:
    """Draw the surroundings of one micrograph."""
    ny, nx = shape_yx
    y_A, x_A = (np.arange(n, dtype=np.float32) * np.float32(pixel_size_A) for n in shape_yx)
    x_A, y_A = x_A[None, :], y_A[:, None]
    phase, opacity = np.zeros(shape_yx, np.float32), np.zeros(shape_yx, np.float32)
    dirty = np.zeros(shape_yx, bool)

    ice = rng.uniform(*conditions.ice_A) * _gradient(shape_yx, rng)
    area_um2 = ny * nx * pixel_size_A**2 * 1e-8
    if rng.random() < conditions.carbon:
        _add_carbon(phase, opacity, dirty, x_A, y_A, pixel_size_A, rng)
    for _ in range(rng.poisson(conditions.ice_crystals_per_um2 * area_um2)):
        _add_ice_crystal(phase, opacity, dirty, x_A, y_A, rng)
    if rng.random() < conditions.gold:
        for _ in range(int(rng.integers(1, 5))):
            _add_gold(phase, opacity, dirty, x_A, y_A, rng)
    if rng.random() < conditions.lattice:
        _add_lattice(phase, dirty, x_A, y_A, rng)
    if conditions.support_rad:
        grain = rng.standard_normal(shape_yx, np.float32) * np.float32(0.055 * 1.5 / pixel_size_A)
        phase += np.float32(conditions.support_rad) * grain
        opacity += np.float32(0.10 * conditions.support_rad)
    return Surroundings(ice, phase, opacity, dirty)


def _smooth_noise(shape_yx: tuple[int, int], wavelength_px: float, rng: np.random.Generator) -> Field:
    """Return Gaussian noise of unit variance without detail finer than about `wavelength_px`."""
    white = rng.standard_normal(shape_yx, np.float32)
    spectrum = fft.rfft2(white, workers=1)
    k2 = np.fft.fftfreq(shape_yx[0])[:, None] ** 2 + np.fft.rfftfreq(shape_yx[1])[None, :] ** 2
    spectrum *= np.exp(-0.5 * k2 * wavelength_px**2).astype(np.float32)
    noise: Field = fft.irfft2(spectrum, s=shape_yx, workers=1, overwrite_x=True)
    noise /= noise.std() or 1
    return noise


def _coarse_noise(shape_yx: tuple[int, int], wavelength_px: float, rng: np.random.Generator) -> Field:
    """Return `_smooth_noise` for long wavelengths, made small and magnified."""
    step = max(1, int(wavelength_px / 8))
    small = _smooth_noise((shape_yx[0] // step + 2, shape_yx[1] // step + 2), wavelength_px / step, rng)
    magnify_y, magnify_x = (_tents(n, m, step) for n, m in zip(shape_yx, small.shape, strict=True))
    noise: Field = np.asarray(magnify_y @ small @ magnify_x.T, np.float32)
    return noise


def _tents(size: int, nodes: int, step: int) -> Field:
    """Return the linear interpolation from `nodes` points, `step` pixels apart, to `size` pixels, as a matrix."""
    where = np.arange(size, dtype=np.float32)[:, None] / step - np.arange(nodes, dtype=np.float32)
    tents: Field = np.maximum(0, 1 - np.abs(where)).astype(np.float32)
    return tents


def _gradient(shape_yx: tuple[int, int], rng: np.random.Generator) -> Field:
    """Return thickness relative to its mean: a slope, the bulge towards the rim of the hole, and slow waves."""
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape_yx)
    angle, steepness, bulge = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.35), rng.uniform(-0.05, 0.15)
    along_x = 1 + steepness * math.cos(angle) * x + bulge * x**2
    along_y = steepness * math.sin(angle) * y + bulge * y**2
    relative = 0.04 * _coarse_noise(shape_yx, 0.5 * max(shape_yx), rng)
    relative += along_x[None, :]
    relative += along_y[:, None]
    np.maximum(relative, 0.3, out=relative)
    return relative


def _add_carbon(
    phase: Field,
    opacity: Field,
    dirty: npt.NDArray[np.bool_],
    x_A: Field,
    y_A: Field,
    pixel_size_A: float,
    rng: np.random.Generator,
) -> None:
    """Add a carbon film beyond the rim of a round hole that cuts off 8 to 35 % of the field along one direction."""
    radius, angle = rng.uniform(5000, 9000), rng.uniform(0, 2 * np.pi)
    outward = np.array([np.cos(angle), np.sin(angle)])
    extent = np.array([x_A[0, -1], y_A[-1, 0]])
    reach = np.abs(outward) @ extent / 2  # from the middle to the edge of the field
    rim = extent / 2 + outward * reach * rng.uniform(0.3, 0.85)
    hole_x, hole_y = (rim - outward * radius).tolist()
    beyond = np.hypot(x_A - np.float32(hole_x), y_A - np.float32(hole_y)) - np.float32(radius)
    beyond += 12 * _coarse_noise(dirty.shape, 300 / pixel_size_A, rng)  # the rim is ragged
    film = np.clip(beyond / 25 + 0.5, 0, 1).astype(np.float32)
    thickness = rng.uniform(0.8, 1.3)
    grain = rng.standard_normal(dirty.shape, np.float32) * np.float32(0.055 * 1.5 / pixel_size_A)
    phase += film * np.float32(thickness) * (grain + 0.05 * _smooth_noise(dirty.shape, 60 / pixel_size_A, rng))
    opacity += film * np.float32(0.10 * thickness)
    opacity += np.exp(-(((beyond - 30) / 40) ** 2)).astype(np.float32) * np.float32(
        0.05 * thickness
    )  # thicker at its rim
    dirty |= film > 0.1


def _add_ice_crystal(
    phase: Field, opacity: Field, dirty: npt.NDArray[np.bool_], x_A: Field, y_A: Field, rng: np.random.Generator
) -> None:
    """Add a blob of crystalline ice that fell on the grid: mostly small, sometimes large, darker than all protein."""
    radius = float(np.clip(70 * rng.pareto(1.6) + 60, 60, 650))
    where, window = _window(x_A, y_A, 1.5 * radius, rng)
    if window is None:
        return
    x, y = x_A[:, window[1]] - where[0], y_A[window[0]] - where[1]
    lobes = rng.normal(0, (0.10, 0.04, 0.015))
    phases = rng.uniform(0, 2 * np.pi, 3)
    angle = np.arctan2(y, x)
    outline = radius * (
        1 + sum(a * np.cos((k + 2) * angle + p) for k, (a, p) in enumerate(zip(lobes, phases, strict=True)))
    )
    depth = 1 - np.hypot(x, y) / outline
    height = np.sqrt(np.clip(depth * 2.5, 0, 1)).astype(np.float32)
    phase[window] += height * np.float32(rng.uniform(0.5, 0.9))
    opacity[window] += height * np.float32(rng.uniform(0.12, 0.25) * (1 + radius / 400))
    dirty[window] |= height > 0.05


def _add_gold(
    phase: Field, opacity: Field, dirty: npt.NDArray[np.bool_], x_A: Field, y_A: Field, rng: np.random.Generator
) -> None:
    """Add a gold bead of 10 nm or so: nearly black, with a fringe."""
    radius = rng.uniform(40, 65)
    where, window = _window(x_A, y_A, 1.2 * radius, rng)
    if window is None:
        return
    distance2 = (x_A[:, window[1]] - where[0]) ** 2 + (y_A[window[0]] - where[1]) ** 2
    height = np.sqrt(np.clip(1 - distance2 / radius**2, 0, 1)).astype(np.float32)
    phase[window] += height * np.float32(1.2)
    opacity[window] += height * np.float32(1.4)
    dirty[window] |= height > 0


def _add_lattice(phase: Field, dirty: npt.NDArray[np.bool_], x_A: Field, y_A: Field, rng: np.random.Generator) -> None:
    """Add a patch of a two-dimensional crystal with cells of 45 to 80 A and soft edges."""
    radius, cell, turn = rng.uniform(250, 550), rng.uniform(45, 80), rng.uniform(0, np.pi)
    where, window = _window(x_A, y_A, 1.6 * radius, rng)
    if window is None:
        return
    x, y = x_A[:, window[1]] - where[0], y_A[window[0]] - where[1]
    waves = sum(
        np.cos(2 * math.pi / cell * (math.cos(turn + step) * x + math.sin(turn + step) * y))
        for step in (0, math.pi / 3, 2 * math.pi / 3)
    )
    angle = np.arctan2(y, x)
    outline = radius * (1 + 0.15 * np.cos(3 * angle + turn) + 0.1 * np.cos(5 * angle))
    patch = np.clip((outline - np.hypot(x, y)) / 60, 0, 1)
    phase[window] += (patch * (0.03 + 0.018 * waves)).astype(np.float32)
    dirty[window] |= patch > 0.1


def _window(
    x_A: Field, y_A: Field, reach_A: float, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[slice, slice] | None]:
    """Return a random place, and the part of the canvas within `reach_A` of it; None where that is empty."""
    where = (float(rng.uniform(x_A[0, 0], x_A[0, -1])), float(rng.uniform(y_A[0, 0], y_A[-1, 0])))
    spans = []
    for axis, center in ((y_A[:, 0], where[1]), (x_A[0], where[0])):
        first, last = np.searchsorted(axis, (center - reach_A, center + reach_A))
        if first == last:
            return where, None
        spans.append(slice(int(first), int(last)))
    return where, (spans[0], spans[1])
