"""`picked.json`: what a folder of picks was made from, so that the same command does not run the program again.

The record is written when the program has ended well. It is sealed, and names the files in `picks/` with their
fingerprints: picks that were changed or removed since are made again.
"""

from __future__ import annotations

from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor
from cryoflow.pickers.training_sets import contents, manifest
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.storage.fingerprints import checksum, fingerprint_of
from cryoflow.storage.sealing import sealed, unsealed

NAME = "picked.json"
PICKS = "picks"
_FORMAT = 1
_LARGEST_BYTES = 1 << 28


def source_of(folder: Path, model: Path, executor: Executor) -> str:
    """Return the fingerprint of all that picks follow from: micrographs, settings, the model, and the program."""
    parts: list[object] = [model.name, checksum(model) if model.is_file() else ""]
    parts += [executor.container, executor.image, executor.programs or ""]
    for name in (contents.NAME, manifest.NAME, manifest.SETTINGS):
        parts.append(checksum(folder / name) if (folder / name).is_file() else "")
    return fingerprint_of("\0".join(map(str, parts)))


def is_picked(folder: Path, source: str) -> bool:
    """Return whether `picks/` holds what a run with the same `source` wrote, unchanged."""
    path = folder / NAME
    try:
        with inputs.opened(path) as file:
            record = unsealed(path, file.read(_LARGEST_BYTES), _FORMAT)
    except (BadInput, OSError):
        return False  # there is none, or it is damaged: the program runs again
    return record.get("source") == source and record.get("files") == _files(folder)


def record_picked(folder: Path, source: str) -> None:
    """Write the record of a program that has ended well."""
    write_atomically(folder / NAME, sealed({"format": _FORMAT, "source": source, "files": _files(folder)}))


def _files(folder: Path) -> dict[str, str]:
    paths = sorted(p for p in (folder / PICKS).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): checksum(p) for p in paths}
