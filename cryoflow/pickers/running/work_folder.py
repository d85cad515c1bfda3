"""A picker's work folder: what the executor mounts of it, and its micrographs through scratch while a program runs.

A record of where the links led is written first, so that a run that was killed is mended by the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.execution.containers import real_paths
from cryoflow.execution.executor import WorkFolder
from cryoflow.micrographs.scratch import folder as scratch_folder
from cryoflow.micrographs.scratch import local_copies
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.links import folders_to_bind, links
from cryoflow.storage.files import link, remove, write_atomically
from cryoflow.storage.parsing import read_record
from cryoflow.storage.safe_names import inside


def work_folder(folder: Path) -> WorkFolder:
    """Return the work folder of an exported set: its manifest marks it, its links and settings point elsewhere."""
    linked = [str(f) for f in folders_to_bind(folder) if not f.is_relative_to(folder)]
    has_settings = (folder / manifest.SETTINGS).exists()
    settings = manifest.read_settings(folder).values() if has_settings else ()  # a model that lies elsewhere
    return WorkFolder(folder, manifest.NAME, (*linked, *real_paths(settings, folder)))


RECORD = "links-before-scratch.json"


@contextmanager
def through_scratch(home: Path) -> Iterator[int]:
    """Read a folder's linked micrographs from scratch, as many as have room; gives how many. Without scratch, none."""
    if scratch_folder() is None:
        yield 0
        return
    targets = {Path(name): Path(os.path.realpath(name)) for name in links(home)}
    led = {path.relative_to(home): str(path.readlink()) for path, target in targets.items() if target.is_file()}
    write_atomically(home / RECORD, json.dumps({str(path): old for path, old in led.items()}) + "\n")
    try:
        with local_copies([targets[home / path] for path in led]) as copies:
            for path in led:
                if copy := copies.get(targets[home / path]):
                    link(home / path, copy, root=home)
            yield len(copies)
    finally:
        mend(home)


def mend(home: Path) -> None:
    """Point links back to where they led before, after a run that was killed.

    Raises
    ------
    BadInput
        Where the record is damaged.
    """
    record = home / RECORD
    if not record.exists():
        return
    try:
        led = {inside(home, path): old for path, old in read_record(record, dict[str, str]).items()}
    except BadInput as error:
        hint = "Remove its folder, and pick again."
        raise BadInput(record, f"is no record of links ({error.reason})", hint) from None
    for path, old in led.items():
        if path.is_symlink() and str(path.readlink()) != old:
            link(path, old, root=home)
    remove(record)
