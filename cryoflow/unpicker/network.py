"""The network, the loss and the random views that it learns from. Keras 3 only, for any of its backends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import keras

ArchitectureName = Literal["residual", "classic"]


@dataclass(frozen=True)
class Architecture:
    """A network as plain values, from which this module builds it again.

    Attributes
    ----------
    name
        `residual`, or `classic` for the older emUnpicker's.
    input_px, n_channels
        Of a box.
    widths
        Channels of each stage of the residual network; each stage halves the edge.
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
        """Plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, object]) -> Architecture:
        """What `to_json` described.

        Raises
        ------
        ValueError
            For a name or a field that this version does not know.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        if set(values) != fields or values["name"] not in BUILDERS:
            raise ValueError(f"a network {values.get('name')!r} with fields {sorted(values)}")
        tuples = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**tuples)  # type: ignore[arg-type]


def build(architecture: Architecture, *, mixed_precision: bool = False) -> keras.Model:
    """Build a network with random weights.

    Parameters
    ----------
    mixed_precision
        Compute in float16 where that is safe; weights and the output stay float32.

    Returns
    -------
    keras.Model
        (n, input_px, input_px, n_channels) -> (n, 1), a logit: above 0 is right.
    """
    import keras

    dtype = keras.DTypePolicy("mixed_float16" if mixed_precision else "float32")
    return BUILDERS[architecture.name](architecture, dtype)


def _residual(architecture: Architecture, dtype: object) -> keras.Model:
    """Stem, stages of residual blocks, average and maximum pooling side by side, one output."""
    import keras
    from keras import layers

    def conv(x: object, width: int, edge: int, stride: int, name: str) -> object:
        return layers.Conv2D(
            width,
            edge,
            strides=stride,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            dtype=dtype,
            name=name,
        )(x)

    def norm(x: object, name: str) -> object:
        return layers.BatchNormalization(momentum=0.95, dtype=dtype, name=name)(x)

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
    x = layers.Dropout(architecture.dropout, dtype=dtype, name="dropout")(x)
    logit = layers.Dense(1, dtype="float32", name="logit")(x)
    return keras.Model(inputs, logit, name="residual")


def _classic(architecture: Architecture, dtype: object) -> keras.Model:
    from cryoflow.unpicker.classic import build_classic

    return build_classic(architecture.input_px, architecture.n_channels, dropout=architecture.dropout, dtype=dtype)


BUILDERS = {"residual": _residual, "classic": _classic}


def pick_loss(unlabelled_right: float, label_smoothing: float) -> keras.losses.Loss:
    """The loss for labels 1 (right), -1 (wrong) and 0 (not known).

    With no unlabelled picks it is the cross-entropy. Unlabelled picks enter by the non-negative positive-unlabelled
    risk (Kiryo et al. 2017): they are taken as wrong, and what the right ones among them add to that, estimated from
    the labelled right ones, is taken off again, but not below zero.

    Parameters
    ----------
    unlabelled_right
        Share of the unlabelled picks that is right.
    label_smoothing
        Targets are drawn towards a half by half of this.
    """
    import keras
    from keras import ops

    class PickLoss(keras.losses.Loss):  # type: ignore[misc]
        def call(self, y_true: object, y_pred: object) -> object:
            labels = ops.reshape(ops.cast(y_true, "float32"), (-1,))
            logits = ops.reshape(ops.cast(y_pred, "float32"), (-1,))
            if_right = ops.softplus(-logits)
            if_wrong = ops.softplus(logits)
            s = label_smoothing / 2
            if_right, if_wrong = (1 - s) * if_right + s * if_wrong, (1 - s) * if_wrong + s * if_right
            right = ops.cast(labels > 0.5, "float32")
            wrong = ops.cast(labels < -0.5, "float32")
            unknown = 1 - right - wrong
            n_right, n_unknown = ops.sum(right), ops.sum(unknown)
            of_wrong = ops.sum(wrong * if_wrong)
            of_right = ops.sum(right * if_right)
            some_right = ops.maximum(n_right, 1.0)
            hidden = unlabelled_right * n_unknown * ops.cast(n_right > 0, "float32")
            unknown_wrong = ops.sum(unknown * if_wrong) - hidden * ops.sum(right * if_wrong) / some_right
            of_right = of_right + hidden * of_right / some_right
            total = of_right + of_wrong + ops.maximum(unknown_wrong, 0.0)
            return total / ops.cast(ops.shape(labels)[0], "float32")

    return PickLoss(name="pick_loss", reduction=None)


def random_views(
    boxes: npt.NDArray[np.float16], input_px: int, rng: np.random.Generator, *, contrast: float = 0.15
) -> npt.NDArray[np.float32]:
    """Each box turned, mirrored, shifted within its margin, its contrast and level changed a little.

    Parameters
    ----------
    boxes : (n, edge, edge, channels)
        `edge` may exceed `input_px`: shifts are drawn from the margin.

    Returns
    -------
    (n, input_px, input_px, channels) float32
    """
    n, edge, _, channels = boxes.shape
    room = edge - input_px
    draws = np.column_stack([rng.integers(0, high, n) for high in (room + 1, room + 1, 8)])
    views = np.empty((n, input_px, input_px, channels), np.float32)
    for i, (row, column, turn) in enumerate(draws.tolist()):
        views[i] = turned(boxes[i, row : row + input_px, column : column + input_px], turn)
    if contrast:
        views *= rng.normal(1, contrast, (n, 1, 1, channels)).astype(np.float32)
        views += rng.normal(0, contrast, (n, 1, 1, channels)).astype(np.float32)
    return views


def turned(box: npt.NDArray[np.generic], orientation: int) -> npt.NDArray[np.generic]:
    """One of the eight orientations of a box, (y, x, channels) or (n, y, x, channels)."""
    y_axis = box.ndim - 3
    if orientation & 4:
        box = np.swapaxes(box, y_axis, y_axis + 1)
    if orientation & 2:
        box = np.flip(box, y_axis)
    if orientation & 1:
        box = np.flip(box, y_axis + 1)
    return box


def centre_view(boxes: npt.NDArray[np.float16], input_px: int) -> npt.NDArray[np.float32]:
    """Boxes without their margin, as the network takes them."""
    margin = (boxes.shape[1] - input_px) // 2
    return boxes[:, margin : margin + input_px, margin : margin + input_px].astype(np.float32)
