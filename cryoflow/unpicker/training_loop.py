"""The training loop: Keras' own `fit`, with what we add after each epoch (validation, checkpoint, progress)."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np

from cryoflow.errors import BadInput
from cryoflow.preparation.devices import Devices, find_devices
from cryoflow.preparation.model_folder import Weights, get_weights, interpolated, set_weights
from cryoflow.preparation.picked_micrograph import UNLABELED
from cryoflow.preparation.tensorboard import Scalars
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.batches import TrainingBatches
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.inference import logits_of_all
from cryoflow.unpicker.network import build, pick_loss, standardize
from cryoflow.unpicker.operating_point import decide
from cryoflow.unpicker.patch_cache import CachedMicrograph
from cryoflow.unpicker.prepared_split import OnProgress, PreparedSplit, Progress
from cryoflow.unpicker.train_options import TrainOptions
from cryoflow.unpicker.training_stages import PRIOR_OF, Stages
from cryoflow.unpicker.training_state import STATE, History, restore_state, save_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def fit(
    bundle: ModelBundle,
    parts: PreparedSplit,
    output: Path,
    options: TrainOptions,
    *,
    start: ModelBundle | None,
    on_progress: OnProgress | None,
) -> ModelBundle:
    """Train to the end and return the bundle of the best epoch, with temperature, threshold and metrics."""
    devices = find_devices(mixed_precision=options.mixed_precision)
    write_atomically(output / "training.txt", bundle.fingerprint + "\n")
    model = build(bundle.architecture, seed=options.seed, mixed_precision=devices.mixed_precision)
    if start is not None:
        set_weights(model, start.weights, options.start_from or output)
    elif bundle.architecture.name == "detector":
        standardize(model, (m.load() for m in parts.train))
    if options.frozen_norm:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    batches = TrainingBatches(
        parts.train,
        bundle.preprocessing,
        batch=options.batch,
        seed=options.seed,
        contrast=0.0 if options.architecture == "emunpicker" else 0.15,
        memory_bytes=options.memory_MB << 20,
        least_steps=options.least_steps,
        workers=4 if devices.gpus else 1,
    )
    if options.distill and start is not None:
        old = [m for m in parts.train if m.patches_file in options.replayed]
        ends = np.cumsum([len(m.labels) for m in old])[:-1]
        answers = np.split(logits_of_all(start.network, old, start.preprocessing), ends)
        batches.teacher = {m.patches_file: answer for m, answer in zip(old, answers, strict=True)}
    history = History([])
    stages = Stages.of(parts, options, start)
    _compile(model, _optimizer(options, len(batches)), options, devices)
    state = output / "checkpoints" / STATE
    if state.is_file():
        history = restore_state(model, state)
    began = 0
    for until, priors in stages.plan:
        last, done = until == options.epochs, len(history.epochs)
        if done >= until or (last and done > began and history.ended(options.patience)):
            began = until
            continue
        if priors is None:
            priors = stages.estimated(history.epochs[began - 1])
        batches.class_priors = priors
        batches.start_at(done)
        after_epoch = _AfterEpoch(
            bundle,
            parts.validation,
            output,
            options,
            history,
            len(batches),
            on_progress,
            priors=priors,
            may_end=last,
            start=start.weights if start is not None else None,
        )
        model.fit(batches, epochs=until, initial_epoch=done, callbacks=[after_epoch], verbose=0, shuffle=False)
        began = until
    if options.tensorboard:
        _draw(history, output / "learning_curves.png")
    write_atomically(output / "history.json", json.dumps(history.epochs, indent=1) + "\n")
    best = ModelBundle.load(checkpoint_folder(output, history.best))
    record = history.epochs[history.best - 1]
    numbers = {
        "best_epoch": float(history.best),
        "epochs": float(len(history.epochs)),
        "seconds": sum(e["seconds"] for e in history.epochs),
        "n_train": float(sum(len(m.labels) for m in parts.train)),
        "train_loss": record["loss"],
        "validation_loss": record["val_loss"],
    }
    return replace(best, metrics={**best.metrics, **numbers}, folder=None)


def _draw(history: History, path: Path) -> None:
    from cryoflow.drawing.charts import learning_curves
    from cryoflow.drawing.figures import png

    shown = ("loss", "error", "roc_auc")
    curves = {
        f"{part}{n}": [e[f"{part}{n}"] for e in history.epochs if f"{part}{n}" in e]
        for n in shown
        for part in ("", "val_")
    }
    write_atomically(path, png(learning_curves(curves, best_epoch=history.best)))


def checkpoint_folder(output: Path, epoch: int) -> Path:
    """Return where the model after an epoch (from 1) lies."""
    return output / "checkpoints" / f"epoch-{epoch:03d}"


class _AfterEpoch(keras.callbacks.Callback):  # type: ignore[misc]
    """Measures on validation micrographs, writes the checkpoint and the state, ends the training in time."""

    def __init__(
        self,
        bundle: ModelBundle,
        validation: Sequence[CachedMicrograph],
        output: Path,
        options: TrainOptions,
        history: History,
        steps: int,
        on_progress: OnProgress | None,
        *,
        priors: Mapping[str, float],
        may_end: bool,
        start: Weights | None,
    ) -> None:
        super().__init__()
        self.may_end, self.start = may_end, start
        self.bundle, self.validation, self.output, self.options = bundle, validation, output, options
        self.history, self.steps, self.on_progress = history, steps, on_progress
        self.labels = np.concatenate([m.labels for m in validation])
        self.micrograph = np.repeat(np.arange(len(validation)), [len(m.labels) for m in validation])
        self.project = np.array([m.data_set for m in validation], dtype=str)[self.micrograph]
        self.prior_of_pick = np.array([priors.get(name, 0.0) for name in self.project.tolist()], np.float64)
        self.loss = pick_loss(options.label_smoothing)
        self.log = Scalars(output / "logs") if options.tensorboard else None
        self.began = 0.0

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:  # noqa: ARG002
        self.began = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        if self.on_progress:
            epoch = len(self.history.epochs)
            note = f"epoch {epoch + 1} of {self.options.epochs}"
            if epoch:
                note += f", validation error {self.history.epochs[-1]['val_error']:.1%}"
            total = self.steps * self.options.epochs
            self.on_progress(Progress("training", epoch * self.steps + batch + 1, total, note))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs if logs is not None else {}
        if not math.isfinite(logs["loss"]):
            raise BadInput(
                self.output,
                f"the loss became {logs['loss']} in epoch {epoch + 1}.",
                "Use a lower learning rate (--learning-rate), or turn mixed precision off.",
            )
        learned = weights = get_weights(self.model)
        if self.start is not None and self.options.interpolation != 1:
            weights = interpolated(self.start, learned, self.options.interpolation)
            set_weights(self.model, weights, self.output)
        logits = logits_of_all(self.model, self.validation, self.bundle.preprocessing)
        if weights is not learned:
            set_weights(self.model, learned, self.output)
        targets = np.column_stack((self.labels, self.prior_of_pick)).astype(np.float32)
        loss = float(self.loss(targets, logits.astype(np.float32)[:, None]))
        decided = decide(
            logits,
            self.labels,
            self.project,
            self.micrograph,
            goal=self.options.goal,
            at_most=self.options.class_prior,
        )
        scored = replace(
            self.bundle,
            weights=weights,
            temperature=decided.pooled.temperature,
            threshold=decided.pooled.threshold,
            projects=decided.projects,
            metrics={
                **decided.metrics,
                "validation_precision_estimated": decided.pooled.precision,
                "validation_recall_estimated": decided.pooled.recall,
                "goal_reached": float(all(p.goal_reached for p in decided.projects.values())),
                "class_prior_estimated": decided.pooled.class_prior,
            },
        )
        logs["val_loss"] = loss
        for name in ("error", "roc_auc", "average_precision", "calibration_error"):
            logs[f"val_{name}"] = decided.metrics[f"validation_{name}"]
        unlabeled = self.labels == UNLABELED
        logs["class_prior"] = float(self.prior_of_pick[unlabeled].mean()) if unlabeled.any() else 0.0
        logs["class_prior_estimated"] = decided.pooled.class_prior
        logs |= {f"{PRIOR_OF}{name}": point.class_prior for name, point in decided.projects.items()}
        logs["seconds"] = time.monotonic() - self.began
        self.history.epochs.append({k: float(v) for k, v in logs.items()})
        if self.log:
            self.log.add(epoch + 1, self.history.epochs[-1])
        scored.save(checkpoint_folder(self.output, epoch + 1))
        save_state(self.model, self.history, self.output / "checkpoints" / STATE)
        if self.may_end and self.history.ended(self.options.patience):
            self.model.stop_training = True


def _optimizer(options: TrainOptions, steps: int) -> keras.Optimizer:
    total = max(steps * options.epochs, 1)
    if options.architecture == "emunpicker":
        decay = keras.optimizers.schedules.ExponentialDecay(options.learning_rate, steps, 0.95, staircase=True)
        return keras.optimizers.SGD(decay, momentum=0.9)
    warm = min(steps, total // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 20 if warm else options.learning_rate,
        max(total - warm, 1),
        alpha=0.01,
        warmup_target=options.learning_rate if warm else None,
        warmup_steps=warm,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=options.weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["norm", "bias", "gamma", "beta"])
    return optimizer


def _compile(model: keras.Model, optimizer: keras.Optimizer, options: TrainOptions, devices: Devices) -> None:
    loss = pick_loss(options.label_smoothing, distill=options.distill)
    model.compile(optimizer=optimizer, loss=loss, jit_compile=devices.compiled)
    if not optimizer.built:  # variables that come while a step is traced have it traced twice
        optimizer.build(model.trainable_variables)
