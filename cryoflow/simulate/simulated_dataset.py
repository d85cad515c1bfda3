"""What the simulator makes and project writers take: micrographs, their truth, and a permissive picker's picks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class SimulatedMicrograph:
    """One micrograph; positions in the frame of `cryoflow.picks`.

    Attributes
    ----------
    path
        The MRC file (float32). Builders of test projects may name a file that was not written.
    true_xy_px : (n, 2) float
        Centers of whole, isolated particles: what a perfect picker finds.
    picks_xy_px : (m, 2) float
        What the permissive picker found, right and wrong.
    pick_scores : (m,) float
        Its figure of merit.
    pick_is_right : (m,) bool
        Whether the pick lies on a particle (within a quarter of the diameter of one).
    pick_psi_deg, pick_class : (m,)
        In-plane angle (NaN where the pick is wrong) and class of the particle (class 0 is junk).
    """

    path: Path
    shape_yx: tuple[int, int]
    pixel_size_A: float
    defocus_u_A: float
    defocus_v_A: float
    defocus_angle_deg: float
    true_xy_px: npt.NDArray[np.float64]
    picks_xy_px: npt.NDArray[np.float64]
    pick_scores: npt.NDArray[np.float64]
    pick_is_right: npt.NDArray[np.bool_]
    pick_psi_deg: npt.NDArray[np.float64]
    pick_class: npt.NDArray[np.int32]


@dataclass(frozen=True)
class SimulatedDataset:
    """Micrographs of one specimen at one microscope."""

    name: str
    micrographs: tuple[SimulatedMicrograph, ...]
    diameter_A: float
    voltage_kV: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.1
    seed: int = 0
