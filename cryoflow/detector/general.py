"""The general model: trained by one command from nothing but this repository.

Specimens of the families that are trained on are simulated from the seed, micrographs of other specimens of the same
families choose the calibration, and the families of `HELD_OUT` and all real densities stay unseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.detector.bundle import Detector, half
from cryoflow.detector.calibrate import expected_f1_threshold, fit_calibration
from cryoflow.detector.examples import POSITIVE, UNKNOWN, Example
from cryoflow.detector.network import DetectorArchitecture
from cryoflow.detector.peaks import find_peaks
from cryoflow.detector.pick_metrics import HIT, IGNORED, ScoredDetections, figures, match_outcomes
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER
from cryoflow.detector.simulated import plans, simulate_examples
from cryoflow.detector.stream import CropStream, StreamOptions
from cryoflow.preparation.calibration import Calibration
from cryoflow.storage.fingerprints import fingerprint_of_values

VALIDATION_BATCHES = 12

_FAMILIES = ("globular", "barrel", "shell", "rod", "micelle", "filament-end")

_WITH_ASSEMBLIES = ("assembly", "globular", "assembly", "barrel", "shell", "rod", "assembly", "micelle", "filament-end")
"""Assemblies of domains have the most diverse shapes, so that every third specimen is one."""


@dataclass(frozen=True)
class TrainingStage:
    """Rounds of training at one learning rate schedule.

    Attributes
    ----------
    specimens, validation_specimens
        Simulated specimens with one micrograph each; those of validation are of the same families, and not trained on.
    families
        Of the specimens, in turn.
    hard
        Whether micrographs are harder: wrong diameters, dense layers, coarse pixels.
    low_pass
        Share of crops that lose their finest detail.
    only_new
        Whether the specimens of earlier stages are left out of the training.
    """

    name: str
    specimens: int
    validation_specimens: int
    rounds: int
    learning_rate: float
    families: tuple[str, ...]
    hard: bool = False
    low_pass: float = 0.0
    only_new: bool = False


@dataclass(frozen=True)
class GeneralRecipe:
    """Everything that the general model follows from, except the code.

    Attributes
    ----------
    steps
        Batches of a round.
    mixed_precision
        Type to compute in while training; weights are float32, and rounded to float16 at the end.
    """

    stages: tuple[TrainingStage, ...] = (
        TrainingStage("first", 1400, 48, 16, 2e-3, _FAMILIES),
        TrainingStage("refine", 1000, 36, 8, 1e-3, _FAMILIES, hard=True, low_pass=0.25),
        TrainingStage("broaden", 2400, 48, 7, 1e-3, _WITH_ASSEMBLIES, hard=True, low_pass=0.25, only_new=True),
    )
    steps: int = 200
    crop_px: int = 256
    batch: int = 8
    seed: int = 1
    widths: tuple[int, int, int, int] = (16, 40, 64, 96)
    blocks: tuple[int, int, int, int] = (0, 1, 2, 2)
    mixed_precision: str | None = "bfloat16"

    @property
    def fingerprint(self) -> str:
        """Return a short hash of the recipe."""
        return self.fingerprint_until(len(self.stages))

    def fingerprint_until(self, number: int) -> str:
        """Return a short hash of the first `number` stages: later stages can be added to a finished training."""
        values = {**asdict(self), "stages": [asdict(s) for s in self.stages[:number]]}
        return fingerprint_of_values(values, digits=16)


def train_general(
    output: Path,
    work: Path,
    recipe: GeneralRecipe | None = None,
    *,
    workers: int = 2,
    say: Callable[[str], None] = print,
    devices: Sequence[str] = (),
) -> Detector:
    """Train the general model and write it to `output`; resume an earlier call that was stopped.

    Parameters
    ----------
    work
        Folder for simulated micrographs (2 GB with the recipe that ships) and checkpoints.
    """
    from cryoflow.detector.checkpoint import finished
    from cryoflow.detector.fit import FitOptions, fit
    from cryoflow.detector.general_model_card import general_card

    recipe = recipe or GeneralRecipe()
    architecture = DetectorArchitecture(2, recipe.widths, recipe.blocks)
    fingerprints = [f"{recipe.fingerprint_until(n + 1)}/{stage.name}" for n, stage in enumerate(recipe.stages)]
    trained = [
        finished(work / stage.name, fingerprint, stage.rounds)
        for stage, fingerprint in zip(recipe.stages, fingerprints, strict=True)
    ]
    training: list[Example] = []
    validation: list[Example] = []
    weights = None
    for number, stage in enumerate(recipe.stages):
        seed = recipe.seed + 2 * number
        held = plans(stage.validation_specimens, 1, seed=seed + 1, families=stage.families, hard=stage.hard)
        validation += simulate_examples(list(held), work / "validation", workers=workers)
        if not _learns_from(number, recipe.stages, [w is None for w in trained]):
            weights = trained[number]
            continue
        say(f"stage {stage.name}: {stage.specimens} specimens")
        plan = list(plans(stage.specimens, 1, seed=seed, families=stage.families, hard=stage.hard))
        if stage.only_new:
            training = []
        training += simulate_examples(plan, work / "train", workers=workers, on_made=_telling(len(plan), say))
        options = StreamOptions(crop_px=recipe.crop_px, batch=recipe.batch, low_pass=stage.low_pass)
        stream = CropStream(training, PIXELS_PER_DIAMETER, seed=seed, options=options)
        fixed = CropStream(validation, PIXELS_PER_DIAMETER, seed=seed + 1, options=replace(options, power=0.0))
        fit_options = FitOptions(
            rounds=stage.rounds,
            steps=recipe.steps,
            learning_rate=stage.learning_rate,
            unlabeled_from=1.0,
            seed=seed,
            mixed_precision=recipe.mixed_precision,
        )
        weights, _ = fit(
            architecture,
            stream,
            [fixed.batch(i) for i in range(VALIDATION_BATCHES)],
            work / stage.name,
            fit_options,
            fingerprint=fingerprints[number],
            start=weights,
            on_round=lambda r: say(
                f"step {r.step} of {r.n_steps}, loss {r.loss:.4f}, validation {r.validation_loss:.4f}, "
                f"{r.seconds_left / 60:.0f} min left"
            ),
            devices=devices,
        )
    assert weights is not None
    detector = Detector(architecture, weights, recipe={**asdict(recipe), "fingerprint": recipe.fingerprint})
    detector = calibrated(detector, validation)
    detector = replace(detector, card=general_card(detector, recipe))
    detector.save(output)
    return detector


def _learns_from(number: int, stages: Sequence[TrainingStage], unfinished: Sequence[bool]) -> bool:
    """Return whether the specimens of a stage are needed: by the stage itself, or by a later one that includes them."""
    for later in range(number, len(stages)):
        if later > number and stages[later].only_new:
            return False
        if unfinished[later]:
            return True
    return False


def _telling(total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    def on_made(n: int) -> None:
        if n % 100 == 0 or n == total:
            say(f"{n} of {total} micrographs simulated")

    return on_made


def calibrated(detector: Detector, examples: Sequence[Example]) -> Detector:
    """Return a detector with calibration, threshold and validation figures from micrographs that it did not learn from.

    Micrographs whose particles are far from the assumed size take part too: nothing is to be found on them. Without any
    particle the calibration stays as it is.
    """
    if not any((example.kind == POSITIVE).any() for example in examples):
        return replace(detector, weights=half(detector.weights), orientations=2)
    detector = replace(detector, weights=half(detector.weights), calibration=Calibration(), orientations=2)
    found: list[tuple[ScoredDetections, npt.NDArray[np.int8]]] = []
    for example in examples:
        pixels = np.asarray(example.map_pixels())
        peaks = find_peaks(detector.answers(pixels), detector.pixels_per_diameter, shape_yx=pixels.shape[:2])
        peaks = peaks.where(peaks.clean)
        diameter_px = detector.pixels_per_diameter * (
            math.exp(example.log_size) if math.isfinite(example.log_size) else 1
        )
        scored = ScoredDetections(
            peaks.xy_px,
            peaks.logit,
            example.xy_px[example.kind == POSITIVE],
            example.xy_px[example.kind == UNKNOWN],
            diameter_px,
            example.data_set,
        )
        found.append((scored, match_outcomes(scored, 0.5)))
    logit = np.concatenate([s.score for s, _ in found])
    outcome = np.concatenate([o for _, o in found])
    counted = outcome != IGNORED
    calibration = fit_calibration(logit[counted], outcome[counted] == HIT)
    detector = replace(detector, calibration=calibration)
    with_particles = [s for s, _ in found if len(s.true_xy_px)]
    probabilities = [replace(s, score=calibration.probabilities(s.score)) for s in with_particles]
    threshold, _ = expected_f1_threshold(np.concatenate([s.score for s in probabilities]))
    metrics: dict[str, float] = {}
    for within in (0.5, 0.25):
        of_all = figures(probabilities, within, threshold)
        metrics[f"validation_average_precision_d/{1 / within:g}"] = of_all.average_precision
        metrics[f"validation_f1_d/{1 / within:g}"] = of_all.f1
    return replace(detector, threshold=threshold, metrics=metrics)
