"""Export: a training set for one picker, complete or absent, with its manifest and its settings."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryoflow.errors import NotWritten
from cryoflow.pickers.base import Picker
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets import contents, export_shards, manifest
from cryoflow.pickers.training_sets.build import build_training_set
from cryoflow.pickers.training_sets.contents import Change
from cryoflow.pickers.training_sets.derived_settings import DerivedSettings, Setting
from cryoflow.pickers.training_sets.existing_export import (
    ExistingExport,
    existing_export,
    fingerprint_of_export,
    which_folder,
)
from cryoflow.pickers.training_sets.links import LINK_AS, why_convert
from cryoflow.pickers.training_sets.orientations import check_orientations
from cryoflow.pickers.training_sets.readme import write_readme
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.pickers.training_sets.training_set import Skipped, TrainingSet, splits_of
from cryoflow.picks import PickSet
from cryoflow.shards import Shard
from cryoflow.storage.folders import mend, replacing_folder
from cryoflow.storage.stale_files import hidden_sibling
from cryoflow.storage.tab_separated import table_text
from cryoflow.storage.write_errors import clear_errors

log = logging.getLogger(__name__)

MICROGRAPHS = "micrographs"
"""Setting of all pickers that get the micrographs: how they get them, one of `LINK_AS`."""


@dataclass(frozen=True)
class ExportResult:
    """Result of an export.

    Attributes
    ----------
    folder
        The picker's folder.
    manifest
        Its `manifest.tsv`.
    n_micrographs, n_picks
        Exported; `splits` says how many micrographs of a training set are in which split.
    settings
        All settings, each with its reason.
    next_commands
        What to type next.
    skipped
        Micrographs that were left out, and why.
    notes
        What a user should know.
    reused
        The folder contained this export already; trained models in it are kept.
    restored
        Files of a reused export that had been deleted or changed, and were written again.
    """

    folder: Path
    manifest: Path
    n_micrographs: int
    n_picks: int
    splits: Mapping[str, int]
    settings: tuple[Setting, ...]
    next_commands: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    reused: bool = False
    restored: tuple[Change, ...] = ()


def export(
    picker_name: str | Picker,
    picksets: Sequence[PickSet],
    output: Path,
    *,
    diameter_A: float | None = None,
    box_px: int | None = None,
    split: Fractions = Fractions(),  # noqa: B008
    seed: int = 0,
    negatives: bool = True,
    force: bool = False,
    overwrite: bool = False,
    settings: Mapping[str, object] | None = None,
) -> ExportResult:
    """Write the picks of some entries as a picker wants them.

    Parameters
    ----------
    picker_name
        A name of `cryoflow.pickers.registry.pickers()`, or a picker that is not installed.
    picksets
        The entries, whose micrographs' `path` is where their files are.
    output
        Folder to write. One that exists is replaced only with `overwrite`, and only if cryoflow wrote it. One with this
        very export is checked: files that were deleted or changed are written again, all others stay.
    diameter_A, box_px
        See `build_training_set`.
    split, seed
        Which micrographs validate and test: the same for every picker.
    negatives
        Keep micrographs without picks as examples of no particles.
    force
        Export even where the pixels say that the picks are flipped, or do not confirm picks on another program's
        micrographs.
    settings
        Settings of the picker by hand, instead of those derived.

    Raises
    ------
    BadInput, MissingMetadata
        Where the entries cannot be exported: see `build_training_set` and the picker.
    """
    target = picker(picker_name)
    training = build_training_set(
        picksets,
        diameter_A=diameter_A,
        box_px=box_px,
        fractions=split,
        seed=seed,
        negatives=negatives,
        link=target.links_micrographs,
    )
    notes = [*training.notes]
    if target.links_micrographs:
        notes += check_orientations(training, force=force)
    return write_set(
        target, training, Path(output).absolute(), settings or {}, _what(split, seed), notes, overwrite=overwrite
    )


def cut_export(
    picker_name: str,
    picksets: Sequence[PickSet],
    output: Path,
    n_micrographs: int,
    *,
    diameter_A: float | None = None,
    box_px: int | None = None,
    split: Fractions = Fractions(),  # noqa: B008
    seed: int = 0,
    force: bool = False,
    settings: Mapping[str, object] | None = None,
) -> tuple[Shard, ...]:
    """Cut an export into shards of so many micrographs, for `export_shards.write_shard`; `export` then gathers them.

    There are none where one shard is enough, where the picker gets tables only, and where this export is there already.

    Raises
    ------
    BadInput, MissingMetadata
        As `export`, except errors that only the pixels of all micrographs reveal.
    """
    target, output = picker(picker_name), Path(output).absolute()
    if not target.writes_micrographs:
        return ()
    training = build_training_set(
        picksets, diameter_A=diameter_A, box_px=box_px, fractions=split, seed=seed, link=target.links_micrographs
    )
    if target.links_micrographs:
        check_orientations(training, force=force)
    derived = _settings(target, settings or {})
    made_with = _prepare(target, training, settings or {}, _what(split, seed))
    if (there := existing_export(target, output, made_with, overwrite=False)) is not None and not there.damaged:
        return ()
    _derive(target, training, derived)
    return export_shards.cut(target, training, output, derived.values, n_micrographs)


def write_set(
    target: Picker,
    training: TrainingSet,
    output: Path,
    by_hand: Mapping[str, object],
    what: str,
    notes: Sequence[str] = (),
    *,
    for_picking: bool = False,
    as_trained: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Write a set into a folder of its own, with manifest and settings; the shared end of exporting and of picking."""
    derived = _settings(target, by_hand, as_trained)
    made_with = _prepare(target, training, {**(as_trained or {}), **by_hand}, what)
    with clear_errors(output):
        mend(output)  # what an export that was killed between its two renames left
    there = existing_export(target, output, made_with, overwrite=overwrite)
    restored: tuple[Change, ...] = ()
    if there is None or there.damaged:
        if not for_picking:
            _derive(target, training, derived)
        with replacing_folder(output) if there is None else _beside(output) as folder:
            _write(target, training, output, folder, derived, made_with, for_picking=for_picking)
            if there is not None:
                restored = _restored(folder, output, there)
    export_shards.remove_shards(output)
    for skipped in training.skipped:
        log.warning("%s: %s %s", skipped.entry, skipped.micrograph, skipped.reason)
    if restored:
        named = ", ".join(map(str, restored[:3])) + (", ..." if len(restored) > 3 else "")
        notes = [*notes, f"Deleted or changed files are written again ({len(restored)}): {named}."]
    return ExportResult(
        folder=output,
        manifest=output / manifest.NAME,
        n_micrographs=len(training.micrographs),
        n_picks=len(training.picks),
        splits=splits_of(training) if target.links_micrographs else {},  # what goes to RELION is no training set
        settings=derived.derived if there is None or there.damaged else there.settings,
        next_commands=() if for_picking else target.next_commands(output),
        skipped=training.skipped,
        notes=tuple(notes),
        reused=there is not None,
        restored=restored,
    )


def _restored(folder: Path, output: Path, there: ExistingExport) -> tuple[Change, ...]:
    """Restore an export from a fresh copy, unless another run has put its own export there since the check."""
    replaced = NotWritten(output, "was replaced by another run meanwhile.", "Run the same again.")
    if which_folder(output) != there.which:
        raise replaced
    try:
        return tuple(contents.restore(folder, output))
    except FileNotFoundError:
        raise replaced from None


def _write(
    target: Picker,
    training: TrainingSet,
    output: Path,
    folder: Path,
    derived: DerivedSettings,
    made_with: str,
    *,
    for_picking: bool,
) -> None:
    """Write all files of a set into a folder that is not yet `output`."""
    if for_picking:
        _derive_links(target, training, derived)
        target.prepare_picking(training, folder, output, derived)
        derived.refuse_unknown(target.name)
    else:
        export_shards.write_all(target, training, output, folder, derived.values)
        target.write_tables(training, folder, output, derived.values)
    write_readme(target, folder, derived.values, for_picking=for_picking)
    (folder / manifest.SETTINGS).write_text(table_text(derived.table()))
    (folder / manifest.NAME).write_text(manifest.manifest_text(training.micrographs, made_with))
    used = training.micrographs["path"].dropna().tolist() if target.links_micrographs else []
    contents.write_contents(folder, made_with, used)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside `output`, which is removed at the end."""
    hidden = hidden_sibling(output)
    with clear_errors(output):
        hidden.mkdir()
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _what(split: Fractions, seed: int) -> str:
    return f"seed {seed}, validation {split.validation:g}, test {split.test:g}"


def _prepare(target: Picker, training: TrainingSet, by_hand: Mapping[str, object], what: str) -> str:
    """Add the columns that every picker finds; what the set is made with, as its manifest says."""
    training.micrographs["scale"] = 1.0
    if target.links_micrographs:
        training.micrographs["convert"] = [why_convert(header, target.needs) for header in training.headers]
    return f"picker {target.name}, {what}, fingerprint {fingerprint_of_export(target, training, by_hand, what)}"


def _settings(
    target: Picker, by_hand: Mapping[str, object], as_trained: Mapping[str, str] | None = None
) -> DerivedSettings:
    return DerivedSettings(by_hand, as_trained, {**target.choices, MICROGRAPHS: LINK_AS})


def _derive(target: Picker, training: TrainingSet, derived: DerivedSettings) -> None:
    _derive_links(target, training, derived)
    target.derive(training, derived)
    derived.refuse_unknown(target.name)


def _derive_links(target: Picker, training: TrainingSet, derived: DerivedSettings) -> None:
    """Derive whether the picker gets links to the micrographs or files of its own."""
    if target.links_micrographs and target.makes_links:
        why = "links to your files; copy or reflink give a program that edits pictures its own"
        training.micrographs["link_as"] = derived.derive(MICROGRAPHS, "link", why)
