"""A trained model as a folder that can be read, checked and sent, and from which nothing is run.

    bundle.json           architecture, preprocessing, operating points, training options, versions, checksums
    weights.npz           arrays by name, never pickled
    metrics.json          what was measured on validation and test micrographs
    training_set.tsv      every micrograph: part, data set, counts, defocus, pixel size, content hash
    learning_curves.png   of the training
    detector/             the detector whose features it takes, where it does

`bundle.json` is written last, with a checksum of its own: a folder without it is no model. The network is built by
cryoflow from its description; weights are arrays and nothing else.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import numpy.typing as npt
from annotated_types import Ge, Gt, Le

from cryoflow.detector.bundle import Detector
from cryoflow.errors import BadInput
from cryoflow.preparation.calibration import Calibration
from cryoflow.preparation.devices import find_devices, load_keras
from cryoflow.preparation.folded_weights import fold
from cryoflow.preparation.model_folder import (
    DESCRIPTION,
    METRICS,
    WEIGHTS,
    Weights,
    npz_bytes,
    read_metrics,
    refuse_changed,
    require_fields,
    set_weights,
    write_description,
    write_metrics,
)
from cryoflow.preparation.patches import Patches, PatchExtractor
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.storage import inputs
from cryoflow.storage.files import remove, write_atomically
from cryoflow.storage.fingerprints import fingerprint_of
from cryoflow.storage.folders import make_folder
from cryoflow.storage.parsing import parse_record, validated
from cryoflow.storage.sealing import refuse_newer, unsealed
from cryoflow.unpicker.detector_features import Backbone, DetectorFeatures
from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing
from cryoflow.unpicker.inference import logits_of
from cryoflow.unpicker.model_manifest import ManifestRow, manifest_text, read_manifest
from cryoflow.unpicker.network import Architecture, build
from cryoflow.unpicker.operating_point import OperatingPoint

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

FORMAT = 2
"""1: version 0.1, whose bundle.json has no checksum of its own and one operating point; still read."""
MANIFEST, DETECTOR = "training_set.tsv", "detector"


@dataclass(frozen=True)
class ModelBundle:
    """A trained model: what it is, what it was trained on, how well it did.

    Attributes
    ----------
    temperature, threshold
        Calibration and threshold pooled over all projects.
    projects
        Operating point of each project of the validation micrographs.
    metrics
        Numbers by name, of validation and (where it was evaluated) of test micrographs.
    folder
        Where it lies, None for one that was not written yet.
    """

    architecture: Architecture
    preprocessing: PatchExtractor
    weights: Weights = field(repr=False, compare=False)
    diameter_A: float
    temperature: float = 1.0
    threshold: float = 0.5
    projects: Mapping[str, OperatingPoint] = field(default_factory=dict)
    options: Mapping[str, object] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    manifest: tuple[ManifestRow, ...] = field(default=(), repr=False)
    fingerprint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None

    @cached_property
    def network(self) -> keras.Model:
        """Return the network with its weights, built once, batch normalization folded."""
        load_keras()
        source = self.folder or Path(WEIGHTS)
        model = build(self.architecture, folded=True)
        try:
            weights = fold(self.weights)
        except (KeyError, ValueError) as error:
            raise BadInput(source, f"the weights do not fit the network: {error}.") from error
        set_weights(model, weights, source)
        model.jit_compile = find_devices(mixed_precision=False).compiled  # compiling costs a CPU more than it brings
        return model

    @cached_property
    def mark(self) -> str:
        """Return a short hash of everything that determines its probabilities."""
        calibrations = {name: (point.temperature, point.bias) for name, point in self.projects.items()}
        described = (
            self.architecture.to_json(),
            self.preprocessing.to_json(),
            self.diameter_A,
            self.temperature,
            calibrations,
        )
        return fingerprint_of(npz_bytes(self.weights), json.dumps(described, sort_keys=True), digits=16)

    @property
    def defocus_range_A(self) -> tuple[float, float]:
        """Return the defocus range of the training micrographs, NaN where unknown."""
        known = [r.defocus_A for r in self.manifest if r.part == "train" and np.isfinite(r.defocus_A)]
        return (min(known), max(known)) if known else (float("nan"), float("nan"))

    def logits(self, patches: Patches, *, orientations: int = 1, batch: int | None = None) -> npt.NDArray[np.float64]:
        """Return the network's logits, (n,), each the mean over so many orientations of the patch."""
        return logits_of(self.network, patches, self.preprocessing, orientations=orientations, batch=batch)

    def probabilities(self, patches: Patches, *, project: str = "", orientations: int = 1) -> npt.NDArray[np.float64]:
        """Return the calibrated probability that each patch shows a whole particle, (n,).

        Parameters
        ----------
        project
            Whose calibration to use; the pooled one for projects that the model did not learn from.
        """
        point = self.projects.get(project)
        calibration = point.calibration if point else Calibration(self.temperature)
        return calibration.probabilities(self.logits(patches, orientations=orientations))

    def save(self, folder: Path) -> None:
        """Write the bundle into a folder; `bundle.json` comes last and makes it one.

        Raises
        ------
        NotWritten
            Where the disk is full, read-only or failing; the folder then holds no model.
        """
        make_folder(folder)
        remove(folder / DESCRIPTION)
        write_atomically(folder / WEIGHTS, npz_bytes(self.weights))
        write_metrics(folder, self.metrics)
        write_atomically(folder / MANIFEST, manifest_text(self.manifest))
        files = [WEIGHTS, METRICS, MANIFEST]
        if isinstance(self.preprocessing, DetectorFeatures):
            self.preprocessing.backbone.detector.save(folder / DETECTOR)
            files.append(f"{DETECTOR}/{DESCRIPTION}")
        description = {
            "format": FORMAT,
            "program": "cryoflow unpicker",
            "architecture": self.architecture.to_json(),
            "preprocessing": self.preprocessing.to_json(),
            "diameter_A": self.diameter_A,
            "temperature": self.temperature,
            "threshold": self.threshold,
            "projects": {name: point.to_json() for name, point in sorted(self.projects.items())},
            "options": dict(self.options),
            "fingerprint": self.fingerprint,
            "versions": dict(self.versions),
        }
        write_description(folder, description, files)

    @classmethod
    def load(cls, folder: Path | str) -> ModelBundle:
        """Read and check a bundle. No code of it is run.

        Raises
        ------
        BadInput
            Where the folder is no bundle, is of another version, or a file is missing or changed.
        """
        folder = Path(folder)
        file = folder / DESCRIPTION
        if not folder.is_dir():
            raise BadInput(folder, "is no folder of a model." if folder.exists() else "there is no such model.")
        if not file.is_file():
            found = sorted(p.parent.name for p in folder.glob(f"checkpoints/*/{DESCRIPTION}"))
            hint = (
                f"Its training did not finish: train again to go on, or name checkpoints/{found[-1]}." if found else ""
            )
            raise BadInput(folder, f"is no model: it has no {DESCRIPTION}.", hint)
        try:
            values = _description(file)
            sums = dict.fromkeys((WEIGHTS, METRICS, MANIFEST), "") | values.checksums
            refuse_changed(folder, sums, _HINT)
            return cls(
                architecture=Architecture.from_json(values.architecture),
                preprocessing=preprocessing_from_json(values.preprocessing, folder),
                weights=inputs.read_npz(folder / WEIGHTS),
                diameter_A=values.diameter_A,
                temperature=values.temperature,
                threshold=values.threshold,
                projects={k: OperatingPoint.from_json(v) for k, v in values.projects.items()},
                options=values.options,
                metrics=read_metrics(folder, _HINT),
                manifest=read_manifest(folder / MANIFEST),
                fingerprint=values.fingerprint,
                versions=values.versions,
                folder=folder.resolve(),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(file, f"cannot be read as a model: {error!r}.", "Was it made by another version?") from error


def preprocessing_from_json(text_or_values: str | dict[str, object], folder: Path | None = None) -> PatchExtractor:
    """Build the preprocessing that `to_json` described; `classic` is the older name of `emunpicker`.

    Parameters
    ----------
    folder
        Of the model, which holds the detector where patches are its features.

    Raises
    ------
    ValueError
        For a kind or a field that this version does not know.
    """
    values = json.loads(text_or_values) if isinstance(text_or_values, str) else dict(text_or_values)
    kind = values.pop("kind", None)
    if kind == TwoChannelPreprocessing.kind:
        return _from_fields(TwoChannelPreprocessing, values)
    if kind in (EmUnpickerPreprocessing.kind, "classic"):
        return _from_fields(EmUnpickerPreprocessing, values)
    if kind == DetectorFeatures.kind and folder is not None:
        return _features_of(folder / DETECTOR, values)
    raise ValueError(f"preprocessing of unknown kind {kind!r}")


def _features_of(folder: Path, values: dict[str, Any]) -> DetectorFeatures:
    backbone = Backbone(Detector.load(folder))
    if values.pop("detector", None) != backbone.fingerprint:
        raise ValueError("features of another detector than the one in its folder")
    centered = values.pop("centered", False)
    features = DetectorFeatures(backbone, values.pop("phase_flip"), values.pop("n_orientations"), centered)
    flags = (features.phase_flip, features.centered)
    if values or features.n_orientations not in (1, 2, 4, 8) or not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(f"features with fields {sorted(values)}")
    return features


def _from_fields(kind: type[PatchExtractor], values: dict[str, Any]) -> PatchExtractor:
    require_fields(kind, values, "preprocessing")
    return kind(**values)


_HINT = "Copy the model again from where it was trained, or train it again."


@dataclass(frozen=True)
class _BundleRecord:
    """The fields of bundle.json; pydantic ignores others."""

    __pydantic_config__ = {"allow_inf_nan": False}  # read by pydantic

    architecture: dict[str, object]
    preprocessing: dict[str, object]
    diameter_A: Annotated[float, Gt(0)]
    temperature: Annotated[float, Gt(0)]
    threshold: Annotated[float, Ge(0), Le(1)]
    options: dict[str, object]
    fingerprint: str
    versions: dict[str, str]
    checksums: dict[str, str]
    projects: dict[str, dict[str, object]] = field(default_factory=dict)


def _description(file: Path) -> _BundleRecord:
    """Read bundle.json and check its seal and its format."""
    raw = inputs.read_bytes(file)
    values = parse_record(file, raw, dict[str, object], _HINT)
    number = values.get("format")
    if number == 1 and "checksum" not in values:
        log.info("%s: written by cryoflow 0.1, without a checksum of its own; train again to have one", file)
    else:
        refuse_newer(file, number, FORMAT)
        values = unsealed(file, raw, FORMAT, _HINT)
    return validated(file, values, _BundleRecord, _HINT)
