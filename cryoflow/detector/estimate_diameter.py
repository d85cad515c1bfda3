"""Estimate the particle diameter of micrographs that hold one kind of particle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from cryoflow.detector.bundle import Detector
from cryoflow.detector.calibrate import expected_f1_threshold
from cryoflow.detector.loading import MicrographToPick, none_usable, open_micrograph, problem_of
from cryoflow.detector.peaks import find_peaks
from cryoflow.detector.prepare import prepare
from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import fourier_resample
from cryoflow.micrographs.scratch import local_copy
from cryoflow.wording import counted

Float = npt.NDArray[np.float64]

MICROGRAPHS = 6
"""Number of micrographs that one estimate uses at most."""
PYRAMID_A = (60.0, 80.0, 105.0, 140.0, 185.0, 245.0, 325.0, 430.0)
"""Assumed diameters to try, in rising order; each finds particles up to a third off."""

_FEW_PARTICLES = 1.0
"""At this expected number of particles on all micrographs together, the quality of an assumed diameter is halved."""

_LEAST_QUALITY = 0.25
"""Below this quality nothing is a particle: micrographs of noise reach 0.17, validation specimens at least 0.46."""

_SHARPNESS = 32.0
"""Power of the quality that weighs an assumed diameter. Chosen on validation specimens: at 32, an assumed diameter with
98 % of the best quality has half of the best one's weight."""

_CERTAIN = 0.5
"""Picks above this probability are counted, and their sizes averaged."""

FIELD_DIAMETERS = 32.0
"""At each assumed diameter, the network processes the middle of a micrograph, at most so many diameters wide. A whole
micrograph holds thousands of small particles, more than an estimate needs."""


@dataclass(frozen=True)
class DiameterEstimate:
    """A particle diameter that was estimated from some micrographs.

    Attributes
    ----------
    diameter_A
        The estimate.
    tried
        Each assumed diameter with the quality of its picks; see `quality_of`.
    n_micrographs
        Number of micrographs that the estimate is based on.
    """

    diameter_A: float
    tried: tuple[tuple[float, float], ...]
    n_micrographs: int


def estimate_diameter(detector: Detector, micrographs: Sequence[MicrographToPick]) -> DiameterEstimate:
    """Return the mean of the diameters that the network sees at several assumed ones, weighted by the picks' quality.

    The network compares each particle with the assumed diameter, and does so best where the two are alike.

    `MICROGRAPHS` of them are used, spread evenly.

    Raises
    ------
    BadInput
        Where none of the micrographs can be used, or no particle is found on any.
    """
    spread = np.unique(np.linspace(0, len(micrographs) - 1, min(MICROGRAPHS, len(micrographs))).round().astype(int))
    errors: list[BadInput] = []
    found: list[list[_LevelPicks]] = [[] for _ in PYRAMID_A]
    n_used = 0
    for i in spread:
        try:
            with local_copy(micrographs[i].path) as copy:
                of_levels = _pick_at_levels(detector, replace(micrographs[i], path=copy), PYRAMID_A)
        except BadInput as error:
            errors.append(error)
            continue
        except OSError as error:
            errors.append(BadInput(micrographs[i].path, f"cannot be read: {error.strerror or error}."))
            continue
        n_used += 1
        for level, picks in zip(found, of_levels, strict=True):
            level.append(picks)
    if not n_used:
        if errors:
            raise none_usable(errors)
        raise BadInput(Path("micrographs"), "there is none to estimate the particle diameter from.")
    pooled = [_LevelPicks(*(np.concatenate(part) for part in zip(*level, strict=True))) for level in found]
    quality = np.array([quality_of(picks.probability) for picks in pooled])
    if quality.max() < _LEAST_QUALITY:
        raise BadInput(
            micrographs[int(spread[0])].path.parent,
            f"no particle was found on {counted(n_used, 'micrograph')} at any diameter.",
            "Give the particle diameter (--diameter).",
        )
    weight = (quality / quality.max()) ** _SHARPNESS
    log_diameter = np.log(PYRAMID_A) + [picks.mean_log_size for picks in pooled]
    diameter_A = math.exp(float(np.average(log_diameter, weights=weight)))
    return DiameterEstimate(diameter_A, tuple(zip(PYRAMID_A, quality.tolist(), strict=True)), n_used)


def quality_of(probability: Float) -> float:
    """Return the expected F1 of the picks at an assumed diameter, reduced where picks are few.

    It is highest about the true diameter: too small a diameter gives many peaks, but of low probability.

    Parameters
    ----------
    probability : (n,) float
        Calibrated.
    """
    number = float(probability[probability > _CERTAIN].sum())
    _, expected_f1 = expected_f1_threshold(probability)
    return expected_f1 * number / (number + _FEW_PARTICLES)


class _LevelPicks(NamedTuple):
    """Picks at one assumed diameter: their probabilities, and log(diameter / assumed diameter) of each."""

    probability: Float
    log_size: Float

    @property
    def mean_log_size(self) -> float:
        """Return the mean over the picks that are probably particles; 0 where there is none."""
        weight = np.where(self.probability > _CERTAIN, self.probability, 0)
        return float((weight * self.log_size).sum() / weight.sum()) if weight.any() else 0.0


def _pick_at_levels(detector: Detector, item: MicrographToPick, levels_A: Sequence[float]) -> list[_LevelPicks]:
    """Return a micrograph's picks at each assumed diameter, none where it cannot be used."""
    file, pixel_size_A = open_micrograph(item)
    across = detector.pixels_per_diameter
    problems = [problem_of(file.shape, pixel_size_A, level, across) for level in levels_A]
    if all(problems):
        raise BadInput(item.path, problems[0], "Check the pixel size.")
    finest_A = next(level for level, problem in zip(levels_A, problems, strict=True) if not problem) / across
    # The file is transformed once; coarser levels are made from the finest one, which holds all that they need.
    finest, (small_y_A, small_x_A) = fourier_resample(file, pixel_size_A, finest_A, workers=1)
    small_A = math.sqrt(small_y_A * small_x_A)
    found: list[_LevelPicks] = []
    for level, problem in zip(levels_A, problems, strict=True):
        if problem:
            found.append(_LevelPicks(np.zeros(0), np.zeros(0)))
            continue
        field = _middle(finest, FIELD_DIAMETERS * level / small_A)
        pixels = prepare(field, small_A, level, pixels_per_diameter=across)
        peaks = find_peaks(detector.answers(pixels, orientations=1), across, shape_yx=pixels.shape[:2])
        peaks = peaks.where(peaks.clean)
        found.append(_LevelPicks(detector.calibration.probabilities(peaks.logit), peaks.log_size))
    return found


def _middle(image: npt.NDArray[np.float32], edge_px: float) -> npt.NDArray[np.float32]:
    """Return the middle of an image, at most `edge_px` pixels wide and high."""
    rows, columns = (slice(max(0, round((n - edge_px) / 2)), round((n + edge_px) / 2)) for n in image.shape)
    return image[rows, columns]
