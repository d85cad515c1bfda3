"""Topaz' settings, derived from the micrographs and their picks: downsampling, radii, and the number of particles.

Sources: topaz-em 0.3.20 (training.py, stats.py, extract.py), its README, and RELION's wrapper (src/autopicker.cpp).
"""

from __future__ import annotations

import logging
import math

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
from cryoflow.pickers.training_sets.split import TRAIN
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.picks import FloatArray
from cryoflow.storage.safe_names import expanded

log = logging.getLogger(__name__)

RECEPTIVE_FIELD_PX = {"resnet8": 71, "resnet16": 91, "conv31": 31, "conv63": 63, "conv127": 127}
SMALLEST_TARGET_A = 4.0


def downsampling(training: TrainingSet, settings: DerivedSettings) -> npt.NDArray[np.int64]:
    """Return whole factor of each micrograph, such that all end near one pixel size in which a particle fits the
    network.

    Returns
    -------
    (n_micrographs,) int

    Raises
    ------
    BadInput, MissingMetadata
        Where what was given cannot be, or a pixel size that is needed is not known.
    """
    pixel_A = training.micrographs["pixel_size_A"].to_numpy(np.float64)
    diameter_A = training.micrographs["diameter_A"].to_numpy(np.float64)
    why = "Topaz's default; a .sav file goes on from it"
    model = settings.derive("model", "resnet8", why)
    if model not in RECEPTIVE_FIELD_PX:
        if not expanded(model).is_file():
            raise BadInput("model", f"is {model}: no file, and none of {', '.join(RECEPTIVE_FIELD_PX)}.")
        model = settings.derive_path("model", why)
    field_px = RECEPTIVE_FIELD_PX.get(model, RECEPTIVE_FIELD_PX["resnet8"])
    given = settings.derive("downsampling", "auto", "each entry's own whole number, to about the target_pixel_size")
    if given != "auto" and not (given.isdecimal() and int(given) > 0):
        raise BadInput("downsampling", f"is {given}; it is a whole number, 1 or more, or auto.")
    target_A = max(SMALLEST_TARGET_A, 2 * float(np.nanmax(diameter_A, initial=0.0)) / field_px)
    why = f"angstrom: a particle fills about half of {field_px} px, {model}'s view; at least 4"
    factor = np.full(len(pixel_A), int(given) if given != "auto" else 1)
    if not np.isnan(pixel_A).any():
        if given == "auto":
            target_A, factor = _common_size(pixel_A, target_A)
        else:
            target_A, why = float(np.exp(np.log(pixel_A * factor).mean())), "angstrom, from the downsampling"
    elif given == "auto":
        raise MissingMetadata(
            "downsampling",
            "cannot be derived: a pixel size is not known.",
            "Give --set downsampling=4, or the pixel size on ingest.",
        )
    wanted_A = settings.derive("target_pixel_size", target_A, why)
    if not wanted_A > 0:
        raise BadInput("target_pixel_size", f"is {wanted_A:g}; it is a number of angstrom above 0.")
    if given == "auto" and wanted_A != target_A:
        factor = _factors(pixel_A, wanted_A)
    for entry, rows in training.micrographs.groupby("entry").indices.items():
        for value in np.unique(factor[rows]):
            at = pixel_A[rows][factor[rows] == value][0]
            settings.note(f"downsampling of {entry}", int(value), f"{at:.4g} A a pixel become {at * value:.4g}")
    return factor


def _factors(pixel_A: FloatArray, target_A: float) -> npt.NDArray[np.int64]:
    return np.maximum(1, np.round(target_A / pixel_A).astype(np.int64))


def _common_size(pixel_A: FloatArray, target_A: float) -> tuple[float, npt.NDArray[np.int64]]:
    """Return the pixel size near the wanted one to which whole factors bring all micrographs best, and the factors."""
    sizes = np.unique(pixel_A)
    tries = target_A * np.append(1.0, np.geomspace(0.8, 1.25, 91))
    tries = tries[tries >= SMALLEST_TARGET_A]
    ends = sizes * np.stack([_factors(sizes, t) for t in tries])
    unlike = ends.max(axis=1) / ends.min(axis=1)
    good = tries[unlike <= 1.02 * unlike.min()]
    near_A = float(good[np.abs(np.log(good / target_A)).argmin()])
    factor = _factors(pixel_A, near_A)
    reached_A = float(np.exp(np.log(pixel_A * factor).mean()))  # what a model should see again, to the digit
    reached_A = float(f"{reached_A:.6g}")  # as it is kept
    return (reached_A if (_factors(pixel_A, reached_A) == factor).all() else near_A), factor


def _pixels_across(training: TrainingSet) -> float:
    """Return mean particle diameter in downsampled pixels."""
    micrographs = training.micrographs
    across = micrographs["box_px"].to_numpy(np.float64) / micrographs["scale"].to_numpy(np.float64)
    return float(np.nanmean(across)) if np.isfinite(across).any() else float("nan")


def derive_training(training: TrainingSet, settings: DerivedSettings) -> None:
    """Derive radii, the number of particles to expect, and how to train.

    Raises
    ------
    BadInput
        Where a setting has a value that it must not have.
    """
    across_px = _pixels_across(training)
    radius = settings.derive(
        "radius",
        max(1, round(across_px / 8)),
        f"a quarter of the particle's radius, {across_px:.3g} px across when downsampled",
    )
    derive_extract_radius(training, settings)
    train = training.micrographs["split"].to_numpy() == TRAIN
    labeled = float(training.micrographs["n_picks"].to_numpy()[train].mean())
    expected = settings.derive(
        "expected_particles",
        float(math.ceil(1.25 * labeled)),
        f"1.25 times the {labeled:.4g} labeled per training micrograph: some are not labeled",
    )
    if expected <= labeled:
        raise BadInput(
            "expected_particles",
            f"is {expected:g}, not more than the {labeled:.4g} labeled per training micrograph.",
            "Topaz would silently change its method; give the true number, unlabeled ones included.",
        )
    corrects = settings.derive(
        "correct_expected", True, "Topaz 0.3.0 and later count too many pixels a particle; set no for 0.2"
    )
    number = corrected_expected(expected, labeled, radius) if corrects else expected
    why = (
        f"passed as -n: L + (N - L)/(2r + 1) with N={expected:g}, L={labeled:.4g}, r={radius}; since 0.3.0 it takes "
        f"{2 * radius + 1} times too many pixels a particle, and would look for that many more unlabeled ones"
        if corrects
        else "passed as -n, not corrected"
    )
    settings.note("number_for_topaz", round(number, 4), why)
    if corrects:
        log.info("Topaz -n %.4g: %s", number, why)
    for name, derived in (("units", 32), ("epochs", 10), ("epoch_size", 1000), ("minibatch_size", 256)):
        settings.derive(name, derived, "Topaz's default")
    settings.derive("learning_rate", 2e-4, "Topaz's default")
    settings.derive("method", "GE-binomial", "Topaz's default")
    settings.derive("pretrained", True, "start from the detector that Topaz brings for this architecture")


def derive_extract_radius(training: TrainingSet, settings: DerivedSettings) -> None:
    """Derive the radius within which one particle is picked once, in downsampled pixels.

    Raises
    ------
    MissingMetadata
        Where no diameter is known, and it is not given.
    """
    across_px = _pixels_across(training)
    if np.isnan(across_px):
        radius = settings.derive("extract_radius", 0, "must be given: no diameter is known")
        if radius < 1:
            raise MissingMetadata(
                "extract_radius",
                "cannot be derived: no diameter is known.",
                "Give --diameter, or --set extract_radius=...",
            )
        return
    settings.derive("extract_radius", max(1, round(across_px / 2)), "the particle's radius in downsampled pixels")


def corrected_expected(expected: float, labeled: float, radius: int) -> float:
    """Return the number to pass as `-n` to Topaz 0.3.0 and later, so that it works with the true one.

    Its `stats.pixels_given_radius` makes a cube of 2r+1 layers where it should make one: the share of positive pixels
    and the share labeled come out 2r+1 times too large, and with them the unlabeled particles it looks for.

    >>> corrected_expected(100, 80, 3)
    82.85714285714286
    """
    return labeled + (expected - labeled) / (2 * radius + 1)
