"""Exemplars of a version: one file for each project, which also lists all micrographs that were learned from."""

from __future__ import annotations

from cryoflow.models.version import ModelVersion
from cryoflow.storage.safe_names import safe_name

EXEMPLARS = "exemplars"
"""Folder of a version's model that holds its exemplars."""


def exemplar_file(project: str) -> str:
    """Return the name of a project's exemplars below the folder of a model."""
    return f"{EXEMPLARS}/{safe_name(project)}.npz"


def exemplar_files(version: ModelVersion) -> list[str]:
    """Return the names of the files of exemplars that the card of a version lists, sorted.

    Other files of the folder are not of this version: nothing is learned from them.
    """
    return sorted(n for n in version.card.files if n.startswith(f"{EXEMPLARS}/") and n.endswith(".npz"))
