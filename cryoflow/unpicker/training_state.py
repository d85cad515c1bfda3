"""The state of a training on disk, from which a stopped one goes on, and what was measured after each epoch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.preparation.model_folder import npz_bytes
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.storage.parsing import parse_record

STATE = "state.npz"
_HINT = "Start anew (--overwrite)."
Record = dict[str, float]
"""Measures of one epoch by name."""


@dataclass
class History:
    """Measures after each epoch, in order."""

    epochs: list[Record]

    @property
    def best(self) -> int:
        """Return the epoch (from 1) with the least validation loss; the last one of equals."""
        share = self.epochs[-1].get("class_prior")
        comparable = [e.get("class_prior") == share for e in self.epochs]
        return 1 + int(np.argmin(np.where(comparable, [e["val_loss"] for e in self.epochs], np.inf)))

    def ended(self, patience: int) -> bool:
        """Return whether the validation loss has not fallen for too long."""
        return len(self.epochs) - self.best >= patience


def _all_variables(model: keras.Model) -> list[keras.Variable]:
    """Return weights, the state of dropout, and the optimizer's."""
    return [*model.variables, *model.optimizer.variables]


def save_state(model: keras.Model, history: History, path: Path) -> None:
    """Write weights, the optimizer's state and the history, from which a stopped training goes on."""
    arrays: dict[str, npt.NDArray[np.generic]] = {
        f"{i:04d}": np.array(keras.ops.convert_to_numpy(v.value)) for i, v in enumerate(_all_variables(model))
    }
    arrays["history"] = np.frombuffer(json.dumps(history.epochs).encode(), np.uint8)
    write_atomically(path, npz_bytes(arrays))


def restore_state(model: keras.Model, path: Path) -> History:
    """Load what `save_state` wrote into a model, and return the history."""
    variables = _all_variables(model)
    try:
        arrays = inputs.read_npz(path)
        if len(arrays) != len(variables) + 1:
            raise ValueError("of another training")
        for i, v in enumerate(variables):
            v.assign(arrays[f"{i:04d}"])
        history = arrays["history"].tobytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(path, f"is no state of this training ({error}).", _HINT) from error
    epochs = parse_record(path, history, list[Record], _HINT)
    if not epochs or not all("val_loss" in epoch for epoch in epochs):
        raise BadInput(path, "is no state of this training (an epoch without a validation loss).", _HINT)
    return History(epochs)
