"""TensorFlow without its chatter: its native code writes to stderr before any of its log levels is read."""

from __future__ import annotations

import logging
import os
import sys
import tempfile


def load_tensorflow() -> None:
    """Import TensorFlow and look for GPUs with what it writes to stderr kept for the debug log.

    Call it before the first import of Keras or TensorFlow; later calls do nothing. A failing import raises as ever.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), 2)
        try:
            import tensorflow

            tensorflow.config.list_physical_devices("GPU")
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
        captured.seek(0)
        logging.getLogger(__name__).debug("TensorFlow says: %s", captured.read().decode(errors="replace").strip())
