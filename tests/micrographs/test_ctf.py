"""The contrast transfer function against its formula written out, and what flipping phases does to an image."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cryoflow.micrographs.ctf import Ctf, phase_flip


def written_out(ctf: Ctf, k_x: float, k_y: float) -> float:
    """One value, with the angle of k explicit, in double precision."""
    k2 = k_x**2 + k_y**2
    angle = math.atan2(k_y, k_x) - math.radians(ctf.defocus_angle_deg)
    z = (ctf.defocus_u_A + ctf.defocus_v_A) / 2 + (ctf.defocus_u_A - ctf.defocus_v_A) / 2 * math.cos(2 * angle)
    wavelength = {300.0: 0.0196875, 200.0: 0.0250793}[ctf.voltage_kV]
    chi = math.pi * wavelength * z * k2 - math.pi / 2 * ctf.cs_mm * 1e7 * wavelength**3 * k2**2
    return math.sin(chi + math.radians(ctf.phase_shift_deg) + math.asin(ctf.amplitude_contrast))


@pytest.mark.parametrize(
    "ctf",
    [
        Ctf(15000, 15000),
        Ctf(18000, 12000, 30),
        Ctf(9000, 11000, -70, voltage_kV=200.0, cs_mm=2.0, amplitude_contrast=0.07, phase_shift_deg=85),
    ],
)
@pytest.mark.parametrize("shape_yx", [(24, 40), (25, 41)])
def test_values_are_those_of_the_formula(ctf: Ctf, shape_yx: tuple[int, int]) -> None:
    grid = ctf.on_grid(shape_yx, (1.6, 1.4))
    assert grid.shape == (shape_yx[0], shape_yx[1] // 2 + 1)
    k_y, k_x = np.fft.fftfreq(shape_yx[0], 1.6), np.fft.rfftfreq(shape_yx[1], 1.4)
    for i in range(0, shape_yx[0], 3):
        for j in range(0, len(k_x), 3):
            assert grid[i, j] == pytest.approx(written_out(ctf, k_x[j], k_y[i]), abs=2e-3)


def test_low_resolution_is_transferred_positively() -> None:
    assert Ctf(15000, 15000).on_grid((8, 8), (100.0, 100.0))[0, 0] == pytest.approx(0.1)


def test_astigmatism_of_zero_degrees_defocuses_x_most() -> None:
    grid = Ctf(20000, 10000, 0).on_grid((1000, 1000), (1.5, 1.5))
    first_zero_x = int(np.argmax(grid[0, :] < 0))
    first_zero_y = int(np.argmax(grid[:501, 0] < 0))
    assert first_zero_y / first_zero_x == pytest.approx(math.sqrt(2), rel=0.02)


def test_flipping_makes_a_delta_a_dark_spot_again() -> None:
    """Transfer a dark point by the CTF; flipped, it must be at least as sharp, and stay where it is."""
    ctf, size = Ctf(12000, 13000, 20), (2.0, 2.0)
    point = np.zeros((129, 193), np.float32)  # odd: no Nyquist frequency
    point[40, 70] = -1
    transferred = np.fft.irfft2(np.fft.rfft2(point) * ctf.on_grid(point.shape, size), s=point.shape).astype(np.float32)
    flipped = phase_flip(transferred, size, ctf)
    assert np.unravel_index(flipped.argmin(), flipped.shape) == (40, 70)
    assert flipped.min() < 3 * transferred.min()
    np.testing.assert_allclose(phase_flip(flipped, size, ctf), transferred, atol=1e-4)


@pytest.mark.parametrize("values", [{"defocus_u_A": math.nan}, {"voltage_kV": 0.0}, {"amplitude_contrast": 1.5}])
def test_unknown_values_are_noticed(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no contrast transfer function"):
        Ctf(**{"defocus_u_A": 1e4, "defocus_v_A": 1e4, **values})
