"""Estimating a particle diameter: how much of a micrograph is looked at, and what the estimate follows from.

The network's answers are replaced by made-up ones, so that each test is about the estimate alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cryoflow.detector.bundle import Detector
from cryoflow.detector.estimate_diameter import FIELD_DIAMETERS, PYRAMID_A, estimate_diameter
from cryoflow.detector.loading import MicrographToPick
from cryoflow.detector.network import JUNK, LOG_SIZE, N_OUTPUTS, PARTICLE, STRIDE, DetectorArchitecture
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER
from cryoflow.micrographs.image import write_mrc
from cryoflow.preparation.calibration import Calibration

PIXEL_A = 2.0


@pytest.fixture
def micrograph(tmp_path: Path) -> MicrographToPick:
    """Return a micrograph of noise, 48 particles of 60 A wide and 64 high."""
    path = tmp_path / "noise.mrc"
    write_mrc(path, np.random.default_rng(0).standard_normal((1920, 1440), np.float32), PIXEL_A)
    return MicrographToPick("noise", path)


def answers_of(shape_yx: tuple[int, int], log_size: float) -> npt.NDArray[np.float32]:
    """Return answers with a sure particle at every second diameter, of one size."""
    answers = np.zeros((-(-shape_yx[0] // STRIDE), -(-shape_yx[1] // STRIDE), N_OUTPUTS), np.float32)
    answers[..., [PARTICLE, JUNK]] = -9
    answers[6::12, 6::12, PARTICLE] = 9
    answers[..., LOG_SIZE] = log_size
    return answers


def test_small_diameters_are_looked_for_in_the_middle_alone(
    micrograph: MicrographToPick, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    def look(_: Detector, prepared: npt.NDArray[np.float16], *, orientations: int | None = None) -> object:
        seen.append((prepared.shape[0], prepared.shape[1]))
        return answers_of(seen[-1], 0.0)

    monkeypatch.setattr(Detector, "answers", look)
    estimate_diameter(Detector(DetectorArchitecture(), {}, calibration=Calibration()), [micrograph])
    assert len(seen) == len(PYRAMID_A)
    most = FIELD_DIAMETERS * PIXELS_PER_DIAMETER
    assert seen[0] == (most, most)  # of 1536 x 1152
    assert seen[-1] == pytest.approx((1920 * PIXEL_A / PYRAMID_A[-1] * 24, 1440 * PIXEL_A / PYRAMID_A[-1] * 24), abs=2)


def test_the_size_that_the_network_sees_moves_the_estimate(
    micrograph: MicrographToPick, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picks are as good at each assumed diameter, so that the sizes alone can move the estimate."""
    estimates = []
    for log_size in (0.0, 0.2):

        def look(
            _: Detector, prepared: npt.NDArray[np.float16], *, orientations: int | None = None, size: float = log_size
        ) -> object:
            return answers_of((prepared.shape[0], prepared.shape[1]), size)

        monkeypatch.setattr(Detector, "answers", look)
        detector = Detector(DetectorArchitecture(), {}, calibration=Calibration())
        estimates.append(estimate_diameter(detector, [micrograph]).diameter_A)
    assert estimates[1] / estimates[0] == pytest.approx(np.exp(0.2), rel=1e-6)
