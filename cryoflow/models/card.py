"""`card.json`: what a version of a model is, what it learned from, how good it is, and what its files are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le

from cryoflow.errors import BadInput
from cryoflow.storage import inputs
from cryoflow.storage.parsing import validated
from cryoflow.storage.safe_names import inside
from cryoflow.storage.sealing import sealed, unsealed

NAME = "card.json"
FORMAT = 1
HINT = "Restore it from a copy, or remove it: other versions do not need it."
_LARGEST_BYTES = 16 << 20

ModelKind = Literal["detector", "unpicker", "cryolo", "topaz"]
Status = Literal["accepted", "candidate"]
LARGEST_NUMBER = 999_999_999
"""Largest number of a version."""
VersionNumber = Annotated[int, Ge(1), Le(LARGEST_NUMBER)]
_Count = Annotated[int, Ge(0), Le(1 << 60)]


@dataclass(frozen=True)
class TrainedOn:
    """Contribution of one project to a model.

    Attributes
    ----------
    fingerprint
        Of the picks that were learned from: a project with another one has changed since.
    """

    project: str
    entries: tuple[str, ...]
    fingerprint: str
    n_micrographs: _Count
    n_picks: _Count


@dataclass(frozen=True)
class ModelCard:
    """One version of a model.

    Attributes
    ----------
    parent
        Version that the training started from, None for one from scratch or trained jointly on all projects.
    metrics
        Project -> name of the measure -> value, on held-out micrographs.
    status
        `candidate` for one that the gate refused; `reasons` are the gate's.
    files
        Path below the version's `model/` folder -> (bytes, blake2b).
    compared_with
        Version that the gate compared this one with; None where no version was in use, or it is not known.
    """

    kind: ModelKind
    name: str
    version: VersionNumber
    written: str
    cryoflow: str
    parent: VersionNumber | None
    trained_on: tuple[TrainedOn, ...]
    metrics: Mapping[str, Mapping[str, float]]
    status: Status
    reasons: tuple[str, ...] = ()
    files: Mapping[str, tuple[_Count, str]] = field(default_factory=dict)
    compared_with: VersionNumber | None = None

    def text(self) -> str:
        """Return the card as sealed JSON; numbers that are not finite become null."""
        record = asdict(self)
        record["metrics"] = {
            project: {name: value if math.isfinite(value) else None for name, value in values.items()}
            for project, values in self.metrics.items()
        }
        return sealed({"format": FORMAT, **record})


def read_card(path: Path) -> ModelCard:
    """Read and check a card.

    Raises
    ------
    BadInput
        Where it is missing, was changed, lacks a field, names a file outside its version or a parent that is not older,
        or a newer cryoflow wrote it.
    """
    try:
        raw = inputs.read_bytes(path, at_most=_LARGEST_BYTES)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from None
    record = unsealed(path, raw, FORMAT, HINT)
    record.pop("format")
    metrics = record.get("metrics")
    if isinstance(metrics, dict):
        record["metrics"] = {
            project: {name: math.nan if value is None else value for name, value in values.items()}
            if isinstance(values, dict)
            else values
            for project, values in metrics.items()
        }
    card = validated(path, record, ModelCard, "Remove this version, or restore it from a copy.")
    if card.parent is not None and card.parent >= card.version:  # a chain of parents must end
        raise BadInput(path, f"version {card.version} cannot have started from version {card.parent}.", HINT)
    for name in card.files:
        inside(path.parent, name)
    return card
