"""A picker's folder as the executor sees it."""

from __future__ import annotations

from pathlib import Path

from cryoflow.execution.containers import real_paths
from cryoflow.execution.executor import WorkFolder
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.links import folders_to_bind


def work_folder(folder: Path) -> WorkFolder:
    """Return the work folder of an exported set: its manifest marks it, its links and settings point elsewhere."""
    linked = [str(f) for f in folders_to_bind(folder) if not f.is_relative_to(folder)]
    has_settings = (folder / manifest.SETTINGS).exists()
    settings = manifest.read_settings(folder).values() if has_settings else ()  # a model that lies elsewhere
    return WorkFolder(folder, manifest.NAME, (*linked, *real_paths(settings, folder)))
