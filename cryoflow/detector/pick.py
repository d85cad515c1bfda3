"""Picking: whole micrographs through a detector, one by one, in memory that does not grow with their number."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.detector.bundle import Answers, Detector
from cryoflow.detector.loading import Loaded, MicrographToPick, check_diameter, load
from cryoflow.detector.network import JUNK, STRIDE
from cryoflow.detector.peaks import JUNK_LOGIT, find_peaks, logits_at
from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import rescale_xy
from cryoflow.micrographs.scratch import local_copy

Float = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PickedResult:
    """Picks of one micrograph.

    Attributes
    ----------
    name, shape_yx, pixel_size_A
        Of the micrograph.
    header_pixel_size_A
        Pixel size in the micrograph's header, which may be another one.
    xy_px : (n, 2) float
        Centers in the frame of `cryoflow.picks`, best first.
    probability : (n,) float
        Calibrated.
    diameter_A : (n,) float
        Estimate for each pick.
    n_junk
        Peaks that were left out because they lie on junk.
    junk : (ny / s, nx / s) float16 or None
        Probability of junk on a coarse grid that covers the micrograph, where it was asked for.
    """

    name: str
    shape_yx: tuple[int, int]
    pixel_size_A: float
    xy_px: Float
    probability: Float
    diameter_A: Float
    n_junk: int = 0
    junk: npt.NDArray[np.float16] | None = None
    header_pixel_size_A: float | None = None


def pick(
    detector: Detector,
    micrographs: Iterable[MicrographToPick],
    diameter_A: float,
    *,
    masks: bool = False,
    workers: int = 2,
) -> Iterator[PickedResult | BadInput]:
    """Pick micrographs one by one, in their order.

    The next micrographs are read and prepared in threads while the network processes one.

    Parameters
    ----------
    diameter_A
        Of the particle.
    masks
        Whether to return the probability of junk too.

    Yields
    ------
    The picks of each micrograph, of all probabilities worth listing; or the error for one that cannot be picked.
    """
    check_diameter(diameter_A)
    assert detector.network is not None  # built before the threads start
    for loaded in _prepared(detector, micrographs, diameter_A, workers):
        if isinstance(loaded, BadInput):
            yield loaded
            continue
        yield _picked(detector, loaded, detector.answers(loaded.pixels), diameter_A, masks=masks)


def score_picks(detector: Detector, path: Path, pixel_size_A: float, diameter_A: float, xy_px: Float) -> Float:
    """Return the calibrated probability of given picks of a micrograph.

    Parameters
    ----------
    xy_px : (n, 2) float, x first
        In pixels of the micrograph.

    Returns
    -------
    (n,) float

    Raises
    ------
    BadInput
        Where the micrograph cannot be used.
    """
    with local_copy(path) as copy:
        item = MicrographToPick(path.name, copy, pixel_size_A)
        loaded = load(item, diameter_A, detector.pixels_per_diameter)
    shape_yx, pixels = loaded.shape_yx, loaded.pixels
    answers = detector.answers(pixels)
    small = rescale_xy(xy_px, shape_yx, pixels.shape[:2])
    logit = logits_at(answers, small, detector.pixels_per_diameter)
    probability = detector.calibration.probabilities(logit)
    at = np.rint((small - (STRIDE - 1) / 2) / STRIDE).astype(int)
    row, column = (np.clip(v, 0, n - 1) for v, n in zip(at.T[::-1], answers.shape[:2], strict=True))
    # On carbon or ice, good-looking picks are wrong more often.
    probability[answers[row, column, JUNK] > JUNK_LOGIT] *= 0.5
    return probability


def _prepared(
    detector: Detector, micrographs: Iterable[MicrographToPick], diameter_A: float, workers: int
) -> Iterator[Loaded | BadInput]:
    def load_copy(item: MicrographToPick) -> Loaded | BadInput:
        try:
            with local_copy(item.path) as copy:
                loaded = load(replace(item, path=copy), diameter_A, detector.pixels_per_diameter)
                return loaded._replace(item=item)
        except BadInput as error:
            return error
        except OSError as error:
            return BadInput(item.path, f"cannot be read: {error.strerror or error}.")

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[Future[Loaded | BadInput]] = deque()
        for item in micrographs:
            waiting.append(pool.submit(load_copy, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _picked(detector: Detector, loaded: Loaded, answers: Answers, diameter_A: float, *, masks: bool) -> PickedResult:
    small_yx, shape_yx = loaded.pixels.shape[:2], loaded.shape_yx
    every_peak = find_peaks(answers, detector.pixels_per_diameter, shape_yx=small_yx)
    peaks = every_peak.where(every_peak.clean)
    xy = rescale_xy(peaks.xy_px, small_yx, shape_yx)
    # A center at the very edge may come to lie a part of a pixel outside.
    xy = np.clip(xy, 0, np.array(shape_yx[::-1]) - 1)
    return PickedResult(
        name=loaded.item.name,
        shape_yx=shape_yx,
        pixel_size_A=loaded.pixel_size_A,
        xy_px=xy,
        probability=detector.calibration.probabilities(peaks.logit),
        diameter_A=diameter_A * np.exp(peaks.log_size),
        n_junk=len(every_peak) - len(peaks),
        junk=_probability(answers[..., JUNK]) if masks else None,
        header_pixel_size_A=loaded.header_pixel_size_A,
    )


def _probability(logit: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    from scipy.special import expit

    probability: npt.NDArray[np.float16] = expit(logit).astype(np.float16)
    return probability
