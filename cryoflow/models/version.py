"""A version of a model in the registry, and the files that it consists of."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.models.card import ModelCard, VersionNumber
from cryoflow.storage import inputs
from cryoflow.storage.fingerprints import checksum

HINT = "Restore it from a copy, or put another version into use: `cryoflow model promote`."
MODEL = "model"
"""Folder of the model itself in that of its version."""


@dataclass(frozen=True)
class ModelVersion:
    """One version that the registry holds."""

    name: str
    number: int
    folder: Path
    card: ModelCard

    @property
    def label(self) -> str:
        """Return the name of the version in commands.

        >>> from pathlib import Path
        >>> ModelVersion("unpicker", 7, Path("v0007"), None).label  # type: ignore[arg-type]
        'unpicker@v0007'
        """
        return f"{self.name}@{version_name(self.number)}"

    @property
    def model(self) -> Path:
        """Return the folder of the model itself."""
        return self.folder / MODEL

    def problems(self) -> list[str]:
        """Return what differs from the card: files that are missing, changed or not listed."""
        found = []
        there = {str(p.relative_to(self.model)) for p in self.model.rglob("*") if p.is_file()}
        for name in self.card.files:
            if problem := self._problem(name):
                found.append(f"{name} {problem}")
        return found + [f"{name} is not of this version" for name in sorted(there - set(self.card.files))]

    def checked(self, name: str) -> Path:
        """Return the path of a file of the model, after its size and checksum were compared with the card.

        Raises
        ------
        BadInput
            Where the file is missing, was changed, or is not of this version.
        """
        problem = self._problem(name) if name in self.card.files else "is not of this version"
        if problem:
            raise BadInput(self.model / name, f"{problem}: {self.label} cannot be used as it is.", HINT)
        return self.model / name

    def _problem(self, name: str) -> str:
        """Return how a file that the card lists differs from it, or ""."""
        path, (size, digest) = self.model / name, self.card.files[name]
        try:
            if not path.is_file():
                return "is missing"
            return "was changed" if path.stat().st_size != size or checksum(path) != digest else ""
        except OSError as error:
            return f"cannot be read ({error.strerror or error})"


@dataclass(frozen=True)
class Switch:
    """One change of the version in use."""

    version: VersionNumber
    when: str
    reason: str


def version_name(number: int) -> str:
    """Return the folder name of a version.

    >>> version_name(7)
    'v0007'
    """
    return f"v{number:04d}"


def copy_model(model: Path, to: Path) -> None:
    """Copy regular files only: a link could lead to anything."""
    if model.is_file():
        to.mkdir(parents=True)
        copy_file(model, to / model.name)
        return
    to.mkdir(parents=True)
    for path in sorted(model.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise BadInput(path, "is not a regular file: a model consists of regular files.")
        target = to / path.relative_to(model)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            copy_file(path, target)


def copy_file(model: Path, to: Path) -> None:
    """Copy a regular file to a name that is not taken."""
    with inputs.opened(model) as old, to.open("xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def link_files(carried: tuple[ModelVersion, tuple[str, ...]], to: Path) -> dict[str, tuple[int, str]]:
    """Link files of an earlier version, and return their sums from its card."""
    version, names = carried
    for name in names:
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (version.model / name).is_symlink():
            raise BadInput(version.model / name, "is a link, not a file of this version.", "Restore it from a copy.")
        try:
            os.link(version.model / name, target)
        except OSError:  # another file system, or one without hard links
            copy_file(version.model / name, target)
    return {name: version.card.files[name] for name in names}


def sums_of(folder: Path, known: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Return size and checksum of each file; known ones are not read again."""
    names = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
    return {name: known.get(name) or (p.stat().st_size, checksum(p)) for name, p in names.items()}
