"""One micrograph: a scene and its surroundings through the microscope onto the camera.

The image is formed as a weak phase object: the electron wave gains a phase in proportion to the projected potential;
the contrast transfer function and an envelope turn it to contrast; what is thick or heavy takes electrons away; the
camera counts what is left, with shot noise (at the 90 electrons of a pixel, a normal deviate of Poisson's variance).
Numbers are those of a 300 kV microscope: protein adds 2.6 V to the potential of ice, a volt along an angstrom turns the
phase by 0.00065 rad, ice lets one in e of the electrons through 3,500 A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, ndimage

from cryoflow.micrographs.ctf import Ctf
from cryoflow.simulate.conditions import STANDARD, Conditions
from cryoflow.simulate.density import Specimen
from cryoflow.simulate.scene import Scene, Thing, build_scene
from cryoflow.simulate.surroundings import Surroundings, build_surroundings

RADIANS_PER_RESIDUE_A2 = 130 * 2.6 * 6.5e-4
"""Phase of one residue, spread over one square angstrom."""

ICE_MEAN_FREE_PATH_A = 3500.0
_MARGIN_A = 240.0  # of the canvas about the micrograph: transforms are periodic, and fringes spread


@dataclass(frozen=True)
class Exposure:
    """One simulated micrograph and what is true of it.

    Attributes
    ----------
    image : (ny, nx) float32
        Electrons a pixel.
    ctf
        Of the microscope when it was taken.
    true_xy_px, true_psi_deg, true_tilt_deg : (n, 2), (n,), (n,) float
        Centers of the whole, isolated particles off contamination, and how each lies.
    scene
        All objects, usable or not.
    dirty : (ny, nx) bool
        Carbon, ice crystals, gold and crystalline patches.
    """

    image: npt.NDArray[np.float32]
    ctf: Ctf
    true_xy_px: npt.NDArray[np.float64]
    true_psi_deg: npt.NDArray[np.float64]
    true_tilt_deg: npt.NDArray[np.float64]
    scene: Scene
    dirty: npt.NDArray[np.bool_]


def simulate_exposure(
    specimen: Specimen,
    shape_yx: tuple[int, int],
    pixel_size_A: float,
    rng: np.random.Generator,
    conditions: Conditions = STANDARD,
) -> Exposure:
    """Take one micrograph; the same generator gives the same image."""
    ny, nx = shape_yx
    margin = round(_MARGIN_A / pixel_size_A)
    canvas = tuple(fft.next_fast_len(n + 2 * margin, real=True) for n in shape_yx)
    canvas_yx = (canvas[0], canvas[1])
    around = build_surroundings(canvas_yx, pixel_size_A, rng, conditions)
    scene = build_scene(specimen, (nx * pixel_size_A, ny * pixel_size_A), rng, conditions)
    defocus_A, astigmatism_A = rng.uniform(*conditions.defocus_A), rng.uniform(*conditions.astigmatism_A)
    ctf = Ctf(
        defocus_A + astigmatism_A / 2,
        defocus_A - astigmatism_A / 2,
        rng.uniform(-90, 90),
        conditions.voltage_kV,
        conditions.cs_mm,
        conditions.amplitude_contrast,
    )

    phase = _splat(scene, canvas_yx, pixel_size_A, margin)
    phase *= specimen.contrast * RADIANS_PER_RESIDUE_A2 / pixel_size_A**2
    phase += around.phase_rad
    grain = np.sqrt(around.ice_A)
    grain *= conditions.ice_grain_rad / math.sqrt(300) * 1.5 / pixel_size_A
    grain *= rng.standard_normal(canvas_yx, np.float32)
    phase += grain
    contrast = _transfer(phase, ctf, pixel_size_A, conditions)

    inner = (slice(margin, margin + ny), slice(margin, margin + nx))
    passed = np.exp(around.ice_A[inner] / -ICE_MEAN_FREE_PATH_A - around.opacity[inner])
    image = passed * np.maximum(1 + contrast[inner], 0.05)
    image *= conditions.dose_per_A2 * pixel_size_A**2
    image += np.sqrt(image) * rng.standard_normal(shape_yx, np.float32)

    usable = _usable(scene, around, specimen, shape_yx, pixel_size_A, margin)
    return Exposure(
        image,
        ctf,
        scene.xy_A[usable] / pixel_size_A,
        scene.psi_deg[usable],
        scene.tilt_deg[usable],
        scene,
        around.dirty[inner],
    )


def _splat(scene: Scene, canvas_yx: tuple[int, int], pixel_size_A: float, margin: int) -> npt.NDArray[np.float32]:
    """Return residues of all objects counted into pixels, each shared by the four about it: sub-pixel places are
    kept."""
    ny, nx = canvas_yx
    if not scene.points:
        return np.zeros(canvas_yx, np.float32)
    lengths = [len(p) for p in scene.points]
    places = np.concatenate(scene.points).astype(np.float64) + np.repeat(scene.xy_A, lengths, axis=0)
    places = places / pixel_size_A + margin
    inside = ((places >= 0) & (places < (nx - 1, ny - 1))).all(axis=1)
    places = places[inside]
    corner = places.astype(np.int64)
    (fx, fy), index = (places - corner).T, corner[:, 1] * nx + corner[:, 0]
    indices = np.concatenate([index, index + 1, index + nx, index + nx + 1])
    shares = np.concatenate([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy])
    if any(w is not None for w in scene.weights):
        each = [np.ones(n, np.float32) if w is None else w for n, w in zip(lengths, scene.weights, strict=True)]
        shares *= np.tile(np.concatenate(each)[inside], 4)
    return np.bincount(indices, shares, ny * nx).astype(np.float32).reshape(canvas_yx)


def _transfer(
    phase: npt.NDArray[np.float32], ctf: Ctf, pixel_size_A: float, conditions: Conditions
) -> npt.NDArray[np.float32]:
    """Return contrast that a phase makes: twice minus the CTF, damped, and weakened as by the camera's lost
    electrons."""
    ny, nx = phase.shape
    spectrum = fft.rfft2(phase, workers=1)
    k2 = (np.fft.fftfreq(ny, pixel_size_A)[:, None] ** 2).astype(np.float32)
    k2 = k2 + (np.fft.rfftfreq(nx, pixel_size_A)[None, :] ** 2).astype(np.float32)
    k2 *= np.float32(-conditions.b_factor_A2 / 4)
    transfer = ctf.on_grid((ny, nx), (pixel_size_A, pixel_size_A))
    transfer *= np.exp(k2, out=k2)
    transfer *= np.float32(-2 * np.sqrt(conditions.detective_efficiency))
    transfer[0, 0] = 0
    spectrum *= transfer
    contrast: npt.NDArray[np.float32] = fft.irfft2(spectrum, s=phase.shape, workers=1, overwrite_x=True)
    return contrast


def _usable(
    scene: Scene,
    around: Surroundings,
    specimen: Specimen,
    shape_yx: tuple[int, int],
    pixel_size_A: float,
    margin: int,
) -> npt.NDArray[np.intp]:
    """Return whole particles that nothing touches, with their whole disc in the image and off everything dirty."""
    ny, nx = shape_yx
    radius_px = specimen.diameter_A / 2 / pixel_size_A
    x, y = (scene.xy_A / pixel_size_A).T if len(scene.xy_A) else np.zeros((2, 0))
    inside = (x >= radius_px) & (y >= radius_px) & (x <= nx - 1 - radius_px) & (y <= ny - 1 - radius_px)
    chosen = np.flatnonzero(inside & scene.isolated() & np.isin(scene.thing, (Thing.WHOLE, Thing.CROWDED)))
    step = 4  # the distance to dirt need not be known better than to 4 pixels
    clear = ndimage.distance_transform_edt(~around.dirty[::step, ::step]) * step
    row, column = (np.rint((v[chosen] + margin) / step).astype(int) for v in (y, x))
    off_dirt = clear[np.minimum(row, clear.shape[0] - 1), np.minimum(column, clear.shape[1] - 1)] > 0.8 * radius_px
    usable: npt.NDArray[np.intp] = chosen[off_dirt]
    return usable
