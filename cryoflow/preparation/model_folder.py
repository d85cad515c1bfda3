"""What the folders of both networks' models share: weights as arrays, checked files, versions."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import platform
import sys
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import cryoflow
from cryoflow.errors import BadInput
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.json_values import plain
from cryoflow.storage.parsing import read_record
from cryoflow.storage.safe_names import inside
from cryoflow.storage.sealing import sealed

if TYPE_CHECKING:
    import keras

DESCRIPTION, WEIGHTS, METRICS = "bundle.json", "weights.npz", "metrics.json"
"""The description is written last and makes the folder a model."""

Weights = Mapping[str, npt.NDArray[np.generic]]


def array_of(variable: keras.Variable) -> npt.NDArray[Any]:
    """Return a copy of a variable; of one that several devices hold, the first device's.

    Returns
    -------
    ndarray
        Of the variable's shape and type.
    """
    from keras import ops

    return np.array(ops.convert_to_numpy(ops.convert_to_tensor(variable)))


def get_weights(model: keras.Model) -> dict[str, npt.NDArray[np.generic]]:
    """Return all weights of a network by name, moving averages of the normalization included.

    Returns
    -------
    dict
        Path of each variable -> its value, of the variable's shape.
    """
    return {w.path: array_of(w) for w in model.weights}


def set_weights(model: keras.Model, weights: Weights, source: Path) -> None:
    """Put weights into a network of the same description.

    Raises
    ------
    BadInput
        Where a name or a shape differs.
    """
    wanted = {w.path: tuple(w.shape) for w in model.weights}
    given = {name: array.shape for name, array in weights.items()}
    if wanted != given:
        odd = sorted(set(wanted.items()) ^ set(given.items()))[:3]
        raise BadInput(source, f"the weights do not fit the network: {odd}.", "Was it made by another version?")
    for w in model.weights:
        w.assign(weights[w.path].astype(np.float32))


def interpolated(start: Weights, learned: Weights, part: float) -> dict[str, npt.NDArray[np.generic]]:
    """Return the weighted mean of the weights before and after a training, as float32.

    A network with such weights forgets less, and performs nearly as well on the new data (Wortsman et al. 2022,
    arXiv:2109.01903).

    Parameters
    ----------
    start, learned
        Name -> array; an array has the same shape in both.
    part
        Weight of `learned`: 0 returns `start`, 1 returns `learned`.

    Returns
    -------
    dict
        Names and shapes of `start`.
    """
    between: dict[str, npt.NDArray[np.generic]] = {}
    for name, weights in start.items():
        first, last = np.asarray(weights, np.float32), np.asarray(learned[name], np.float32)
        between[name] = first + np.float32(part) * (last - first)
    return between


def npz_bytes(arrays: Weights) -> bytes:
    """Return arrays as an npz whose bytes depend on nothing but the arrays."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            part = io.BytesIO()
            np.save(part, np.asarray(arrays[name], order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), part.getvalue())
    return raw.getvalue()


def write_metrics(folder: Path, metrics: Mapping[str, object]) -> None:
    """Write what was measured; values that are not finite become null."""
    write_atomically(folder / METRICS, json.dumps(plain(metrics), indent=2, sort_keys=True) + "\n")


def read_metrics(folder: Path, hint: str) -> dict[str, float]:
    """Read what was measured; null becomes NaN.

    Raises
    ------
    BadInput
        Where the file cannot be read, or a measure is no number.
    """
    known = read_record(folder / METRICS, dict[str, float | None], hint)
    return {name: math.nan if value is None else value for name, value in known.items()}


def write_description(folder: Path, description: Mapping[str, object], files: Iterable[str]) -> None:
    """Write the sealed description, with the versions of programs and the checksums of files, which are written."""
    values = {
        **description,
        "versions": description.get("versions") or versions(),
        "checksums": {name: checksum(folder / name) for name in files},
    }
    described = plain(values)
    assert isinstance(described, dict)
    write_atomically(folder / DESCRIPTION, sealed(described))


def refuse_changed(folder: Path, checksums: Mapping[str, str], hint: str) -> None:
    """Check the files of a model against their checksums.

    Raises
    ------
    BadInput
        Where a file is missing or was changed.
    """
    for name, wanted in checksums.items():
        file = inside(folder, name)
        if not file.is_file() or checksum(file) != wanted:
            raise BadInput(file, "is missing or was changed since the model was written.", hint)


def require_fields(kind: type, values: Mapping[str, object], what: str) -> None:
    """Raise `ValueError` where a record has other fields than the dataclass that it describes."""
    fields = {f.name for f in dataclasses.fields(kind)}
    if set(values) != fields:
        raise ValueError(f"{what} with fields {sorted(values)}; expected {sorted(fields)}")


def versions() -> dict[str, str]:
    """Return the versions of the programs that make a model."""
    import keras

    backend = keras.backend.backend()
    return {
        "cryoflow": cryoflow.__version__,
        "python": platform.python_version(),
        "keras": keras.__version__,
        backend: str(getattr(sys.modules[backend], "__version__", "")),  # Keras has loaded it
        "numpy": np.__version__,
    }
