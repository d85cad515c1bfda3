"""The network: a fully convolutional detector of particle centers. Keras 3 only, for any of its backends.

At every fourth pixel in y and x it gives four answers: whether a particle is centered there, how far off its center is,
how large the particle is compared with the assumed diameter, and whether the place is junk (carbon, ice, gold,
aggregates, crystalline patches).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryoflow.preparation.folded_weights import NORM_EPSILON
from cryoflow.preparation.layer_seeds import LayerSeeds

if TYPE_CHECKING:
    import keras

STRIDE = 4
"""Input pixels for each output pixel."""

MULTIPLE = 16
"""Height and width of an input are multiples of this: the network halves four times."""

PARTICLE, OFFSET_X, OFFSET_Y, LOG_SIZE, JUNK = range(5)
"""Channels of the output: logit, two offsets in output pixels, log(diameter / assumed diameter), logit."""

N_OUTPUTS = 5
PRIOR = 0.01
"""Share of output pixels that hold a center: the head's bias starts there, or the first steps are wasted."""


@dataclass(frozen=True)
class DetectorArchitecture:
    """A detector as plain values, from which `build` makes it again.

    Attributes
    ----------
    n_channels
        Channels of the input.
    widths
        Channels at 1/2, 1/4, 1/8 and 1/16 of the resolution.
    blocks
        Residual blocks at each of them.
    """

    n_channels: int = 2
    widths: tuple[int, int, int, int] = (16, 40, 64, 96)
    blocks: tuple[int, int, int, int] = (1, 1, 2, 2)

    def to_json(self) -> dict[str, object]:
        """Return plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, object]) -> DetectorArchitecture:
        """Return the architecture that `to_json` described.

        Raises
        ------
        ValueError
            For fields that this version does not have.
        """
        fields = {f.name for f in dataclasses.fields(cls)}
        if set(values) != fields:
            raise ValueError(f"a detector with fields {sorted(values)}; expected {sorted(fields)}")
        widths, blocks = (tuple(int(v) for v in values[k]) for k in ("widths", "blocks"))  # type: ignore[attr-defined]
        if (
            len(widths) != 4
            or len(blocks) != 4
            or not all(0 < v <= 1024 for v in widths)
            or not all(0 <= v <= 16 for v in blocks)
        ):
            raise ValueError(f"a detector of widths {widths} and blocks {blocks}")
        return cls(int(values["n_channels"]), widths, blocks)  # type: ignore[call-overload]


def build(
    architecture: DetectorArchitecture,
    *,
    seed: int = 0,
    mixed_precision: str | None = None,
    folded: bool = False,
) -> keras.Model:
    """Build a detector with random weights.

    Parameters
    ----------
    seed
        Of the random weights.
    mixed_precision
        Type to compute in, `float16` or `bfloat16`; weights and the output stay float32. None computes in float32.
    folded
        Without batch normalization, for weights that `cryoflow.preparation.folded_weights.fold` made.

    Returns
    -------
    keras.Model
        (n, height, width, n_channels) -> (n, height / 4, width / 4, 5), float32; see `PARTICLE` and so on.
    """
    import keras
    from keras import layers

    dtype = keras.DTypePolicy(f"mixed_{mixed_precision}" if mixed_precision else "float32")
    widths, blocks, seeds = architecture.widths, architecture.blocks, LayerSeeds(seed)

    def conv(x: object, width: int, edge: int, stride: int, name: str) -> object:
        x = layers.Conv2D(
            width,
            edge,
            strides=stride,
            padding="same",
            use_bias=folded,
            kernel_initializer=keras.initializers.HeNormal(seed=seeds.draw()),
            dtype=dtype,
            name=name,
        )(x)
        if folded:
            return x
        return layers.BatchNormalization(momentum=0.97, epsilon=NORM_EPSILON, dtype=dtype, name=f"{name}_norm")(x)

    def relu(x: object, name: str) -> object:
        return layers.Activation("relu", dtype=dtype, name=name)(x)

    def block(x: object, width: int, stride: int, before: int, name: str) -> object:
        shortcut = x
        if stride > 1:
            shortcut = layers.AveragePooling2D(2, padding="same", dtype=dtype, name=f"{name}_pool")(x)
        if stride > 1 or before != width:
            shortcut = conv(shortcut, width, 1, 1, f"{name}_shortcut")
        y = relu(conv(x, width, 3, stride, f"{name}_conv1"), f"{name}_relu1")
        y = conv(y, width, 3, 1, f"{name}_conv2")
        return relu(layers.Add(dtype=dtype, name=f"{name}_add")([y, shortcut]), f"{name}_relu2")

    inputs = keras.Input((None, None, architecture.n_channels), name="micrographs")
    x: object = relu(conv(inputs, widths[0], 5, 2, "stem"), "stem_relu")
    levels: list[object] = []
    before = widths[0]
    for level, (width, number) in enumerate(zip(widths, blocks, strict=True), start=1):
        for j in range(1, number + 1):
            x = block(x, width, 2 if j == 1 and level > 1 else 1, before, f"level{level}_block{j}")
            before = width
        levels.append(x)
    for level in (3, 2):
        # Both steps are linear: where nothing is learned, the convolution comes first, on a quarter of the pixels. In
        # training the statistics of its normalization are those of the doubled map.
        if folded:
            x = conv(x, widths[level - 1], 1, 1, f"up{level}_reduce")
        x = layers.Lambda(doubled, dtype=dtype, name=f"up{level}")(x)
        if not folded:
            x = conv(x, widths[level - 1], 1, 1, f"up{level}_reduce")
        x = relu(layers.Add(dtype=dtype, name=f"up{level}_add")([x, levels[level - 1]]), f"up{level}_relu1")
        x = relu(conv(x, widths[level - 1], 3, 1, f"up{level}_mix"), f"up{level}_relu2")

    def head(width: int, name: str, start: float = 0.0) -> object:
        return layers.Conv2D(
            width,
            1,
            kernel_initializer=keras.initializers.GlorotUniform(seed=seeds.draw()),
            bias_initializer=keras.initializers.Constant(start),
            dtype="float32",
            name=name,
        )(x)

    answers = [
        head(1, "particle", math.log(PRIOR / (1 - PRIOR))),
        head(2, "offset"),
        head(1, "log_size"),
        head(1, "junk", math.log(0.05 / 0.95)),
    ]
    outputs = layers.Concatenate(dtype="float32", name="answers")(answers)
    return keras.Model(inputs, outputs, name="detector")


def doubled(x: Any) -> Any:
    """Return (n, height, width, channels) with height and width doubled, interpolated linearly.

    Keras' own bilinear UpSampling2D fails in a traced function whose height and width are not known.
    """
    from keras import ops

    for axis in (1, 2):
        size = ops.shape(x)
        first = [slice(None)] * 4
        last, inner_before, inner_after = list(first), list(first), list(first)
        first[axis], last[axis] = slice(0, 1), slice(-1, None)
        inner_before[axis], inner_after[axis] = slice(0, -1), slice(1, None)
        before = ops.concatenate([x[tuple(first)], x[tuple(inner_before)]], axis=axis)
        after = ops.concatenate([x[tuple(inner_after)], x[tuple(last)]], axis=axis)
        pair = ops.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis=axis + 1)
        x = ops.reshape(pair, [n * 2 if i == axis else n for i, n in enumerate(size)])
    return x
