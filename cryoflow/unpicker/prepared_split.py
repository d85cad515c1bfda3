"""What a training is made of: the prepared micrographs of each part; and where it stands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from cryoflow.errors import BadInput
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.model_manifest import ManifestRow
from cryoflow.unpicker.patch_cache import CachedMicrograph

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Progress:
    """Progress of a long piece of work."""

    stage: Literal["preparing", "training"]
    done: int
    total: int
    note: str = ""


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class PreparedSplit:
    """The prepared micrographs of each part."""

    train: tuple[CachedMicrograph, ...]
    validation: tuple[CachedMicrograph, ...]
    test: tuple[CachedMicrograph, ...]
    failed: tuple[BadInput, ...]

    def manifest(self) -> tuple[ManifestRow, ...]:
        """Return one row a micrograph."""
        parts = (("train", self.train), ("validation", self.validation), ("test", self.test))
        return tuple(ManifestRow.of(part, m) for part, members in parts for m in members)

    def without_leaks(self, start: ModelBundle) -> PreparedSplit:
        """Return the same without test micrographs that an earlier model learned from: they are learned from here,
        too."""
        known = {r.content for r in start.manifest if r.part != "test"}
        leaks = tuple(m for m in self.test if m.content in known)
        if leaks:
            log.warning("%d test micrographs go to training: the earlier model learned from them", len(leaks))
        return replace(self, train=(*self.train, *leaks), test=tuple(m for m in self.test if m.content not in known))
