"""Contents of the micrographs that versions in use of other models have learned from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.learning.exemplars import exemplar_files
from cryoflow.learning.items import read_learned
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import ModelVersion

_NOT_KNOWN = "{}: what it learned from is not known, and may be held out now: {}"


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
                readers = _readers(current) if current else []
            except (BadInput, OSError) as error:
                notes.append(_NOT_KNOWN.format(name, error))
                continue
            for read in readers:  # a damaged file of one project does not hide what is known of the others
                try:
                    found |= read()
                except (BadInput, OSError) as error:
                    notes.append(_NOT_KNOWN.format(name, error))
    return frozenset(found), notes


def _readers(version: ModelVersion) -> list[Callable[[], frozenset[str]]]:
    """Return one reader for each file of a version that lists micrographs."""
    from cryoflow.unpicker.bundle import MANIFEST
    from cryoflow.unpicker.model_manifest import read_manifest

    def exemplars(name: str) -> frozenset[str]:
        return read_learned(version.checked(name))

    def manifest() -> frozenset[str]:
        return frozenset(row.content for row in read_manifest(version.checked(MANIFEST)) if row.part != "test")

    readers = [partial(exemplars, name) for name in exemplar_files(version)]
    return [*readers, manifest] if version.card.kind == "unpicker" and MANIFEST in version.card.files else [*readers]
