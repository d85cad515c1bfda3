"""Training on a database: from the labels of its projects to a detector, starting from the general one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoflow.database.store import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import POSITIVE
from cryoflow.detector.labels import LabeledProject, best_entries, labeled, project_labels
from cryoflow.detector.network import DetectorArchitecture
from cryoflow.detector.parameters import TrainDetectorParameters
from cryoflow.detector.stream import CropStream, StreamOptions
from cryoflow.detector.training_data import PreparedProjects, TrainingOptions, prepare_projects
from cryoflow.errors import BadInput
from cryoflow.preparation.model_folder import DESCRIPTION
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import fingerprint_of, fingerprint_of_values

if TYPE_CHECKING:
    from cryoflow.detector.fit import Round

VALIDATION_BATCHES = 8
HISTORY = "history.json"
"""Losses of each round, beside the model."""


def train_as_asked(
    p: TrainDetectorParameters, *, say: Callable[[str], None], on_progress: Callable[[int, int], None] | None = None
) -> tuple[Detector, PreparedProjects]:
    """Train with the parameters of a command or a flow, on all GPUs of this machine; see `train`."""
    from cryoflow.models.held_out import known_registries
    from cryoflow.preparation.devices import list_gpus, load_keras

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
        registries=known_registries(p.models, database=p.database),
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
    registries: Sequence[Path] = (),
) -> tuple[Detector, PreparedProjects]:
    """Train a detector on the projects of some entries and write it to `output`; resume a call that was stopped.

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
    registries
        Folders of models; micrographs that one of these models holds out are not learned from.

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
    projects = [
        _learnable(labeled(project_labels(database, entry, diameter_A=diameter_A)), registries) for entry in chosen
    ]
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
    """Train a detector on labeled micrographs and write it to `output`; resume a call that was stopped.

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


def _learnable(project: LabeledProject, registries: Sequence[Path]) -> LabeledProject:
    from cryoflow.models.held_out import without_held_out

    return replace(project, micrographs=tuple(without_held_out(project.micrographs, lambda m: m.path, registries)))


def _fingerprint(prepared: PreparedProjects, options: TrainingOptions, start: Detector) -> str:
    members = [
        [e.pixels.name, fingerprint_of(e.xy_px.tobytes(), e.kind.tobytes(), e.weight.tobytes()), e.background]
        for e in (*prepared.training, *prepared.validation)
    ]
    return fingerprint_of_values({"options": asdict(options), "members": members, "start": start.fingerprint})


def _draw(history: Sequence[dict[str, float]], output: Path) -> None:
    from cryoflow.drawing.charts import learning_curves
    from cryoflow.drawing.figures import png

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
