"""Labeled, prepared micrographs of the projects of a database, and how their unlabeled places count in a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import UNKNOWN, Example
from cryoflow.detector.labels import SAME_DIAMETERS, LabeledProject, MicrographLabels, far_from
from cryoflow.detector.loading import MicrographToPick, prepare_one
from cryoflow.detector.parameters import TrainDetectorParameters, UnlabeledRule
from cryoflow.detector.peaks import find_peaks, logits_at
from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import rescale_xy
from cryoflow.storage.files import replacing
from cryoflow.storage.fingerprints import fingerprint, fingerprint_of
from cryoflow.storage.folders import make_folder
from cryoflow.wording import counted

_CANDIDATE_PROBABILITY = 0.1
"""Where no picking job searched, places to which the starting model gives this probability are candidates."""


@dataclass(frozen=True)
class TrainingOptions:
    """Options for training a detector on a database.

    Attributes
    ----------
    rounds, steps, batch, crop_px, learning_rate
        Of the training loop.
    validation
        Share of the micrographs of each project that calibrate and are not learned from.
    at_most
        Most micrographs of a project; they are drawn evenly.
    from_scratch
        Begin with random weights in place of the general model's.
    unlabeled
        `positive-unlabeled`: candidates that no label decides have no part in the first third of the training, then
        they enter by the non-negative positive-unlabeled risk. `ignored`: they never have one. `negative`: they are
        background, which is right where the labels are complete.
    """

    rounds: int = TrainDetectorParameters.rounds
    steps: int = TrainDetectorParameters.steps
    batch: int = 8
    crop_px: int = 256
    learning_rate: float = 5e-4
    validation: float = 0.2
    at_most: int = TrainDetectorParameters.micrographs
    from_scratch: bool = False
    unlabeled: UnlabeledRule = TrainDetectorParameters.unlabeled
    seed: int = TrainDetectorParameters.seed
    mixed_precision: str | None = None

    @classmethod
    def from_parameters(cls, p: TrainDetectorParameters, *, mixed_precision: str | None = None) -> TrainingOptions:
        """Return the options of a command or a flow."""
        return cls(
            rounds=p.rounds,
            steps=p.steps,
            at_most=p.micrographs,
            from_scratch=p.from_scratch,
            unlabeled=p.unlabeled,
            seed=p.seed,
            mixed_precision=mixed_precision,
        )


@dataclass(frozen=True)
class PreparedProjects:
    """Labeled, prepared micrographs of all projects, and what could not be used."""

    training: tuple[Example, ...]
    validation: tuple[Example, ...]
    failed: tuple[BadInput, ...]
    notes: tuple[str, ...]


def prepare_projects(
    projects: Sequence[LabeledProject],
    folder: Path,
    pixels_per_diameter: float,
    options: TrainingOptions,
    start: Detector,
) -> PreparedProjects:
    """Prepare the labeled micrographs of some projects once, and divide them into training and validation.

    The class prior of a project, the share of particles among candidates of unknown fate, is the mean probability that
    `start` gives them on validation micrographs.
    """
    make_folder(folder)
    training: list[Example] = []
    validation: list[Example] = []
    failed: list[BadInput] = []
    notes: list[str] = []
    for project in projects:
        usable = [m for m in project.micrographs if m.path is not None]
        rng = np.random.default_rng([options.seed, *project.name.encode()[:64]])
        order = rng.permutation(len(usable))[: options.at_most]
        made: list[Example] = []
        names: list[str] = []
        for i in sorted(order):
            try:
                example = prepared_example(usable[i], project, folder, pixels_per_diameter)
            except BadInput as error:
                failed.append(error)
                continue
            names.append(usable[i].name)
            made.append(with_rule(example, options.unlabeled, start))
        if project.validation is None:
            n_validation = max(1, round(options.validation * len(made))) if len(made) > 1 else 0
            held = set(rng.permutation(len(made))[:n_validation].tolist())
        else:
            held = {i for i, name in enumerate(names) if name in project.validation}
        mine = [e for i, e in enumerate(made) if i in held]
        prior = class_prior_of(start, mine)
        validation += mine
        training += [replace(e, class_prior=prior) for i, e in enumerate(made) if i not in held]
        notes.append(
            f"{project.name}: {counted(len(made), 'micrograph')}, {sum(e.n_positive for e in made)} particles, "
            f"{sum(int((e.kind == UNKNOWN).sum()) for e in made)} candidates of unknown fate"
            + (f", of which {prior:.0%} may be particles" if prior else "")
        )
    return PreparedProjects(tuple(training), tuple(validation), tuple(failed), tuple(notes))


def with_rule(example: Example, rule: UnlabeledRule, start: Detector) -> Example:
    """Return an example whose unlabeled places count by a rule; see `TrainingOptions.unlabeled`.

    Where no picking job searched, the starting model's own candidates are those of unknown fate: all other places are
    background. Without this, nothing but the closest surroundings of particles would be negative there.
    """
    if rule == "negative":
        known = example.kind != UNKNOWN
        return replace(
            example,
            xy_px=example.xy_px[known],
            kind=example.kind[known],
            weight=example.weight[known],
            background=True,
        )
    if example.background:
        return example
    pixels = np.asarray(example.map_pixels())
    peaks = find_peaks(start.answers(pixels), start.pixels_per_diameter, shape_yx=pixels.shape[:2])
    likely = peaks.xy_px[start.calibration.probabilities(peaks.logit) >= _CANDIDATE_PROBABILITY]
    new = likely[far_from(likely, example.xy_px, SAME_DIAMETERS * start.pixels_per_diameter)]
    return replace(
        example,
        xy_px=np.concatenate([example.xy_px, new]),
        kind=np.concatenate([example.kind, np.full(len(new), UNKNOWN, np.int8)]),
        weight=np.concatenate([example.weight, np.ones(len(new), np.float32)]),
        background=True,
    )


def prepared_example(
    labels: MicrographLabels, project: LabeledProject, folder: Path, pixels_per_diameter: float
) -> Example:
    """Return a labeled micrograph, prepared in `folder` unless it is there already.

    Raises
    ------
    BadInput
        Where the micrograph cannot be used.
    """
    assert labels.path is not None
    path = Path(labels.path)
    try:
        content = fingerprint(path)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    key = fingerprint_of(
        content, f"{project.diameter_A:.6g}/{labels.pixel_size_A:.6g}/{pixels_per_diameter:g}", digits=24
    )
    file = folder / f"{key}.npy"
    item = MicrographToPick(labels.name, path, labels.pixel_size_A)
    shape_yx, pixels = prepare_one(
        item, project.diameter_A, pixels_per_diameter, known=file if file.is_file() else None
    )
    if not file.is_file():
        with replacing(file) as hidden, hidden.open("wb") as stream:
            np.save(stream, pixels, allow_pickle=False)
    return Example(
        pixels=file,
        data_set=project.name,
        xy_px=rescale_xy(labels.xy_px, shape_yx, (pixels.shape[0], pixels.shape[1])),
        kind=labels.kind,
        weight=labels.weight,
        log_size=math.nan,
        background=labels.background,
    )


def class_prior_of(start: Detector, examples: Sequence[Example]) -> float:
    """Return the mean probability of candidates of unknown fate, on the first 8 micrographs; 0 without any."""
    found = []
    for example in examples[:8]:
        unknown = example.xy_px[example.kind == UNKNOWN]
        if len(unknown):
            answers = start.answers(np.asarray(example.map_pixels()))
            found.append(start.calibration.probabilities(logits_at(answers, unknown, start.pixels_per_diameter)))
    return float(np.concatenate(found).mean()) if found else 0.0
