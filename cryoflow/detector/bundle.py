"""A trained detector as a folder that is read and checked, and from which nothing is run.

    bundle.json     architecture, preparation, calibration, recipe, versions, checksums; sealed, written last
    weights.npz     arrays by name in half precision, never pickled
    metrics.json    measured values
    card.md         what it was trained on and how, what it can do and what not

The name `general` stands for the model that comes with cryoflow.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from cryoflow.detector.network import (
    MULTIPLE,
    N_OUTPUTS,
    OFFSET_X,
    OFFSET_Y,
    STRIDE,
    DetectorArchitecture,
    build,
)
from cryoflow.detector.prepare import PIXELS_PER_DIAMETER
from cryoflow.errors import BadInput
from cryoflow.models.parameters import GENERAL, is_general
from cryoflow.preparation.calibration import Calibration
from cryoflow.preparation.devices import load_keras
from cryoflow.preparation.folded_weights import fold
from cryoflow.preparation.model_folder import (
    DESCRIPTION,
    METRICS,
    WEIGHTS,
    npz_bytes,
    read_metrics,
    refuse_changed,
    set_weights,
    write_description,
    write_metrics,
)
from cryoflow.storage import inputs
from cryoflow.storage.files import remove, write_atomically
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.folders import make_folder
from cryoflow.storage.parsing import read_json, validated
from cryoflow.storage.sealing import unsealed

if TYPE_CHECKING:
    import keras

FORMAT = 1
CARD = "card.md"
GENERAL_FOLDER = Path(__file__).parent / "general_model"
PROGRAM = "cryoflow detector"
TILE_PX, OVERLAP_PX = 1536, 192
"""Larger images are processed in tiles of this edge, which share so many pixels: more than the receptive field."""

_PADDED = 4 * MULTIPLE  # coarser than the network needs: each new size of an image is traced anew, which takes seconds

_HALF_TURN = np.ones(N_OUTPUTS, np.float32)
_HALF_TURN[[OFFSET_X, OFFSET_Y]] = -1

Answers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _StoredCalibration:
    __pydantic_config__ = {"allow_inf_nan": False}  # read by pydantic

    temperature: Annotated[float, Gt(0)]
    offset: float


@dataclass(frozen=True)
class _DetectorRecord:
    """The fields of bundle.json."""

    __pydantic_config__ = {"allow_inf_nan": False}  # read by pydantic

    architecture: dict[str, int | list[int]]
    pixels_per_diameter: Annotated[float, Gt(0)]
    calibration: _StoredCalibration
    threshold: Annotated[float, Ge(0), Le(1)]
    diameter_A: Annotated[float, Gt(0)] | None
    recipe: dict[str, object]
    versions: dict[str, str]
    checksums: dict[str, str]
    orientations: Literal[1, 2] = 1


@dataclass(frozen=True)
class Detector:
    """A trained detector.

    Attributes
    ----------
    architecture, weights
        The network.
    pixels_per_diameter
        Sampling of its input.
    calibration
        From logits of peaks to probabilities.
    threshold
        Probability of the best F1 on the micrographs that calibrated it; used where no other can be derived.
    diameter_A
        Of the particles it learned from, None for a general model.
    recipe, metrics, card
        Recipe, measured values, and both in words.
    orientations
        2 where answers are means over a micrograph and its half turn, as when the calibration was fitted; else 1.
    """

    architecture: DetectorArchitecture
    weights: Mapping[str, npt.NDArray[np.generic]] = field(repr=False, compare=False)
    pixels_per_diameter: float = PIXELS_PER_DIAMETER
    calibration: Calibration = field(default_factory=Calibration)
    threshold: float = 0.5
    diameter_A: float | None = None
    recipe: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    card: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    orientations: int = 1

    @classmethod
    def general(cls) -> Detector:
        """Return the model that comes with cryoflow."""
        return cls.load(GENERAL)

    @classmethod
    def load(cls, name_or_folder: str | Path) -> Detector:
        """Read and check a model: a folder, or `general`.

        Raises
        ------
        BadInput
            Where the folder holds no detector, one of another version, or a file is missing or was changed.
        """
        folder = folder_of(name_or_folder)
        file = folder / DESCRIPTION
        if not file.is_file():
            reason = "there is no such model." if not folder.exists() else f"is no detector: it has no {DESCRIPTION}."
            raise BadInput(folder, reason, "Name the folder of a detector, or `general` for the one that ships.")
        hint = "Copy the model again."
        if (program := _program_of(file)) not in ("", PROGRAM):
            raise BadInput(file, f"is a model of {program}, not a detector.", "Name the folder of a detector.")
        try:
            values = unsealed(file, inputs.read_bytes(file), FORMAT, hint)
            if values.get("program") != PROGRAM:
                raise ValueError("no program is named")
            stored = validated(file, values, _DetectorRecord, "Was it made by another version? Else copy it again.")
            refuse_changed(folder, {name: stored.checksums.get(name, "") for name in (WEIGHTS, METRICS, CARD)}, hint)
            return cls(
                architecture=DetectorArchitecture.from_json(stored.architecture),
                weights=inputs.read_npz(folder / WEIGHTS),
                pixels_per_diameter=stored.pixels_per_diameter,
                calibration=Calibration(stored.calibration.temperature, stored.calibration.offset),
                threshold=stored.threshold,
                diameter_A=stored.diameter_A,
                orientations=stored.orientations,
                recipe=stored.recipe,
                metrics=read_metrics(folder, hint),
                card=inputs.read_text(folder / CARD),
                versions=stored.versions,
                folder=folder.resolve(),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(
                file, f"cannot be read as a detector: {error!r}.", "Was it made by another version?"
            ) from error

    def save(self, folder: Path) -> None:
        """Write the model into a folder; `bundle.json` comes last and makes it one. Weights are rounded to float16.

        Raises
        ------
        NotWritten
            Where the disk is full, read-only or failing; the folder then holds no model.
        """
        make_folder(folder)
        remove(folder / DESCRIPTION)
        write_atomically(folder / WEIGHTS, npz_bytes(half(self.weights)))
        write_metrics(folder, self.metrics)
        write_atomically(folder / CARD, self.card)
        description = {
            "format": FORMAT,
            "program": PROGRAM,
            "architecture": self.architecture.to_json(),
            "pixels_per_diameter": self.pixels_per_diameter,
            "calibration": self._calibration_values,
            "threshold": self.threshold,
            "diameter_A": self.diameter_A,
            "orientations": self.orientations,
            "recipe": dict(self.recipe),
            "versions": dict(self.versions),
        }
        write_description(folder, description, (WEIGHTS, METRICS, CARD))

    @property
    def _calibration_values(self) -> dict[str, float]:
        """Return the calibration, under the names that model folders use."""
        return {"temperature": self.calibration.temperature, "offset": self.calibration.bias}

    @cached_property
    def fingerprint(self) -> str:
        """Return a short hash of everything that determines its picks."""
        described: list[object] = [self.architecture.to_json(), self.pixels_per_diameter, self._calibration_values]
        if self.orientations != 1:  # models of one orientation keep the fingerprint that they had before this field
            described.append(self.orientations)
        return fingerprint_of(npz_bytes(half(self.weights)), json.dumps(described, sort_keys=True), digits=16)

    @cached_property
    def network(self) -> keras.Model:
        """Return the network with its weights, built once; normalization is folded into the convolutions to save time.

        Raises
        ------
        BadInput
            Where the weights do not fit the architecture.
        """
        load_keras()
        source = self.folder or Path(WEIGHTS)
        model = build(self.architecture, folded=True)
        try:
            weights = fold(self.weights)
        except (KeyError, ValueError) as error:
            hint = "Was it made by another version?"
            raise BadInput(source, f"the weights do not fit the network: {error}.", hint) from error
        set_weights(model, weights, source)
        return model

    def answers(self, prepared: npt.NDArray[np.float16], *, orientations: int | None = None) -> Answers:
        """Return the network's answers for a prepared micrograph.

        A large image is processed in overlapping tiles; each tile contributes the inner half of every overlap.

        Parameters
        ----------
        prepared : (ny, nx, 2) float16
            At `pixels_per_diameter`, from `prepare`.
        orientations
            1 is faster than the model's own number, and a little less precise.

        Returns
        -------
        (ny / 4, nx / 4, 5) float32
            Sizes are rounded up.
        """
        orientations = self.orientations if orientations is None else orientations
        ny, nx = prepared.shape[:2]
        full = np.empty((-(-ny // STRIDE), -(-nx // STRIDE), N_OUTPUTS), np.float32)
        for rows, inner_rows in tiles_of(ny):
            for columns, inner_columns in tiles_of(nx):
                part = _look(self.network, prepared[rows, columns], orientations)
                out_rows, out_columns = (
                    slice(i.start // STRIDE, -(-i.stop // STRIDE)) for i in (inner_rows, inner_columns)
                )
                first_row, first_column = (s.start // STRIDE for s in (rows, columns))
                full[out_rows, out_columns] = part[
                    out_rows.start - first_row : out_rows.stop - first_row,
                    out_columns.start - first_column : out_columns.stop - first_column,
                ]
        return full


def folder_of(name_or_folder: str | Path) -> Path:
    """Return the folder of a model named on the command line."""
    if is_general(name_or_folder):
        return GENERAL_FOLDER
    return Path(name_or_folder)


def is_detector(name_or_folder: str | Path) -> bool:
    """Return whether a model is a detector; the unpicker's commands take either."""
    return _program_of(folder_of(name_or_folder) / DESCRIPTION) == PROGRAM


def _program_of(description: Path) -> str:
    """Return the program that made a model, empty where its description cannot be read."""
    try:
        values = read_json(description)
    except (OSError, BadInput):
        return ""  # `load` tells what is wrong with it
    return str(values.get("program", "")) if isinstance(values, dict) else ""


def half(weights: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return weights in half precision; variances of the normalization are kept within its range.

    Parameters
    ----------
    weights
        Name -> array.

    Returns
    -------
    dict
        Names and shapes of `weights`, as float16.
    """
    limit = np.finfo(np.float16)
    return {
        name: np.clip(w.astype(np.float32), float(limit.min), float(limit.max)).astype(np.float16)
        for name, w in weights.items()
    }


def _look(network: keras.Model, part: npt.NDArray[np.float16], orientations: int) -> Answers:
    """Return the answers for an image, which is padded to a size that the network takes."""
    ny, nx = part.shape[:2]
    padded = [(0, -n % _PADDED) for n in (ny, nx)]
    x = np.pad(part, [*padded, (0, 0)], mode="edge").astype(np.float32)[None]
    answers = np.asarray(network.predict_on_batch(x))[0]
    if orientations == 2:
        # In two calls, not in a batch of two: memory is what limits large micrographs.
        turned = np.asarray(network.predict_on_batch(np.ascontiguousarray(x[:, ::-1, ::-1])))[0, ::-1, ::-1]
        answers = (answers + turned * _HALF_TURN) / 2
    inside: Answers = answers[: -(-ny // STRIDE), : -(-nx // STRIDE)]
    return inside


def tiles_of(length: int) -> list[tuple[slice, slice]]:
    """Return the tiles of an axis: the input of each, and its part that is kept. Both begin at multiples of 16."""
    if length <= TILE_PX:
        return [(slice(0, length), slice(0, length))]
    number = math.ceil((length - OVERLAP_PX) / (TILE_PX - OVERLAP_PX))
    step = math.ceil((length - OVERLAP_PX) / number / MULTIPLE) * MULTIPLE
    tiles = []
    for i in range(number):
        start, stop = i * step, min(length, i * step + step + OVERLAP_PX)
        inner_start = 0 if i == 0 else start + OVERLAP_PX // 2
        inner_stop = length if i == number - 1 else start + step + OVERLAP_PX // 2
        tiles.append((slice(start, stop), slice(inner_start, inner_stop)))
    return tiles
