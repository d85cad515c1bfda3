"""What the machine offers to Keras: GPUs, mixed precision, XLA, several GPUs at once."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cryoflow.errors import CryoflowError
from cryoflow.system.cpus import multiplies_bfloat16
from cryoflow.system.tensorflow_import import load_tensorflow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Devices:
    """Devices and precision of a training.

    Attributes
    ----------
    gpus
        Their names; empty on a machine without.
    mixed_precision, compiled
        float16 where that is safe, and XLA: on where a GPU is. On a CPU both cost more than they bring, but for JAX,
        which is XLA.
    distributed
        Whether batches are shared between several GPUs.
    """

    gpus: tuple[str, ...]
    mixed_precision: bool
    compiled: bool
    distributed: bool = False


def load_keras() -> None:
    """Import Keras and its backend, without TensorFlow's chatter. Call it before the first use of either.

    Raises
    ------
    CryoflowError
        Where the backend that `KERAS_BACKEND` names is not there.
    """
    backend = os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend == "tensorflow":
        load_tensorflow()
    try:
        import keras  # noqa: F401
    except (ImportError, ValueError) as error:
        raise CryoflowError(
            f"KERAS_BACKEND={backend}: {error}. Install it, or leave the variable out: TensorFlow is used then."
        ) from error


def list_gpus() -> tuple[str, ...]:
    """Return the names of the GPUs that Keras' backend can use; none on a machine without."""
    import keras

    try:
        return tuple(keras.distribution.list_devices("gpu"))
    except (RuntimeError, ValueError, ImportError, NotImplementedError):
        return ()


def inference_precision() -> str | None:
    """Return the type that a network's products are fastest in where nothing is learned; None for float32.

    bfloat16 halves the time of convolutions on processors that multiply it. It rounds to 8 bits, so results on such
    a machine differ by about 1 % from those of float32. Where a GPU is, and on other backends, float32 is kept.
    """
    import keras

    if keras.backend.backend() != "tensorflow" or list_gpus():
        return None
    return "bfloat16" if multiplies_bfloat16() else None


@contextlib.contextmanager
def shared_by(devices: Sequence[str]) -> Iterator[None]:
    """Share each batch between several devices: for models that are built and fitted within this context.

    Keras' own distribution works on its JAX backend only; on TensorFlow the context is a `MirroredStrategy`.
    """
    import keras

    if len(devices) < 2:
        yield
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.distribute.MirroredStrategy(list(devices)).scope():
            yield
    else:
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=list(devices)))
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


def find_devices(*, mixed_precision: bool | None = None) -> Devices:
    """Look for GPUs and, where there are several, have Keras share each batch between them.

    Keras' own distribution works on its JAX backend (`KERAS_BACKEND=jax`); on TensorFlow it is not finished there, so
    the first GPU is used and a line of the log says so.

    Parameters
    ----------
    mixed_precision
        None turns it on where a GPU is.
    """
    import keras

    gpus = list_gpus()
    distributed = False
    if len(gpus) > 1 and keras.backend.backend() == "jax":
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=list(gpus)))
        distributed = True
    elif len(gpus) > 1:
        log.warning("one of %d GPUs is used: set KERAS_BACKEND=jax to train on all of them", len(gpus))
    mixed = bool(gpus) if mixed_precision is None else mixed_precision
    compiled = keras.backend.backend() == "jax" or bool(gpus)
    return Devices(gpus, mixed, compiled, distributed)
