"""Contents of the micrographs that versions in use of other models have learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.learning.items import read_learned
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import ModelVersion

FOLDER = "exemplars"
"""Folder of a version that holds its exemplars, and lists what it learned from."""


def learned_elsewhere(roots: Sequence[Path], own: Path) -> tuple[frozenset[str], list[str]]:
    """Return what the versions in use below some folders of models learned from, and notes on unreadable ones.

    Parameters
    ----------
    own
        Folder of the model that is left out.
    """
    found: set[str] = set()
    notes = []
    for root in dict.fromkeys(Path(r).absolute() for r in roots):
        registry = ModelRegistry(root)
        for name in registry.names():
            if root / name == own.absolute():
                continue
            try:
                current = registry.current(name)
                found |= _learned_by(current) if current else frozenset()
            except (BadInput, OSError) as error:
                notes.append(f"{name}: what it learned from is not known, and may be held out now: {error}")
    return frozenset(found), notes


def _learned_by(version: ModelVersion) -> frozenset[str]:
    from cryoflow.unpicker.bundle import MANIFEST
    from cryoflow.unpicker.model_manifest import read_manifest

    files = sorted((version.model / FOLDER).glob("*.npz"))
    learned = frozenset().union(*(read_learned(f) for f in files))
    manifest = version.model / MANIFEST
    if version.card.kind != "unpicker" or not manifest.is_file():
        return learned
    return learned.union(row.content for row in read_manifest(manifest) if row.part != "test")
