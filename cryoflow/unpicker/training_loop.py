"""The training loop: Keras' own `fit`, with what we add after each epoch (validation, checkpoint, progress)."""

from __future__ import annotations

import json
import math
import time
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import keras
import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.preparation.picked import UNLABELED
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.batches import TrainingBatches
from cryoflow.unpicker.bundle import ModelBundle, get_weights, logits_of, npz_bytes, set_weights
from cryoflow.unpicker.devices import Devices, find_devices
from cryoflow.unpicker.event_log import EventLog
from cryoflow.unpicker.network import build, pick_loss
from cryoflow.unpicker.operating_point import with_decision
from cryoflow.unpicker.patch_cache import CachedMicrograph
from cryoflow.unpicker.prepared_split import OnProgress, PreparedSplit, Progress
from cryoflow.unpicker.train_options import TrainOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

STATE = "state.npz"
Record = dict[str, float]


@dataclass
class History:
    """What was measured after each epoch, in order."""

    epochs: list[Record]

    @property
    def best(self) -> int:
        """Number of the epoch (from 1) with the least validation loss, of those with the same loss as the last."""
        share = self.epochs[-1].get("class_prior")
        comparable = [e.get("class_prior") == share for e in self.epochs]
        return 1 + int(np.argmin(np.where(comparable, [e["val_loss"] for e in self.epochs], np.inf)))

    def ended(self, patience: int) -> bool:
        """Whether the validation loss has not fallen for too long."""
        return len(self.epochs) - self.best >= patience


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
    keras.utils.set_random_seed(options.seed)
    model = build(bundle.architecture, mixed_precision=devices.mixed_precision)
    if start is not None:
        set_weights(model, start.weights, options.start_from or output)
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
    history = History([])
    stages = _stages(parts, options)
    _compile(model, _optimizer(options, len(batches)), stages[0][1], options, devices)
    state = output / "checkpoints" / STATE
    if state.is_file():
        history = _restore(model, state)
    began = 0
    for until, share in stages:
        last, done = until == options.epochs, len(history.epochs)
        if done >= until or (last and done > began and history.ended(options.patience)):
            began = until
            continue
        if share is None:
            share = history.epochs[began - 1]["class_prior_estimated"]
            _compile(model, model.optimizer, share, options, devices)
        batches.start_at(done)
        after_epoch = _AfterEpoch(
            bundle, parts.validation, output, options, history, len(batches), on_progress, share=share, may_end=last
        )
        model.fit(batches, epochs=until, initial_epoch=done, callbacks=[after_epoch], verbose=0, shuffle=False)
        began = until
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


def _stages(parts: PreparedSplit, options: TrainOptions) -> list[tuple[int, float | None]]:
    """Up to which epoch to train with which share of right picks among those not known.

    The share is known as an upper limit only, and a network that is told a share finds it: so those picks count as
    wrong for a third of the epochs, and the scores of validation micrographs then tell (None) how many of them look
    right all the same.
    """
    unknown = [any(m.micrograph.count(UNLABELED) for m in part) for part in (parts.train, parts.validation)]
    first = options.epochs // 3
    if all(unknown) and options.class_prior > 0 and first:
        return [(first, 0.0), (options.epochs, None)]
    return [(options.epochs, options.class_prior)]


def _draw(history: History, path: Path) -> None:
    from cryoflow.report.figures import learning_curves, png

    shown = ("loss", "error", "roc_auc")
    curves = {
        f"{part}{n}": [e[f"{part}{n}"] for e in history.epochs if f"{part}{n}" in e]
        for n in shown
        for part in ("", "val_")
    }
    write_atomically(path, png(learning_curves(curves, best_epoch=history.best)))


def checkpoint_folder(output: Path, epoch: int) -> Path:
    """Where the model after an epoch (from 1) lies."""
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
        share: float,
        may_end: bool,
    ) -> None:
        super().__init__()
        self.share, self.may_end = share, may_end
        self.bundle, self.validation, self.output, self.options = bundle, validation, output, options
        self.history, self.steps, self.on_progress = history, steps, on_progress
        self.labels = np.concatenate([m.labels for m in validation])
        self.micrograph = np.repeat(np.arange(len(validation)), [len(m.labels) for m in validation])
        self.loss = pick_loss(share, options.label_smoothing)
        self.log = EventLog(output / "logs") if options.tensorboard else None
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
        logits = logits_of_all(self.model, self.validation, self.bundle.architecture.input_px)
        loss = float(self.loss(self.labels.astype(np.float32)[:, None], logits.astype(np.float32)[:, None]))
        bundle = replace(self.bundle, weights=get_weights(self.model))
        at_most = self.share if self.may_end else self.options.class_prior
        options = replace(self.options, class_prior=at_most)
        scored = with_decision(bundle, logits, self.labels, options, micrograph=self.micrograph)
        logs["val_loss"] = loss
        for name in ("error", "roc_auc", "average_precision", "calibration_error"):
            logs[f"val_{name}"] = scored.metrics[f"validation_{name}"]
        logs["class_prior"] = self.share
        logs["class_prior_estimated"] = scored.metrics["class_prior_estimated"]
        logs["seconds"] = time.monotonic() - self.began
        self.history.epochs.append({k: float(v) for k, v in logs.items()})
        if self.log:
            self.log.add(epoch + 1, self.history.epochs[-1])
        scored.save(checkpoint_folder(self.output, epoch + 1))
        _save_state(self.model, self.history, self.output / "checkpoints" / STATE)
        if self.may_end and self.history.ended(self.options.patience):
            self.model.stop_training = True


def logits_of_all(
    model: keras.Model, micrographs: Sequence[CachedMicrograph], input_px: int
) -> npt.NDArray[np.float64]:
    """Of the boxes of many micrographs, a few thousand at a time."""
    logits: list[npt.NDArray[np.float64]] = []
    held: list[npt.NDArray[np.float16]] = []
    for i, m in enumerate(micrographs):
        held.append(m.load())
        if sum(map(len, held)) >= 4096 or i == len(micrographs) - 1:
            logits.append(logits_of(model, np.concatenate(held), input_px))
            held = []
    return np.concatenate(logits) if logits else np.zeros(0)


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


def _compile(
    model: keras.Model, optimizer: keras.Optimizer, share: float | None, options: TrainOptions, devices: Devices
) -> None:
    model.compile(
        optimizer=optimizer,
        loss=pick_loss(options.class_prior if share is None else share, options.label_smoothing),
        jit_compile=devices.compiled,
    )
    if not optimizer.built:  # variables that come while a step is traced have it traced twice
        optimizer.build(model.trainable_variables)


def _all_variables(model: keras.Model) -> list[keras.Variable]:
    """Weights, the state of dropout, and the optimizer's."""
    return [*model.variables, *model.optimizer.variables]


def _save_state(model: keras.Model, history: History, path: Path) -> None:
    arrays: dict[str, npt.NDArray[np.generic]] = {
        f"{i:04d}": np.array(keras.ops.convert_to_numpy(v.value)) for i, v in enumerate(_all_variables(model))
    }
    arrays["history"] = np.frombuffer(json.dumps(history.epochs).encode(), np.uint8)
    write_atomically(path, npz_bytes(arrays))


def _restore(model: keras.Model, path: Path) -> History:
    variables = _all_variables(model)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if len(arrays) != len(variables) + 1:
            raise ValueError("of another training")
        for i, v in enumerate(variables):
            v.assign(arrays[f"{i:04d}"])
        return History(json.loads(arrays["history"].tobytes()))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BadInput(path, f"is no state of this training ({error}).", "Start anew (--overwrite).") from error
