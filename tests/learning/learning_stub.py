"""A learner without a network: what it finds of a project is a number in a file. It shows what the driver does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput
from cryoflow.learning.item_rules import ItemRule, LabelRule
from cryoflow.learning.items import Item, Piece, piece_of
from cryoflow.learning.learner import LabelFit, Say, Source
from cryoflow.models.card import ModelKind
from cryoflow.models.gate import MicrographCounts

SKILLS = "skills.json"
RULE = ItemRule(pixels_ndim=3, labels={"label": LabelRule("i", values=(1, 2, 3))})


@dataclass
class StubProject:
    """A project of a stub: files whose bytes are its micrographs, and how good its labels are."""

    name: str
    folder: Path
    names: Sequence[str] = tuple(f"{i}.mrc" for i in range(12))
    version: int = 1
    diameter_A: float = 160.0
    skill: float = 0.9
    """F1 after learning from it."""
    fits: bool = True

    def write(self, of: str = "") -> StubProject:
        """Write the micrographs; those `of` another project of the same number are copies of that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for i, name in enumerate(self.names):
            (self.folder / name).write_bytes(f"{of or self.name} {i}".encode() * 50)
        return self


@dataclass
class StubLearner:
    """Knows as much of a project as `skill` says once it learned from it; forgets `forgets` of the others."""

    projects: list[StubProject]
    forgets: float = 0.0
    kind: ModelKind = "detector"
    rule: ItemRule = RULE
    recipe: str = "stub"
    measure: str = ""
    start: Path | None = None
    learned: list[str] = field(default_factory=list)
    """Contents of the micrographs that it was given to learn from."""
    by_hand: frozenset[str] = frozenset()
    """What the version in use learned from before it was added to the registry."""
    trainings: list[bool] = field(default_factory=list)
    """Whether each training was joint."""

    def base(self) -> Path | None:
        return self.start

    def learned_by(self, model: Path) -> frozenset[str]:
        return self.by_hand if model else frozenset()

    def sources(self) -> tuple[list[Source], list[str]]:
        return [
            Source(p.name, (f"{p.name}/Refine3D_job1",), f"{p.version}", p.diameter_A, 100, self._paths(p))
            for p in self.projects
        ], []

    @staticmethod
    def _paths(p: StubProject) -> dict[str, Path]:
        return {name: p.folder / name for name in p.names}

    def prepare(
        self, source: Source, wanted: Mapping[str, str], folder: Path, *, held_out: bool = False
    ) -> tuple[list[Item], list[BadInput]]:
        folder.mkdir(parents=True, exist_ok=True)
        label = next(p.version for p in self.projects if p.name == source.project)
        items = []
        for content in sorted(wanted.values()):
            file = folder / f"{content}.npy"
            np.save(file, np.zeros((2, 2, 1), np.float16))
            labels = {"label": np.full(1, label, np.int8)}
            items.append(Item(source.project, content, file, labels, 1e4, source.diameter_A))
        return items, []

    def exemplars(self, items: Sequence[Item]) -> list[Piece]:
        return [piece_of(i) for i in items[:4]]

    def train(
        self, start: Path | None, new: Sequence[Item], kept: Sequence[Item], work: Path, *, joint: bool, say: Say
    ) -> Path:
        model = work / "model"
        self.learned += [i.content for i in (*new, *kept)]
        self.trainings.append(joint)
        before = _skills(start)
        skills = {p: s - (0 if joint else self.forgets) for p, s in before.items()}
        good = {p.name: p.skill for p in self.projects}
        skills |= {i.project: good[i.project] for i in new}
        if joint:
            skills |= {i.project: good.get(i.project, 0.9) for i in kept}
        model.mkdir(parents=True, exist_ok=True)
        (model / SKILLS).write_text(json.dumps(skills))
        return model

    def count(self, model: Path, items: Sequence[Item]) -> list[MicrographCounts]:
        skills = _skills(model)
        found = {i.project: round(100 * skills.get(i.project, 0.4)) for i in items}
        return [MicrographCounts(i.project, i.content, 100, 100, found[i.project]) for i in items]

    def fit_of(self, model: Path, items: Sequence[Item]) -> LabelFit:
        fits = {p.name: p.fits for p in self.projects}
        found = sum(c.n_matched for c in self.count(model, items))
        return LabelFit(found, 0) if fits[items[0].project] else LabelFit(10, 10)


def _skills(model: Path | None) -> dict[str, float]:
    skills: dict[str, float] = json.loads((model / SKILLS).read_text()) if model else {}
    return skills
