"""The network, the loss and the random views that it learns from. Keras 3 only, for any of its backends."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.folded_weights import NORM_EPSILON
from cryoflow.preparation.layer_seeds import LayerSeeds

if TYPE_CHECKING:
    import keras

STANDARDIZE = "standardize"
"""Layer that subtracts the mean of each feature and divides by its standard deviation; it is not trained."""

_MOST_DEVIATIONS = 6.0
_FEATURE_NOISE = 0.15
"""Standard deviation of the noise on standardized features while training."""

_LEAST_VARIANCE = 1e-5
"""Added to the variance of each feature: some are the same for nearly all picks."""

ArchitectureName = Literal["detector", "residual", "emunpicker"]


@dataclass(frozen=True)
class Architecture:
    """A network as plain values, from which this module builds it again.

    Attributes
    ----------
    name
        `detector` for a small network on a detector's features, `residual` for one that sees patches, or `emunpicker`
        for the older emUnpicker's.
    input_px, n_channels
        Of a patch.
    widths
        Channels of each stage of the residual network; each stage halves the edge. Units of each dense layer of the
        detector's.
    blocks
        Residual blocks of each stage.
    dropout
        Share of the features that is left out at random while training.
    """

    name: ArchitectureName
    input_px: int
    n_channels: int
    widths: tuple[int, ...] = (24, 48, 96)
    blocks: tuple[int, ...] = (1, 1, 1)
    dropout: float = 0.3

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, object]) -> Architecture:
        """Build the architecture that `to_json` described; `classic` is the older name of `emunpicker`.

        Raises
        ------
        ValueError
            For a name or a field that this version does not know.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        if values.get("name") == "classic":
            values = {**values, "name": "emunpicker"}
        if set(values) != fields or values["name"] not in BUILDERS:
            raise ValueError(f"a network {values.get('name')!r} with fields {sorted(values)}")
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)  # type: ignore[arg-type]


def build(
    architecture: Architecture, *, seed: int = 0, mixed_precision: bool = False, folded: bool = False
) -> keras.Model:
    """Build a network with random weights.

    Parameters
    ----------
    seed
        Of the random weights, and of dropout and noise while training.
    mixed_precision
        Compute in float16 where that is safe; weights and the output stay float32.
    folded
        Without batch normalization, for weights that `fold` made: a fifth less time where nothing is learned.

    Returns
    -------
    keras.Model
        (n, input_px, input_px, n_channels) -> (n, 1), a logit: above 0 is positive.
    """
    import keras

    dtype = keras.DTypePolicy("mixed_float16" if mixed_precision else "float32")
    return BUILDERS[architecture.name](architecture, dtype, folded, LayerSeeds(seed))


def _residual(architecture: Architecture, dtype: object, folded: bool, seeds: LayerSeeds) -> keras.Model:
    """Return stem, stages of residual blocks, average and maximum pooling side by side, one output."""
    import keras
    from keras import layers

    def conv(x: object, width: int, edge: int, stride: int, name: str) -> object:
        return layers.Conv2D(
            width,
            edge,
            strides=stride,
            padding="same",
            use_bias=folded,
            kernel_initializer=keras.initializers.HeNormal(seed=seeds.draw()),
            dtype=dtype,
            name=name,
        )(x)

    def norm(x: object, name: str) -> object:
        if folded:
            return x
        return layers.BatchNormalization(momentum=0.95, epsilon=NORM_EPSILON, dtype=dtype, name=name)(x)

    def relu(x: object, name: str) -> object:
        return layers.Activation("relu", dtype=dtype, name=name)(x)

    edge, channels = architecture.input_px, architecture.n_channels
    inputs = keras.Input((edge, edge, channels), name="boxes")
    x: object = relu(norm(conv(inputs, architecture.widths[0], 5, 2, "stem"), "stem_norm"), "stem_relu")
    before = architecture.widths[0]
    for i, (width, blocks) in enumerate(zip(architecture.widths, architecture.blocks, strict=True), start=1):
        for j in range(1, blocks + 1):
            stride = 2 if j == 1 and i > 1 else 1
            at = f"stage{i}_block{j}"
            shortcut = x
            if stride > 1 or before != width:
                if stride > 1:
                    shortcut = layers.AveragePooling2D(2, padding="same", dtype=dtype, name=f"{at}_shortcut_pool")(x)
                shortcut = norm(conv(shortcut, width, 1, 1, f"{at}_shortcut"), f"{at}_shortcut_norm")
            x = relu(norm(conv(x, width, 3, stride, f"{at}_conv1"), f"{at}_norm1"), f"{at}_relu1")
            x = norm(conv(x, width, 3, 1, f"{at}_conv2"), f"{at}_norm2")
            x = relu(layers.Add(dtype=dtype, name=f"{at}_add")([x, shortcut]), f"{at}_relu2")
            before = width
    mean = layers.GlobalAveragePooling2D(dtype=dtype, name="mean")(x)
    peak = layers.GlobalMaxPooling2D(dtype=dtype, name="peak")(x)
    x = layers.Concatenate(dtype=dtype, name="features")([mean, peak])
    x = layers.Dropout(architecture.dropout, seed=seeds.draw(), dtype=dtype, name="dropout")(x)
    logit = _logit(x, seeds)
    return keras.Model(inputs, logit, name="residual")


def _logit(x: object, seeds: LayerSeeds) -> object:
    from keras import initializers, layers

    kernel = initializers.GlorotUniform(seed=seeds.draw())
    return layers.Dense(1, kernel_initializer=kernel, dtype="float32", name="logit")(x)


def _detector(architecture: Architecture, dtype: object, folded: bool, seeds: LayerSeeds) -> keras.Model:  # noqa: ARG001
    """Return standardized features with noise, dense layers with dropout, one output."""
    import keras
    from keras import layers

    edge = architecture.input_px
    inputs = keras.Input((edge, edge, architecture.n_channels), name="features")
    x = layers.Flatten(dtype="float32", name="flat")(inputs)
    x = layers.BatchNormalization(
        center=False, scale=False, epsilon=1e-6, trainable=False, dtype="float32", name=STANDARDIZE
    )(x)
    x = keras.ops.clip(x, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
    x = layers.GaussianNoise(_FEATURE_NOISE, seed=seeds.draw(), dtype="float32", name="noise")(x)
    x = layers.Dropout(architecture.dropout / 2, seed=seeds.draw(), dtype=dtype, name="feature_dropout")(x)
    for i, width in enumerate(architecture.widths, start=1):
        kernel = keras.initializers.HeNormal(seed=seeds.draw())
        x = layers.Dense(width, activation="relu", kernel_initializer=kernel, dtype=dtype, name=f"dense{i}")(x)
        x = layers.Dropout(architecture.dropout, seed=seeds.draw(), dtype=dtype, name=f"dropout{i}")(x)
    logit = _logit(x, seeds)
    return keras.Model(inputs, logit, name="detector_head")


def standardize(model: keras.Model, patches: Iterable[npt.NDArray[np.float16]]) -> None:
    """Set the standardization of a network of features from those of all training micrographs, (n, ..., features)."""
    n, total, squares = 0, 0.0, 0.0
    for some in patches:
        values = some.reshape(-1, some.shape[-1]).astype(np.float64)
        n, total, squares = n + len(values), total + values.sum(0), squares + (values**2).sum(0)
    mean = np.asarray(total) / n
    layer = model.get_layer(STANDARDIZE)
    layer.moving_mean.assign(mean.astype(np.float32))
    layer.moving_variance.assign(
        (np.maximum(np.asarray(squares) / n - mean**2, 0) + _LEAST_VARIANCE).astype(np.float32)
    )


def _emunpicker(architecture: Architecture, dtype: object, folded: bool, seeds: LayerSeeds) -> keras.Model:  # noqa: ARG001
    from cryoflow.unpicker.emunpicker import build_emunpicker

    return build_emunpicker(
        architecture.input_px, architecture.n_channels, dropout=architecture.dropout, dtype=dtype, seeds=seeds
    )


BUILDERS = {"detector": _detector, "residual": _residual, "emunpicker": _emunpicker}


def pick_loss(label_smoothing: float, *, distill: float = 0.0) -> keras.losses.Loss:
    """Return the loss for targets of two columns: label (1 positive, -1 negative, 0 unlabeled) and class prior.

    Without unlabeled picks it is the cross-entropy. Unlabeled picks enter by the non-negative positive-unlabeled risk
    (Kiryo et al. 2017): they count as negative, and the contribution of the positives hidden among them, estimated from
    the labeled positives, is subtracted, but not below zero. The class prior is the share of positives among unlabeled
    picks of the pick's project.

    Parameters
    ----------
    label_smoothing
        Targets move towards a half by half of this.
    distill
        Weight of the cross-entropy with an earlier model's answers; targets then have two more columns: its logit, and
        whether it counts.
    """
    import keras
    from keras import ops

    class PickLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: object, y_pred: object) -> object:
            targets = ops.cast(y_true, "float32")
            labels, class_prior = targets[:, 0], targets[:, 1]
            logits = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
            as_positive = ops.softplus(-logits)
            as_negative = ops.softplus(logits)
            s = label_smoothing / 2
            as_positive, as_negative = (1 - s) * as_positive + s * as_negative, (1 - s) * as_negative + s * as_positive
            positive = ops.cast(labels > 0.5, "float32")
            negative = ops.cast(labels < -0.5, "float32")
            unlabeled = 1 - positive - negative
            n_positive = ops.sum(positive)
            of_negative = ops.sum(negative * as_negative)
            of_positive = ops.sum(positive * as_positive)
            some_positive = ops.maximum(n_positive, 1.0)
            hidden = ops.sum(class_prior * unlabeled) * ops.cast(n_positive > 0, "float32")
            of_unlabeled = ops.sum(unlabeled * as_negative) - hidden * ops.sum(positive * as_negative) / some_positive
            of_positive = of_positive + hidden * of_positive / some_positive
            total = of_positive + of_negative + ops.maximum(of_unlabeled, 0.0)
            if distill:
                teacher, counts = ops.sigmoid(targets[:, 2]), targets[:, 3]
                cross = teacher * ops.softplus(-logits) + (1 - teacher) * ops.softplus(logits)
                total = total + distill * ops.sum(counts * cross)
            return total / ops.cast(ops.shape(labels)[0], "float32")

    return PickLoss(name="pick_loss", reduction=None)
