"""Find the model that a command or a flow was given: a folder, `NAME` (the version in use) or `NAME@v0007`.

Names are those of the registry `models` beside the database, or in the current folder where no database is given.
`/data/models/unpicker` and `/data/models/unpicker@v0007` name models of the registry `/data/models`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from cryoflow.models.card import NAME as CARD
from cryoflow.models.parameters import is_general
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import MODEL
from cryoflow.parameters import Parameters

REGISTRY = "models"
"""Name of the registry's folder beside a database."""

P = TypeVar("P", bound=Parameters)


def registry_beside(database: Path) -> Path:
    """Return the folder of the models that belong to a database."""
    return Path(database).absolute().parent / REGISTRY


def find_model(reference: str | Path, *, database: Path | None = None) -> Path:
    """Return the folder of a model.

    Parameters
    ----------
    reference
        A folder of a model, `NAME` or `NAME@v0007`; `general` is returned as it is.

    Raises
    ------
    BadInput
        Where it is none of these; the message lists the models of the registry.
    """
    place = Path(reference)
    if is_general(reference):
        return place
    beside = place.name != str(reference) or place.is_dir()
    root = place.absolute().parent if beside else registry_beside(database) if database is not None else Path(REGISTRY)
    registry = ModelRegistry(root)
    name, has_version, _ = place.name.partition("@")
    if not registry.holds(name) and (beside or not has_version):
        return place  # a folder, or nothing: what reads the model has the clearer message
    return registry.find(place.name).model


def with_model(parameters: P, field: str = "model") -> P:
    """Return parameters whose model is a folder.

    A work folder that was not given is put beside the versions: a version never changes.
    """
    given = getattr(parameters, field)
    if given is None:
        return parameters
    folder = find_model(given, database=getattr(parameters, "database", None))
    changes: dict[str, Any] = {field: folder if isinstance(given, Path) else str(folder)}
    if getattr(parameters, "work", "") is None and is_version(folder):
        changes["work"] = folder.parent.parent / "work"
    return dataclasses.replace(parameters, **changes)  # type: ignore[type-var]


def is_version(model: Path) -> bool:
    """Return whether a folder is the model of a registry's version."""
    return model.name == MODEL and (model.parent / CARD).is_file()
