"""The training loop: batches by number, and a checkpoint after each round that a killed training resumes from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from cryoflow.detector.checkpoint import STATE, Weights, restore, state_bytes
from cryoflow.detector.loss import detector_loss
from cryoflow.detector.network import DetectorArchitecture, build
from cryoflow.detector.stream import Batch, Batches
from cryoflow.detector.targets import UNLABELED
from cryoflow.errors import BadInput
from cryoflow.preparation.devices import shared_by
from cryoflow.preparation.model_folder import WEIGHTS, array_of, get_weights, set_weights
from cryoflow.preparation.tensorboard import Scalars
from cryoflow.storage.files import write_atomically


@dataclass(frozen=True)
class FitOptions:
    """Length and learning rate of a training.

    Attributes
    ----------
    rounds, steps
        Rounds of so many batches; a checkpoint and a validation after each.
    learning_rate, least_learning_rate, weight_decay
        AdamW's; the rate rises over the first 2 % of the steps and falls as a cosine.
    clip
        Most norm of the gradient of all weights.
    average
        Momentum of the moving average of the weights, which is what the model keeps.
    unlabeled_from
        Share of the rounds after which candidates of unknown fate enter the loss.
    seed
        Of weights and batches.
    mixed_precision
        Type to compute in; None is float32.
    tensorboard
        Whether to write a log that TensorBoard reads.
    frozen_norm
        Keep the statistics and scales of the normalization as they are: those of few new micrographs would replace
        those of all earlier ones.
    distill
        Weight of the distance from the answers of an earlier model, which the batches contain
        (`stream.MixedStream`).
    """

    rounds: int = 30
    steps: int = 200
    learning_rate: float = 2e-3
    least_learning_rate: float = 2e-5
    weight_decay: float = 1e-4
    clip: float = 5.0
    average: float = 0.998
    unlabeled_from: float = 1 / 3
    seed: int = 1
    mixed_precision: str | None = None
    tensorboard: bool = False
    frozen_norm: bool = False
    distill: float = 0.0


@dataclass(frozen=True)
class Round:
    """Progress after some steps: steps done of all, mean loss so far, seconds left."""

    step: int
    n_steps: int
    loss: float
    validation_loss: float
    seconds_left: float


def fit(
    architecture: DetectorArchitecture,
    training: Batches,
    validation: Sequence[Batch],
    output: Path,
    options: FitOptions,
    *,
    fingerprint: str,
    start: Weights | None = None,
    on_round: Callable[[Round], None] | None = None,
    devices: Sequence[str] = (),
) -> tuple[Weights, list[dict[str, float]]]:
    """Train to the end; resume a stopped training of the same fingerprint.

    Parameters
    ----------
    validation
        Batches that are not learned from.
    output
        Folder of the checkpoint.
    start
        Weights to begin with; None draws them at random.
    devices
        Names of devices that share each batch; fewer than two leave the choice to Keras.

    Returns
    -------
    weights
        Moving average over the last steps.
    history
        One record a round.

    Raises
    ------
    BadInput
        Where the checkpoint is of another training, or the loss is not finite.
    """
    with shared_by(devices):
        return _fit(architecture, training, validation, output, options, fingerprint, start, on_round)


def _fit(
    architecture: DetectorArchitecture,
    training: Batches,
    validation: Sequence[Batch],
    output: Path,
    options: FitOptions,
    fingerprint: str,
    start: Weights | None,
    on_round: Callable[[Round], None] | None,
) -> tuple[Weights, list[dict[str, float]]]:
    model = build(architecture, seed=options.seed, mixed_precision=options.mixed_precision)
    if start is not None:
        set_weights(model, start, output)
    if options.frozen_norm:
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    total = options.rounds * options.steps
    optimizer = keras.optimizers.AdamW(
        _schedule(options, total), weight_decay=options.weight_decay, global_clipnorm=options.clip
    )
    optimizer.exclude_from_weight_decay(var_names=["norm", "bias", "gamma", "beta"])
    optimizer.build(model.trainable_variables)
    average: Weights = get_weights(model)
    history: list[dict[str, float]] = []
    state = output / STATE
    if state.is_file():
        average, history = restore(model, optimizer, state, fingerprint)
    log = Scalars(output / "logs") if options.tensorboard else None
    change = max(1, round(options.unlabeled_from * options.rounds))
    model.compile(optimizer=optimizer, loss=detector_loss(unlabeled=change < options.rounds, distill=options.distill))
    seconds: list[float] = []
    for done in range(len(history), options.rounds):
        began = time.monotonic()
        loss = _one_round(model, training, done, options, average, unlabeled=done >= change)
        if not math.isfinite(loss):
            raise BadInput(output, f"the loss became {loss} in round {done + 1}.", "Use a lower learning rate.")
        record = {"round": done + 1.0, "loss": loss, "validation_loss": _validate(model, average, validation)}
        seconds.append(time.monotonic() - began)
        history.append({**record, "seconds": seconds[-1]})
        write_atomically(state, state_bytes(model, optimizer, average, history, fingerprint))
        if log:
            log.add(done + 1, record)
        if on_round:
            left = float(np.mean(seconds[-5:])) * (options.rounds - done - 1)
            on_round(Round((done + 1) * options.steps, total, loss, record["validation_loss"], left))
    return average, history


def _one_round(
    model: keras.Model, stream: Batches, done: int, options: FitOptions, average: Weights, *, unlabeled: bool
) -> float:
    """Train on the batches of a round and return their mean loss; `average` follows the weights."""
    batches = _RoundOfBatches(stream, done * options.steps, options.steps, unlabeled=unlabeled)
    following = _Average(average, done * options.steps, options.average)
    history = model.fit(batches, epochs=1, callbacks=[following], verbose=0, shuffle=False)
    return float(history.history["loss"][0])


class _RoundOfBatches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches `first` and on of a stream; the next ones are made while the network learns.

    Without `unlabeled`, targets have no candidates of unknown fate: another loss would be compiled, which takes as long
    as an update learns.
    """

    def __init__(self, stream: Batches, first: int, number: int, *, unlabeled: bool) -> None:
        super().__init__(workers=1, use_multiprocessing=False, max_queue_size=2)
        self.stream, self.first, self.number, self.unlabeled = stream, first, number, unlabeled

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> Batch:
        x, y = self.stream.batch(self.first + index)
        if not self.unlabeled:
            y = y.copy()
            y[..., UNLABELED] = 0
        return x, y


class _Average(keras.callbacks.Callback):  # type: ignore[misc]
    """Moving average of the weights, updated every 10 steps."""

    EVERY = 10

    def __init__(self, average: Weights, first: int, momentum: float) -> None:
        super().__init__()
        self.average, self.first, self.momentum = average, first, momentum**self.EVERY

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
        step = self.first + batch
        if (step + 1) % self.EVERY:
            return
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()  # its variables are brought up to date at the end of an epoch only
        m = min(self.momentum, step / (step + 10 * self.EVERY))
        for variable in self.model.weights:
            kept, new = self.average[variable.path], array_of(variable)
            self.average[variable.path] = (m * kept + (1 - m) * new).astype(np.float32)


def _validate(
    model: keras.Model,
    average: Weights,
    batches: Sequence[Batch],
) -> float:
    """Return mean loss of the averaged weights over fixed batches; the weights in training are put back."""
    if not batches:
        return float("nan")
    learning = get_weights(model)
    set_weights(model, average, Path(WEIGHTS))
    loss = detector_loss()
    values = [float(loss(y, model.predict_on_batch(x))) for x, y in batches]
    set_weights(model, learning, Path(WEIGHTS))
    return float(np.mean(values))


def _schedule(options: FitOptions, total: int) -> keras.optimizers.schedules.LearningRateSchedule:
    warm = max(1, total // 50)
    return keras.optimizers.schedules.CosineDecay(
        options.learning_rate / 20,
        max(total - warm, 1),
        alpha=options.least_learning_rate / options.learning_rate,
        warmup_target=options.learning_rate,
        warmup_steps=warm,
    )
