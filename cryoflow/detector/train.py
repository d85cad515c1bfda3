"""Training on a database: from the labels of its projects to a detector, starting from the general one."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoflow.database.store import Database
from cryoflow.detector.examples import POSITIVE, UNKNOWN, Example
from cryoflow.detector.labels import (
    SAME_DIAMETERS,
    LabeledProject,
    MicrographLabels,
    best_entries,
    far_from,
    labeled,
    project_labels,
)
from cryoflow.detector.loading import MicrographToPick, prepare_one
from cryoflow.detector.model import Detector
from cryoflow.detector.network import DetectorArchitecture
from cryoflow.detector.parameters import TrainDetectorParameters, UnlabeledRule
from cryoflow.detector.stream import CropStream, StreamOptions
from cryoflow.errors import BadInput
from cryoflow.micrographs.fourier import rescale_xy
from cryoflow.preparation.model_folder import DESCRIPTION
from cryoflow.storage.files import make_folder, replacing, write_atomically
from cryoflow.storage.fingerprints import fingerprint, fingerprint_of, fingerprint_of_values

if TYPE_CHECKING:
    from cryoflow.detector.fit import Round

VALIDATION_BATCHES = 8
HISTORY = "history.json"
"""Losses of each round, beside the model."""

_CANDIDATE_PROBABILITY = 0.1
"""Where no picking job searched, places to which the starting model gives this probability are candidates."""


@dataclass(frozen=True)
class TrainingOptions:
    """How a detector is trained on a database.

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


def train_as_asked(
    p: TrainDetectorParameters, *, say: Callable[[str], None], on_progress: Callable[[int, int], None] | None = None
) -> tuple[Detector, PreparedProjects]:
    """Train as a command or a flow was asked to, on all GPUs of this machine; see `train`."""
    from cryoflow.unpicker.devices import list_gpus, load_keras

    load_keras()
    gpus = list_gpus()
    return train(
        Database(p.database),
        p.entries,
        p.output,
        TrainingOptions.from_parameters(p, mixed_precision=precision_on(gpus)),
        start=Detector.load(p.start),
        diameter_A=p.diameter_A,
        say=say,
        on_progress=on_progress,
        devices=gpus,
    )


def precision_on(gpus: Sequence[str]) -> str | None:
    """Return the precision of a training: mixed on GPUs, full without."""
    return "float16" if gpus else None


def train(
    database: Database,
    entries: Sequence[str],
    output: Path,
    options: TrainingOptions | None = None,
    *,
    start: Detector | None = None,
    diameter_A: float | None = None,
    say: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] | None = None,
    devices: Sequence[str] = (),
) -> tuple[Detector, PreparedProjects]:
    """Train a detector on the projects of some entries and write it to `output`; go on where a call was stopped.

    Parameters
    ----------
    entries
        Picks that survived; none takes the best entry of each project.
    start
        Model to begin with; None is the general one.
    on_progress
        Called after each round with the steps done and the steps in all.
    devices
        Devices that share each batch; see `cryoflow.detector.fit.fit`.

    Raises
    ------
    BadInput
        Where no project has labels, or the folder holds another training.
    """
    options = options or TrainingOptions()
    chosen, notes = best_entries(database, entries)
    if not chosen:
        raise BadInput(
            database.root, "has no entry to train from.", "Ingest a project with a refinement or a selection."
        )
    projects = [labeled(project_labels(database, entry, diameter_A=diameter_A)) for entry in chosen]
    detector, prepared = train_on(
        projects,
        output,
        options,
        start=start,
        say=say,
        on_progress=on_progress,
        devices=devices,
        entries=tuple(e.name for e in chosen),
    )
    return detector, replace(prepared, notes=(*notes, *prepared.notes))


def train_on(
    projects: Sequence[LabeledProject],
    output: Path,
    options: TrainingOptions,
    *,
    start: Detector | None = None,
    say: Callable[[str], None] = print,
    on_progress: Callable[[int, int], None] | None = None,
    devices: Sequence[str] = (),
    entries: tuple[str, ...] = (),
) -> tuple[Detector, PreparedProjects]:
    """Train a detector on labeled micrographs and write it to `output`; go on where a call was stopped.

    Raises
    ------
    BadInput
        Where there are too few labels, or the folder holds another training.
    """
    start = start or Detector.general()
    prepared = prepare_projects(projects, output / "prepared", start.pixels_per_diameter, options, start)
    if not any(e.n_positive for e in prepared.training) or not prepared.validation:
        if prepared.failed:
            raise prepared.failed[0]
        raise BadInput(output, "cannot be trained: too few micrographs have labels to train and to validate on.")
    mark = _fingerprint(prepared, options, start)
    if (output / DESCRIPTION).is_file():
        there = Detector.load(output)
        if there.recipe.get("fingerprint") == mark:
            return there, prepared
        raise BadInput(output, "holds another detector.", "Name another folder.")

    from cryoflow.detector.fit import FitOptions, fit
    from cryoflow.detector.general import calibrated

    architecture = DetectorArchitecture() if options.from_scratch else start.architecture
    stream_options = StreamOptions(crop_px=options.crop_px, batch=options.batch)
    stream = CropStream(prepared.training, start.pixels_per_diameter, seed=options.seed, options=stream_options)
    fixed = CropStream(prepared.validation, start.pixels_per_diameter, seed=options.seed, options=stream_options)

    def tell(done: Round) -> None:
        say(
            f"step {done.step} of {done.n_steps}, loss {done.loss:.4f}, validation {done.validation_loss:.4f}, "
            f"{done.seconds_left / 60:.0f} min left"
        )
        if on_progress:
            on_progress(done.step, done.n_steps)

    weights, history = fit(
        architecture,
        stream,
        [fixed.batch(i) for i in range(VALIDATION_BATCHES)],
        output,
        FitOptions(
            rounds=options.rounds,
            steps=options.steps,
            learning_rate=options.learning_rate,
            unlabeled_from=FitOptions.unlabeled_from if options.unlabeled == "positive-unlabeled" else 1.0,
            seed=options.seed,
            mixed_precision=options.mixed_precision,
            tensorboard=True,
        ),
        fingerprint=mark,
        start=None if options.from_scratch else dict(start.weights),
        on_round=tell,
        devices=devices,
    )
    diameters = [p.diameter_A for p in projects]
    detector = Detector(
        architecture,
        weights,
        start.pixels_per_diameter,
        diameter_A=float(np.median(diameters)) if max(diameters) < 1.3 * min(diameters) else None,
        recipe={
            **asdict(options),
            "entries": list(entries or (p.described for p in projects)),
            "start": start.fingerprint,
            "fingerprint": mark,
            "last_loss": history[-1]["loss"],
        },
    )
    detector = calibrated(detector, prepared.validation)
    detector = replace(detector, card=_card(detector, projects, prepared))
    _draw(history, output)
    write_atomically(output / HISTORY, json.dumps(history) + "\n")
    detector.save(output)
    return detector, prepared


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
            f"{project.name}: {len(made)} micrographs, {sum(e.n_positive for e in made)} particles, "
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
    from cryoflow.detector.peaks import find_peaks

    pixels = np.asarray(example.map_pixels())
    peaks = find_peaks(start.answers(pixels), start.pixels_per_diameter, shape_yx=pixels.shape[:2])
    likely = peaks.xy_px[start.calibration.probability(peaks.logit) >= _CANDIDATE_PROBABILITY]
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
    from cryoflow.detector.peaks import logits_at

    found = []
    for example in examples[:8]:
        unknown = example.xy_px[example.kind == UNKNOWN]
        if len(unknown):
            answers = start.answers(np.asarray(example.map_pixels()))
            found.append(start.calibration.probability(logits_at(answers, unknown, start.pixels_per_diameter)))
    return float(np.concatenate(found).mean()) if found else 0.0


def _fingerprint(prepared: PreparedProjects, options: TrainingOptions, start: Detector) -> str:
    members = [
        [e.pixels.name, fingerprint_of(e.xy_px.tobytes(), e.kind.tobytes(), e.weight.tobytes()), e.background]
        for e in (*prepared.training, *prepared.validation)
    ]
    return fingerprint_of_values({"options": asdict(options), "members": members, "start": start.fingerprint})


def _draw(history: Sequence[dict[str, float]], output: Path) -> None:
    from cryoflow.report.figures import learning_curves, png

    curves = {"loss": [h["loss"] for h in history], "val_loss": [h["validation_loss"] for h in history]}
    write_atomically(output / "learning_curves.png", png(learning_curves(curves, best_epoch=len(history))))


def _card(detector: Detector, projects: Sequence[LabeledProject], prepared: PreparedProjects) -> str:
    rows = "\n".join(f"- {p.name}: {p.described}, particle diameter {p.diameter_A:.0f} A" for p in projects)
    figures = "\n".join(f"- {name}: {value:.3f}" for name, value in sorted(detector.metrics.items()))
    return (
        f"# A detector trained on {len(projects)} projects\n\n{rows}\n\n## Measured on validation micrographs\n\n"
        f"{figures}\n\nLabels of a project are incomplete: precision is underrated there.\n\n## Limits\n\n"
        f"Learned from {sum(int((e.kind == POSITIVE).sum()) for e in prepared.training)} particles of these projects; "
        "other specimens may be found less well than by the general model.\n"
    )
