"""What stands in the folder that an export is to be written to: this very export, another one, or something else."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, NotWritten
from cryoflow.pickers.base import Picker
from cryoflow.pickers.running.preflight import first_of, problems_of
from cryoflow.pickers.training_sets import contents, manifest
from cryoflow.pickers.training_sets.derived_settings import Setting
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.storage.fingerprints import Fingerprint


def fingerprint_of_export(target: Picker, training: TrainingSet, by_hand: Mapping[str, object], what: str) -> str:
    """Return a short hash of everything that decides what is written."""
    found = Fingerprint(24).add(repr((target.name, what, sorted((k, str(v)) for k, v in by_hand.items()))))
    found.add(manifest.manifest_text(training.micrographs, ""))
    for table in (training.picks, training.not_positive):
        for column in table.columns:
            found.add(column, np.ascontiguousarray(table[column].to_numpy()).data)
    return found.digits


@dataclass(frozen=True)
class ExistingExport:
    """This very export, in the folder to write to."""

    settings: tuple[Setting, ...]
    damaged: bool
    which: tuple[int, int] | None = None
    """What `which_folder` returned for the folder that was checked."""


def existing_export(target: Picker, output: Path, made_with: str, *, overwrite: bool) -> ExistingExport | None:
    """Return this very export if the folder contains it; None if the folder is to be written whole.

    If another run replaces the folder meanwhile, the check has seen files of two exports: it is repeated.
    """
    for _ in range(9):
        before = which_folder(output)
        try:
            there = _found_or_refused(target, output, made_with, overwrite=overwrite)
            if there is None or not there.damaged or which_folder(output) == before:
                return there and replace(there, which=before)
        except (BadInput, OSError):
            if which_folder(output) == before:
                raise
            time.sleep(0.1)
    raise NotWritten(output, "is being written by other runs.", "Run the same again when they have ended.")


def which_folder(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of a folder, which differ for a folder that was put in its place."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _found_or_refused(target: Picker, output: Path, made_with: str, *, overwrite: bool) -> ExistingExport | None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    record = contents.read_contents(output)
    if record is None and not manifest.is_manifest(output / manifest.NAME):
        raise BadInput(output, "is there already, and cryoflow did not write it.", "Choose another --output.")
    if (record.made_with if record else manifest.made_with(output)) == made_with:
        # Without a record, of an older export or a deleted one, every file is compared with a fresh copy.
        if record is None or record.changes(output):
            return ExistingExport((), damaged=True)
        if not (found := problems_of(target, output)):
            return ExistingExport(settings_of_export(output), damaged=False)
        if not overwrite:
            raise BadInput(
                output,
                f"holds this very export, and other files that spoil it: {first_of(found)}.",
                "Remove them, or add --overwrite to write it anew; that removes trained models in it, too.",
            )
        return None
    if not overwrite:
        raise BadInput(
            output,
            "holds another export already.",
            "Choose another --output, or add --overwrite; that removes it, trained models included.",
        )
    return None


def settings_of_export(folder: Path) -> tuple[Setting, ...]:
    """Return the settings of an export, from its settings.tsv."""
    return tuple(Setting(str(r[0]), str(r[1]), str(r[2])) for r in manifest.settings_table(folder).to_numpy())
