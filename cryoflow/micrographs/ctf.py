"""The contrast transfer function of the microscope, and its simplest correction: turning flipped phases round."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft

from cryoflow.system.cpus import available_cpus


@dataclass(frozen=True)
class Ctf:
    """Contrast transfer of one micrograph.

    `sin(pi lambda z k^2 - pi/2 Cs lambda^3 k^4 + phase shift + asin(Q))`, positive at low resolution: a raw micrograph,
    with protein dark, shows the background *minus* this times the projected density. `z` goes from U, along
    `defocus_angle_deg` from x towards y, to V across it; underfocus is positive. That is the convention of CTFFIND4
    (Rohou & Grigorieff, 2015, J. Struct. Biol. 192, 216) and of RELION's and CryoSPARC's tables.

    Raises
    ------
    ValueError
        Where a value is not finite or the voltage not positive: an unknown defocus must be noticed before.
    """

    defocus_u_A: float
    defocus_v_A: float
    defocus_angle_deg: float = 0.0
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    phase_shift_deg: float = 0.0

    def __post_init__(self) -> None:
        values = tuple(vars(self).values())
        if not all(math.isfinite(v) for v in values) or self.voltage_kV <= 0 or not 0 <= self.amplitude_contrast <= 1:
            raise ValueError(f"no contrast transfer function has these values: {self}")

    @property
    def wavelength_A(self) -> float:
        """Return the relativistic wavelength of the electrons.

        >>> round(Ctf(1e4, 1e4, voltage_kV=300).wavelength_A, 5)
        0.01969
        """
        volt = 1e3 * self.voltage_kV
        return 12.2643 / math.sqrt(volt * (1 + 0.978466e-6 * volt))

    def on_grid(self, shape_yx: tuple[int, int], pixel_size_yx_A: tuple[float, float]) -> npt.NDArray[np.float32]:
        """Return the CTF's values for the transform of an image.

        Parameters
        ----------
        shape_yx
            Of the image.
        pixel_size_yx_A : (float, float)
            Of the image.

        Returns
        -------
        (ny, nx // 2 + 1) float32
            In the order of `rfft2`.
        """
        ny, nx = shape_yx
        k_y = np.fft.fftfreq(ny, pixel_size_yx_A[0])[:, None]
        k_x = np.fft.rfftfreq(nx, pixel_size_yx_A[1])[None, :]
        mean, half = (self.defocus_u_A + self.defocus_v_A) / 2, (self.defocus_u_A - self.defocus_v_A) / 2
        twice = math.radians(2 * self.defocus_angle_deg)
        # z(k) k^2 = mean k^2 + half k^2 cos(2 (angle of k - angle of U)), without the angle of k
        along_x, along_y, cross = mean + half * math.cos(twice), mean - half * math.cos(twice), half * math.sin(twice)
        scale = math.pi * self.wavelength_A
        phase = (scale * along_x * k_x**2).astype(np.float32) + (scale * along_y * k_y**2).astype(np.float32)
        if cross:
            phase += (2 * scale * cross * k_x).astype(np.float32) * k_y.astype(np.float32)
        squared = (k_x**2).astype(np.float32) + (k_y**2).astype(np.float32)
        squared *= squared
        squared *= np.float32(math.pi / 2 * self.cs_mm * 1e7 * self.wavelength_A**3)
        phase -= squared
        phase += np.float32(math.radians(self.phase_shift_deg) + math.asin(self.amplitude_contrast))
        return np.sin(phase, out=phase)


def phase_flip(
    image: npt.NDArray[np.float32], pixel_size_yx_A: tuple[float, float], ctf: Ctf
) -> npt.NDArray[np.float32]:
    """Turn round the frequencies that the microscope showed with inverted contrast.

    Protein keeps the sign that it has at low resolution in the raw micrograph (dark). The transform is periodic: near
    an edge, what the correction spreads comes from the edge opposite.

    Parameters
    ----------
    image : (ny, nx) float32
    pixel_size_yx_A : (float, float)
        Of this image: after `fourier_resample`, what that returned.

    Returns
    -------
    (ny, nx) float32
    """
    threads = available_cpus()
    spectrum = fft.rfft2(image.astype(np.float32, copy=False), workers=threads)
    np.negative(spectrum, out=spectrum, where=ctf.on_grid(image.shape, pixel_size_yx_A) < 0)
    flipped: npt.NDArray[np.float32] = fft.irfft2(spectrum, s=image.shape, workers=threads, overwrite_x=True)
    return flipped
