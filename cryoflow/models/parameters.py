"""Parameters of the commands of the model registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cryoflow.parameters import Count, DatabaseFolder, Option, ParameterError, Parameters

GENERAL = "general"
"""Name of the model that comes with cryoflow."""


def is_general(reference: str | Path) -> bool:
    """Return whether a reference is the model that comes with cryoflow; a model folder of that name has precedence."""
    return str(reference) == GENERAL and not (Path(GENERAL) / "bundle.json").is_file()


ModelName = Annotated[
    str, Option(positional=True, help="Name of a model; `cryoflow model list` shows them", examples=("unpicker",))
]
VersionName = Annotated[
    str, Option(positional=True, help="A version, NAME@VERSION", examples=("unpicker@v0007", "unpicker@7"))
]


@dataclass(frozen=True, kw_only=True)
class RegistryParameters(Parameters):
    """Folder of the models."""

    models: Annotated[Path | None, Option(examples=("/data/models",))] = None
    """Folder of the models; by default `models` beside the database."""
    database: DatabaseFolder | None = None

    @property
    def root(self) -> Path:
        """Return the registry's folder."""
        if self.models is not None:
            return self.models
        if self.database is not None:
            return self.database.absolute().parent / "models"
        raise ParameterError("Give {models}, or {database}: its models lie beside it.")


@dataclass(frozen=True, kw_only=True)
class ModelParameters(RegistryParameters):
    """One model."""

    name: ModelName


@dataclass(frozen=True, kw_only=True)
class VersionParameters(RegistryParameters):
    """One version of a model."""

    version: VersionName


@dataclass(frozen=True, kw_only=True)
class CompareParameters(RegistryParameters):
    """Two versions of a model."""

    version: VersionName
    other: VersionName


@dataclass(frozen=True, kw_only=True)
class AddParameters(RegistryParameters):
    """A trained model to put under version control."""

    name: ModelName
    model: Annotated[Path, Option(positional=True, examples=("models/unpicker",))]
    """Folder or file that a training left."""
    kind: Literal["detector", "unpicker", "cryolo", "topaz"] = "unpicker"
    """What the model belongs to."""
    promote: bool = False
    """Put it into use."""


@dataclass(frozen=True, kw_only=True)
class PromoteParameters(VersionParameters):
    """A version to put into use."""

    reason: str = "promoted by hand"
    """Why; the history keeps it."""


@dataclass(frozen=True, kw_only=True)
class PruneParameters(ModelParameters):
    """Versions to keep."""

    keep: Count = 5
    """The newest so many versions stay, and the one in use, the one before it, and those that these started from."""
