"""The version in use that an update starts from: its model, its files and what it learned from."""

from __future__ import annotations

from pathlib import Path

from cryoflow.learning.exemplars import exemplar_files
from cryoflow.learning.items import read_learned
from cryoflow.learning.learner import Learner
from cryoflow.models.registry import ModelRegistry


class VersionInUse:
    """The version of a model in use, where there is one.

    Attributes
    ----------
    version
        None before the first.
    model
        The model that an update starts from: the learner's base model before the first version; None without any.
    trained_on
        What the version learned from, by project.
    """

    def __init__(self, registry: ModelRegistry, name: str, learner: Learner) -> None:
        self.version = registry.current(name)
        self.model = self.version.model if self.version else learner.base()
        self.trained_on = {t.project: t for t in self.version.card.trained_on} if self.version else {}
        self._learner = learner
        self._checked: dict[str, Path] = {}

    @property
    def number(self) -> int | None:
        """Return the number of the version."""
        return self.version.number if self.version else None

    @property
    def label(self) -> str:
        """Return `NAME@v0007`, or "" before the first version."""
        return self.version.label if self.version else ""

    def file(self, name: str) -> Path | None:
        """Return a file of the version, compared with its card once; None where the card does not list it.

        Raises
        ------
        BadInput
            Where the file was changed.
        """
        if self.version is None or name not in self.version.card.files:
            return None
        if name not in self._checked:
            self._checked[name] = self.version.checked(name)
        return self._checked[name]

    def exemplars(self) -> list[Path]:
        """Return its files of exemplars; raises BadInput where one was changed."""
        names = exemplar_files(self.version) if self.version else []
        return [file for name in names if (file := self.file(name))]

    def learned(self) -> frozenset[str]:
        """Return the contents of all micrographs that it learned from."""
        if self.version is None:
            return frozenset()
        # A model that was trained by hand and then added to the registry has no exemplars.
        return self._learner.learned_by(self.version.model).union(*(read_learned(f) for f in self.exemplars()))
