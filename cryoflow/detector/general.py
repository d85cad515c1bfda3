"""The general model: trained by one command from nothing but this repository.

Specimens of the families that are trained on are simulated from the seed, micrographs of other specimens of the same
families choose the calibration, and the families of `HELD_OUT` and all real densities stay unseen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryoflow.detector.network import DetectorArchitecture
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER
from cryoflow.detector.simulated import HELD_OUT, TRAINED, plans, simulate_examples
from cryoflow.detector.stream import CropStream, StreamOptions

VALIDATION_BATCHES = 12


@dataclass(frozen=True)
class GeneralRecipe:
    """Everything that the general model follows from, except the code.

    Attributes
    ----------
    specimens, micrographs
        Simulated specimens, and micrographs of each.
    validation_specimens
        Specimens of the same families, not trained on, one micrograph each.
    rounds, steps
        Rounds of so many batches.
    """

    specimens: int = 1400
    micrographs: int = 1
    validation_specimens: int = 48
    rounds: int = 16
    steps: int = 200
    learning_rate: float = 2e-3
    crop_px: int = 256
    batch: int = 8
    seed: int = 1
    widths: tuple[int, int, int, int] = (16, 40, 64, 96)
    blocks: tuple[int, int, int, int] = (0, 1, 2, 2)
    mixed_precision: str | None = "bfloat16"

    @property
    def fingerprint(self) -> str:
        """Short hash of the recipe."""
        text = json.dumps({**asdict(self), "families": TRAINED, "held_out": HELD_OUT}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def train_weights(
    folder: Path, recipe: GeneralRecipe, *, workers: int = 2, say: Callable[[str], None] = print
) -> tuple[dict[str, object], list[dict[str, float]]]:
    """Simulate and train; go on where an earlier call was stopped. Returns weights and the history."""
    from cryoflow.detector.fit import FitOptions, fit

    folder.mkdir(parents=True, exist_ok=True)
    validation = simulate_examples(
        list(plans(recipe.validation_specimens, 1, seed=recipe.seed + 1)), folder / "validation", workers=workers
    )
    train = simulate_examples(
        list(plans(recipe.specimens, recipe.micrographs, seed=recipe.seed)),
        folder / "train",
        workers=workers,
        on_made=lambda n: say(f"{n} of {recipe.specimens * recipe.micrographs} micrographs") if n % 100 == 0 else None,
    )
    options = StreamOptions(crop_px=recipe.crop_px, batch=recipe.batch)
    stream = CropStream(train, PIXELS_PER_DIAMETER, seed=recipe.seed, options=options)
    fixed = CropStream(validation, PIXELS_PER_DIAMETER, seed=recipe.seed + 1, options=replace(options, power=0.0))
    batches = [fixed.batch(i) for i in range(VALIDATION_BATCHES)]
    weights, history = fit(
        DetectorArchitecture(2, recipe.widths, recipe.blocks),
        stream,
        batches,
        folder,
        FitOptions(
            rounds=recipe.rounds,
            steps=recipe.steps,
            learning_rate=recipe.learning_rate,
            unlabeled_from=1.0,
            seed=recipe.seed,
            mixed_precision=recipe.mixed_precision,
<<<<<<< HEAD
        ),
        fingerprint=recipe.fingerprint,
        on_round=lambda r: say(
            f"step {r.step} of {r.n_steps}, loss {r.loss:.4f}, validation {r.validation_loss:.4f}, "
            f"{r.seconds_left / 60:.0f} min left"
        ),
    )
    return dict(weights), history
=======
        )
        weights, _ = fit(
            architecture,
            stream,
            [fixed.batch(i) for i in range(VALIDATION_BATCHES)],
            work / stage.name,
            fit_options,
            fingerprint=f"{recipe.fingerprint}/{stage.name}",
            start=weights,
            on_round=lambda r: say(
                f"step {r.step} of {r.n_steps}, loss {r.loss:.4f}, validation {r.validation_loss:.4f}, "
                f"{r.seconds_left / 60:.0f} min left"
            ),
        )
    assert weights is not None
    detector = Detector(architecture, weights, recipe={**asdict(recipe), "fingerprint": recipe.fingerprint})
    detector = calibrated(detector, validation)
    detector = replace(detector, card=general_card(detector, recipe))
    detector.save(output)
    return detector


def _telling(total: int, say: Callable[[str], None]) -> Callable[[int], None]:
    def on_made(n: int) -> None:
        if n % 100 == 0 or n == total:
            say(f"{n} of {total} micrographs simulated")

    return on_made


def calibrated(detector: Detector, examples: Sequence[Example]) -> Detector:
    """Return a detector with calibration, threshold and validation figures from micrographs that it did not learn from.

    Micrographs whose particles are far from the assumed size take part too: nothing is to be found on them.
    """
    detector = replace(detector, weights=half(detector.weights), calibration=Calibration())
    found: list[tuple[Scored, npt.NDArray[np.int8]]] = []
    for example in examples:
        pixels = np.asarray(example.map_pixels())
        peaks = find_peaks(detector.answers(pixels), detector.pixels_per_diameter, shape_yx=pixels.shape[:2])
        peaks = peaks.where(peaks.junk <= 0)
        diameter_px = detector.pixels_per_diameter * (
            math.exp(example.log_size) if math.isfinite(example.log_size) else 1
        )
        scored = Scored(
            peaks.xy_px,
            peaks.logit,
            example.xy_px[example.kind == POSITIVE],
            example.xy_px[example.kind == UNKNOWN],
            diameter_px,
            example.data_set,
        )
        found.append((scored, outcomes(scored, 0.5)))
    logit = np.concatenate([s.score for s, _ in found])
    outcome = np.concatenate([o for _, o in found])
    counted = outcome != IGNORED
    calibration = fit_calibration(logit[counted], outcome[counted] == HIT)
    detector = replace(detector, calibration=calibration)
    with_particles = [s for s, _ in found if len(s.true_xy_px)]
    probabilities = [replace(s, score=calibration.probability(s.score)) for s in with_particles]
    threshold, _ = expected_f1_threshold(np.concatenate([s.score for s in probabilities]))
    metrics: dict[str, float] = {}
    for within in (0.5, 0.25):
        of_all = figures(probabilities, within, threshold)
        metrics[f"validation_average_precision_d/{1 / within:g}"] = of_all.average_precision
        metrics[f"validation_f1_d/{1 / within:g}"] = of_all.f1
    return replace(detector, threshold=threshold, metrics=metrics)
>>>>>>> a02d4ff (detector: train on the projects of a database)
