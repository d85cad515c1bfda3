"""Scalars of a training for TensorBoard, by TensorFlow's own writer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryoflow.errors import NotWritten
from cryoflow.storage.folders import make_folder


class Scalars:
    """A log that scalars are added to; each record is on disk when `add` returns.

    On another backend of Keras than TensorFlow, which has no writer of its own, nothing is written.
    """

    def __init__(self, folder: Path) -> None:
        import keras

        self.folder = folder
        self._writer = None
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            make_folder(folder)
            self._writer = tf.summary.create_file_writer(str(folder))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add numbers by name at a step."""
        if self._writer is None:
            return
        import tensorflow as tf

        # `tf.summary.scalar` needs the TensorBoard package; it writes exactly this.
        scalar = tf.compat.v1.SummaryMetadata()
        scalar.plugin_data.plugin_name = "scalars"
        try:
            with self._writer.as_default(step=step):
                for name, value in scalars.items():
                    tf.summary.write(name, tf.constant(value, tf.float32), metadata=scalar)
            self._writer.flush()
        except tf.errors.OpError as error:
            raise NotWritten(self.folder, f"cannot be written: {error.message}.") from error
