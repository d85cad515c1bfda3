"""Checkpoints of a training: a killed one resumes from them, with the same result."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.preparation.model_folder import array_of, npz_bytes
from cryoflow.storage import inputs
from cryoflow.storage.parsing import parse_record

if TYPE_CHECKING:
    import keras

STATE = "state.npz"
Weights = dict[str, npt.NDArray[Any]]


def state_bytes(
    model: keras.Model,
    optimizer: keras.Optimizer,
    average: Weights,
    history: list[dict[str, float]],
    fingerprint: str,
) -> bytes:
    """Return a checkpoint: weights, their average, the state of the optimizer, and a record of each round."""
    arrays: Weights = {f"average/{k}": v for k, v in average.items()}
    for i, v in enumerate([*model.variables, *optimizer.variables]):
        arrays[f"variable/{i:04d}"] = array_of(v)
    described = json.dumps({"history": history, "fingerprint": fingerprint})
    arrays["described"] = np.frombuffer(described.encode(), np.uint8)
    return npz_bytes(arrays)


def finished(output: Path, fingerprint: str, rounds: int) -> Weights | None:
    """Return the averaged weights of a training that came to its end in a folder, None where there is none.

    Raises
    ------
    BadInput
        Where the checkpoint is of another training.
    """
    state = output / STATE
    if not state.is_file():
        return None
    arrays, history = _read_state(state, fingerprint)
    return _average_of(arrays) if len(history) >= rounds else None


def restore(
    model: keras.Model, optimizer: keras.Optimizer, path: Path, fingerprint: str
) -> tuple[Weights, list[dict[str, float]]]:
    """Set a model and its optimizer to a checkpoint; return the averaged weights and the record of each round.

    Raises
    ------
    BadInput
        Where the checkpoint is damaged, or of another training.
    """
    arrays, history = _read_state(path, fingerprint)
    try:
        for i, v in enumerate([*model.variables, *optimizer.variables]):
            v.assign(arrays[f"variable/{i:04d}"])
    except (ValueError, KeyError, TypeError) as error:
        raise _no_state(path, error) from error
    return _average_of(arrays), history


def _average_of(arrays: Weights) -> Weights:
    return {k.removeprefix("average/"): v for k, v in arrays.items() if k.startswith("average/")}


def _read_state(path: Path, fingerprint: str) -> tuple[Weights, list[dict[str, float]]]:
    try:
        arrays = dict(inputs.read_npz(path))
        described = parse_record(path, arrays["described"].tobytes(), _StateRecord, _HINT)
    except (OSError, ValueError, KeyError) as error:
        raise _no_state(path, error) from error
    if described.fingerprint != fingerprint:
        raise _no_state(path, ValueError("made with other labels, micrographs or options"))
    return arrays, described.history


@dataclass(frozen=True)
class _StateRecord:
    fingerprint: str
    history: list[dict[str, float]]


_HINT = "Name another folder, or remove it."


def _no_state(path: Path, error: Exception) -> BadInput:
    return BadInput(path, f"is no state of this training ({error}).", _HINT)
