"""Picking: whole micrographs through a detector, one by one, in memory that does not grow with their number."""

from __future__ import annotations

import itertools
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.detector.calibrate import expected_f1_threshold
from cryoflow.detector.model import Answers, Detector
from cryoflow.detector.network import JUNK, STRIDE
from cryoflow.detector.parameters import LARGEST_DIAMETER_A, LEAST_DIAMETER_A
from cryoflow.detector.peaks import JUNK_LOGIT, Peaks, find_peaks, logits_at
from cryoflow.detector.prepare import prepare
from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import rescale_xy
from cryoflow.micrographs.image import MicrographFile
from cryoflow.micrographs.scratch import local_copy

log = logging.getLogger(__name__)

Float = npt.NDArray[np.float64]

PYRAMID_A = (60.0, 80.0, 105.0, 140.0, 185.0, 245.0, 325.0, 430.0)
"""Assumed diameters that are tried where the diameter is unknown; each finds particles up to a third off."""

_FEW_PARTICLES = 3.0  # so many, on all micrographs together, halve the weight of what they look like
_LEAST_PARTICLES = 0.3

_LEAST_PIXELS = 6.0  # a particle of fewer pixels across is a dot in any image
_LEAST_DIAMETERS = 2.0  # a micrograph narrower than that holds no surroundings to compare with
_MOST_PIXELS = 9000


@dataclass(frozen=True)
class MicrographToPick:
    """A micrograph that is to be picked.

    Attributes
    ----------
    name
        As its table names it.
    pixel_size_A
        None takes the header's.
    """

    name: str
    path: Path
    pixel_size_A: float | None = None


@dataclass(frozen=True)
class PickedResult:
    """Picks of one micrograph.

    Attributes
    ----------
    name, shape_yx, pixel_size_A
        Of the micrograph.
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


@dataclass(frozen=True)
class DiameterEstimate:
    """A particle diameter that was estimated from some micrographs.

    Attributes
    ----------
    diameter_A
        The estimate.
    tried
        Assumed diameter and the quality of what was found there: the expected F1, less where picks are few.
    n_micrographs
        That it was estimated from.
    """

    diameter_A: float
    tried: tuple[tuple[float, float], ...]
    n_micrographs: int


def check_diameter(diameter_A: float) -> None:
    """Refuse a diameter that no particle has.

    Raises
    ------
    BadInput
        Below 30 and above 3,000 angstrom.
    """
    if not LEAST_DIAMETER_A <= diameter_A <= LARGEST_DIAMETER_A:
        raise BadInput(
            f"{diameter_A:g} A",
            f"is no particle diameter: detectors look for {LEAST_DIAMETER_A:g} to {LARGEST_DIAMETER_A:g} A.",
            "Give the diameter in angstrom, not in pixels or nanometers.",
        )


def pick(
    detector: Detector,
    micrographs: Iterable[MicrographToPick],
    diameter_A: float,
    *,
    masks: bool = False,
    workers: int = 2,
) -> Iterator[PickedResult | BadInput]:
    """Pick micrographs one by one, in their order.

    The next micrographs are read and prepared in threads while the network looks at one.

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
        item, shape_yx, pixel_size_A, pixels = loaded
        answers = detector.answers(pixels)
        yield _picked(detector, item.name, shape_yx, pixel_size_A, pixels.shape[:2], answers, diameter_A, masks=masks)


def score_picks(detector: Detector, path: Path, pixel_size_A: float, diameter_A: float, xy_px: Float) -> Float:
    """Return the calibrated probability of given picks of a micrograph, (n,).

    Raises
    ------
    BadInput
        Where the micrograph cannot be used.
    """
    with local_copy(path) as copy:
        _, shape_yx, _, pixels = _load(detector, MicrographToPick(path.name, copy, pixel_size_A), diameter_A)
    answers = detector.answers(pixels)
    small = rescale_xy(xy_px, shape_yx, pixels.shape[:2])
    logit = logits_at(answers, small, detector.pixels_per_diameter)
    probability = detector.calibration.probability(logit)
    at = np.rint((small - (STRIDE - 1) / 2) / STRIDE).astype(int)
    row, column = (np.clip(v, 0, n - 1) for v, n in zip(at.T[::-1], answers.shape[:2], strict=True))
    probability[answers[row, column, JUNK] > JUNK_LOGIT] *= 0.5  # on carbon or ice, good-looking picks are wrong more often
    return probability


def estimate_diameter(
    detector: Detector,
    micrographs: Sequence[MicrographToPick],
    *,
    at_most: int = 6,
    levels_A: Sequence[float] = PYRAMID_A,
) -> DiameterEstimate:
    """Estimate the particle diameter of some micrographs that hold one kind of particle.

    Several assumed diameters are tried on the same micrographs. About the one whose picks have the highest expected F1,
    the diameter is taken at which particles are as large as assumed.

    Raises
    ------
    BadInput
        Where none of the micrographs can be read, or no particle is found on any.
    """
    spread = np.unique(np.linspace(0, len(micrographs) - 1, min(at_most, len(micrographs))).round().astype(int))
    chosen = [micrographs[i] for i in spread]
    errors: list[BadInput] = []
    images = []
    for item in chosen:
        try:
            with local_copy(item.path) as copy:
                images.append(_whole(replace(item, path=copy)))
        except BadInput as error:
            errors.append(error)
    if not images:
        if errors:
            raise errors[0]
        raise BadInput(Path("micrographs"), "there is none to estimate the particle diameter from.")
    tried = [_look(detector, images, level) for level in levels_A]
    best = max(range(len(tried)), key=lambda i: tried[i].quality)
    if tried[best].number < _LEAST_PARTICLES:
        raise BadInput(
            chosen[0].path.parent,
            f"no particle was found on {len(images)} micrographs at any diameter.",
            "Give the particle diameter (--diameter).",
        )
    diameter = _where_size_fits(tried[max(0, best - 1) : best + 2], tried[best])
    return DiameterEstimate(diameter, tuple((t.assumed_A, t.quality) for t in tried), len(images))


@dataclass(frozen=True)
class _Look:
    """What micrographs show at an assumed diameter.

    Attributes
    ----------
    quality
        Expected F1 of the picks, less where they are few: highest about the true diameter, however many peaks of noise
        there are at smaller ones.
    number
        Expected number of particles a micrograph.
    log_size
        Median log(diameter / assumed diameter) of the particles.
    """

    assumed_A: float
    quality: float
    number: float
    log_size: float


def _look(detector: Detector, images: Sequence[tuple[npt.NDArray[np.float32], float]], assumed_A: float) -> _Look:
    probability, log_size = [np.zeros(0)], [np.zeros(0)]
    for image, pixel_size_A in images:
        if _problem(image.shape, pixel_size_A, assumed_A, detector.pixels_per_diameter):
            continue
        pixels = prepare(image, pixel_size_A, assumed_A, pixels_per_diameter=detector.pixels_per_diameter)
        peaks = _off_junk(find_peaks(detector.answers(pixels), detector.pixels_per_diameter))[0]
        probability.append(detector.calibration.probability(peaks.logit))
        log_size.append(peaks.log_size)
    p, size = np.concatenate(probability), np.concatenate(log_size)
    number = float(p[p > 0.5].sum())
    _, expected_f1 = expected_f1_threshold(p)
    quality = expected_f1 * number / (number + _FEW_PARTICLES)
    return _Look(assumed_A, quality, number / len(images), _weighted_median(size, p * (p > 0.3)))


def _where_size_fits(looks: Sequence[_Look], best: _Look) -> float:
    """The diameter at which particles are as large as assumed: between two looks, or by the best one alone.

    The network underrates how far off an assumed diameter is, so one look's answer would lead half of the way only.
    """
    for one, other in itertools.pairwise(looks):
        if one.log_size >= 0 > other.log_size:
            part = one.log_size / (one.log_size - other.log_size)
            return float(one.assumed_A * (other.assumed_A / one.assumed_A) ** part)
    return float(best.assumed_A * math.exp(2 * best.log_size))


def _weighted_median(values: Float, weights: Float) -> float:
    if not len(values) or not weights.sum() > 0:
        return 0.0
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    return float(values[order][int(np.searchsorted(below, below[-1] / 2))])


Loaded = tuple[MicrographToPick, tuple[int, int], float, npt.NDArray[np.float16]]


def _prepared(
    detector: Detector, micrographs: Iterable[MicrographToPick], diameter_A: float, workers: int
) -> Iterator[Loaded | BadInput]:
    def load(item: MicrographToPick) -> Loaded | BadInput:
        try:
            with local_copy(item.path) as copy:
                return (item, *_load(detector, replace(item, path=copy), diameter_A)[1:])
        except BadInput as error:
            return error
        except OSError as error:
            return BadInput(item.path, f"cannot be read: {error.strerror or error}.")

    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[Future[Loaded | BadInput]] = deque()
        for item in micrographs:
            waiting.append(pool.submit(load, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _open(item: MicrographToPick) -> tuple[MicrographFile, float]:
    """Open a micrograph and settle its pixel size."""
    file = MicrographFile.open(item.path)
    in_header = file.header.pixel_size_A
    known = in_header is not None and in_header > 0 and abs(in_header - 1) > 1e-3  # 0 and 1 mean unknown
    if item.pixel_size_A is None:
        if in_header is None or not in_header > 0:
            raise BadInput(item.path, "has no pixel size in its header.", "Give the pixel size in angstrom (--apix).")
        return file, in_header
    if known and in_header is not None and abs(in_header / item.pixel_size_A - 1) > 0.1:
        raise BadInput(
            item.path,
            f"its header says {in_header:.4g} A a pixel, but {item.pixel_size_A:.4g} was given.",
            "Is it binned, or the pixel size that of extracted boxes?",
        )
    return file, item.pixel_size_A


def prepare_one(
    item: MicrographToPick, diameter_A: float, pixels_per_diameter: float, *, known: Path | None = None
) -> tuple[tuple[int, int], npt.NDArray[np.float16]]:
    """Return a micrograph's shape, and its prepared image, from the file `known` where it was prepared before.

    Raises
    ------
    BadInput
        Where the micrograph cannot be used.
    """
    file, pixel_size_A = _open(item)
    if problem := _problem(file.shape, pixel_size_A, diameter_A, pixels_per_diameter):
        raise BadInput(item.path, problem, "Check the pixel size and the diameter.")
    if known is not None:
        mapped: npt.NDArray[np.float16] = np.load(known, mmap_mode="r", allow_pickle=False)
        return file.shape, mapped
    return file.shape, prepare(file, pixel_size_A, diameter_A, pixels_per_diameter=pixels_per_diameter)


def _load(detector: Detector, item: MicrographToPick, diameter_A: float) -> Loaded:
    file, pixel_size_A = _open(item)
    if problem := _problem(file.shape, pixel_size_A, diameter_A, detector.pixels_per_diameter):
        raise BadInput(item.path, problem, "Check the pixel size and the diameter.")
    pixels = prepare(file, pixel_size_A, diameter_A, pixels_per_diameter=detector.pixels_per_diameter)
    return item, file.shape, pixel_size_A, pixels


def _whole(item: MicrographToPick) -> tuple[npt.NDArray[np.float32], float]:
    from cryoflow.micrographs.image import check_pixels

    file, pixel_size_A = _open(item)
    image = file.whole()
    check_pixels(image, item.path)
    return image, pixel_size_A


def _problem(shape_yx: tuple[int, ...], pixel_size_A: float, diameter_A: float, pixels_per_diameter: float) -> str:
    """Why a micrograph cannot be looked at for particles of this diameter, or nothing."""
    across = diameter_A / pixel_size_A
    if across < _LEAST_PIXELS:
        return f"a particle of {diameter_A:g} A is only {across:.1f} pixels of {pixel_size_A:.4g} A across."
    if min(shape_yx[:2]) < _LEAST_DIAMETERS * across:
        return f"its {shape_yx[1]} x {shape_yx[0]} pixels are too few for particles of {diameter_A:g} A."
    if max(shape_yx[:2]) / across * pixels_per_diameter > _MOST_PIXELS:
        return f"it is {max(shape_yx[:2]) / across:.0f} particles of {diameter_A:g} A wide, more than can be right."
    return ""


def _off_junk(peaks: Peaks) -> tuple[Peaks, int]:
    """Peaks that do not lie on junk, and how many do."""
    return peaks.where(peaks.clean), int((~peaks.clean).sum())


def _picked(
    detector: Detector,
    name: str,
    shape_yx: tuple[int, int],
    pixel_size_A: float,
    small_yx: tuple[int, int],
    answers: Answers,
    diameter_A: float,
    *,
    masks: bool,
) -> PickedResult:
    peaks, n_junk = _off_junk(find_peaks(answers, detector.pixels_per_diameter, shape_yx=small_yx))
    xy = rescale_xy(peaks.xy_px, small_yx, shape_yx)
    # A center at the very edge may come to lie a part of a pixel outside.
    xy = np.clip(xy, 0, np.array(shape_yx[::-1]) - 1)
    return PickedResult(
        name=name,
        shape_yx=shape_yx,
        pixel_size_A=pixel_size_A,
        xy_px=xy,
        probability=detector.calibration.probability(peaks.logit),
        diameter_A=diameter_A * np.exp(peaks.log_size),
        n_junk=n_junk,
        junk=_probability(answers[..., JUNK]) if masks else None,
    )


def _probability(logit: npt.NDArray[np.float32]) -> npt.NDArray[np.float16]:
    from scipy.special import expit

    probability: npt.NDArray[np.float16] = expit(logit).astype(np.float16)
    return probability
