"""Export: a training set for one picker, complete or absent, with its manifest and its settings."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, NotWritten
from cryoflow.pickers.base import Picker
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.preflight import problems_of, said
from cryoflow.pickers.training_sets import export_shards, manifest
from cryoflow.pickers.training_sets.derived_settings import Setting, Settings
from cryoflow.pickers.training_sets.export_shards import Part
from cryoflow.pickers.training_sets.links import read_any, why_convert
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.pickers.training_sets.training_set import Skipped, TrainingSet, build_training_set, splits_of
from cryoflow.picks import PickSet
from cryoflow.storage.files import clear_errors, mend, replacing_folder
from cryoflow.storage.fingerprints import Fingerprint

log = logging.getLogger(__name__)

MICROGRAPHS_CHECKED = 4


@dataclass(frozen=True)
class ExportResult:
    """What was written.

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
        The folder was there already with the same content, and was left as it is.
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


def export(
    picker_name: str,
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
        A name of `cryoflow.pickers.base.pickers()`.
    picksets
        The entries, whose micrographs' `path` is where their files are.
    output
        Folder to write. One that is there already is replaced only with `overwrite`, and only if cryoflow wrote it;
        one with the same content is left as it is, trained models and all.
    diameter_A, box_px
        See `build_training_set`.
    split, seed
        Which micrographs validate and test: the same for every picker.
    negatives
        Keep micrographs without picks as examples of no particles.
    force
        Export even where the pixels say that the picks are flipped.
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
    settings: Mapping[str, object] | None = None,
) -> tuple[Part, ...]:
    """Cut an export into parts of so many micrographs, for `export_shards.write_part`; `export` then gathers them.

    There are none where one part is enough, where the picker gets tables only, and where this export is there already.

    Raises
    ------
    BadInput, MissingMetadata
        As `export`, but for what only the pixels of all micrographs tell.
    """
    target, output = picker(picker_name), Path(output).absolute()
    if not target.writes_micrographs:
        return ()
    training = build_training_set(
        picksets, diameter_A=diameter_A, box_px=box_px, fractions=split, seed=seed, link=target.links_micrographs
    )
    if target.links_micrographs:
        check_orientations(training, force=False)
    derived = Settings(settings)
    made_with = _prepare(target, training, settings or {}, _what(split, seed))
    if _same_that_is_there(target, output, made_with, overwrite=False) is not None:
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
    derived = Settings(by_hand, as_trained)
    made_with = _prepare(target, training, {**(as_trained or {}), **by_hand}, what)
    with clear_errors(output):
        mend(output)  # what an export that was killed between its two renames left
    there = _same_that_is_there(target, output, made_with, overwrite=overwrite)
    if there is None:
        if not for_picking:
            _derive(target, training, derived)
        with replacing_folder(output) as folder:
            if for_picking:
                target.prepare_picking(training, folder, output, derived)
                derived.refuse_unknown(target.name)
            else:
                export_shards.write_all(target, training, output, folder, derived.values)
                target.write_tables(training, folder, output, derived.values)
            (folder / manifest.SETTINGS).write_text(
                derived.table().to_csv(sep="\t", index=False, lineterminator="\n", quoting=3, escapechar="\\")
            )
            (folder / manifest.NAME).write_text(manifest.manifest_text(training.micrographs, made_with))
    export_shards.remove_parts(output)
    for skipped in training.skipped:
        log.warning("%s: %s %s", skipped.entry, skipped.micrograph, skipped.reason)
    return ExportResult(
        folder=output,
        manifest=output / manifest.NAME,
        n_micrographs=len(training.micrographs),
        n_picks=len(training.picks),
        splits=splits_of(training) if target.links_micrographs else {},  # what goes to RELION is no training set
        settings=derived.derived if there is None else there,
        next_commands=() if for_picking else target.next_commands(output),
        skipped=training.skipped,
        notes=tuple(notes),
        reused=there is not None,
    )


def _what(split: Fractions, seed: int) -> str:
    return f"seed {seed}, validation {split.validation:g}, test {split.test:g}"


def _prepare(target: Picker, training: TrainingSet, by_hand: Mapping[str, object], what: str) -> str:
    """Add the columns that every picker finds; what the set is made with, as its manifest says."""
    training.micrographs["scale"] = 1.0
    if target.links_micrographs:
        training.micrographs["convert"] = [why_convert(header, target.needs) for header in training.headers]
    return f"picker {target.name}, {what}, fingerprint {_fingerprint(target, training, by_hand, what)}"


def _derive(target: Picker, training: TrainingSet, derived: Settings) -> None:
    target.derive(training, derived)
    derived.refuse_unknown(target.name)


def check_orientations(training: TrainingSet, *, force: bool) -> list[str]:
    """Ask the pixels of each entry whether its picks are flipped or swapped.

    Raises
    ------
    BadInput
        Where they say so, unless `force`.
    """
    from cryoflow.micrographs.orientation import check_orientation

    notes = []
    offsets = training.offsets
    for index in range(len(training.picksets)):
        rows = np.flatnonzero(training.micrographs["entry_index"].to_numpy() == index)
        counts = training.micrographs["n_picks"].to_numpy()[rows]
        rows = rows[np.argsort(-counts, kind="stable")][:MICROGRAPHS_CHECKED]
        rows = rows[training.micrographs["n_picks"].to_numpy()[rows] > 0]
        if len(rows) == 0:
            continue
        verdict = check_orientation(
            (read_any(training.micrographs["path"].iloc[i]) for i in rows),
            [training.picks[["x_px", "y_px"]].iloc[offsets[i] : offsets[i + 1]].to_numpy() for i in rows],
            float(training.micrographs["box_px"].iloc[rows[0]]),
        )
        entry = str(training.micrographs["entry"].iloc[rows[0]])
        if verdict.verdict == "contradicted":
            if not force:
                raise BadInput(
                    entry,
                    f"does not fit its micrographs: {verdict}",
                    "Look at its picks on a micrograph; ingest the project with the right flip, or use --force.",
                )
            notes.append(f"{entry}: exported although {verdict}")
    return notes


def _fingerprint(target: Picker, training: TrainingSet, by_hand: Mapping[str, object], what: str) -> str:
    """Short hash of everything that decides what is written."""
    found = Fingerprint(24).add(repr((target.name, what, sorted((k, str(v)) for k, v in by_hand.items()))))
    found.add(manifest.manifest_text(training.micrographs, ""))
    for table in (training.picks, training.not_positive):
        for column in table.columns:
            found.add(column, np.ascontiguousarray(table[column].to_numpy()).data)
    return found.digits


def _same_that_is_there(target: Picker, output: Path, made_with: str, *, overwrite: bool) -> tuple[Setting, ...] | None:
    """The settings of this very export where the folder holds it, sound, so that it is left as it is; else None.

    Where another run puts its set in the folder's place meanwhile, what was seen is of neither: it is looked at again.
    """
    for _ in range(9):
        before = _which(output)
        try:
            return _same_or_refused(target, output, made_with, overwrite=overwrite)
        except (BadInput, OSError):
            if _which(output) == before:
                raise
            time.sleep(0.1)
    raise NotWritten(output, "is being written by other runs.", "Run the same again when they have ended.")


def _which(folder: Path) -> tuple[int, int] | None:
    """Tells a folder from one that took its place, and from itself before it was moved."""
    try:
        status = os.stat(folder)
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _same_or_refused(target: Picker, output: Path, made_with: str, *, overwrite: bool) -> tuple[Setting, ...] | None:
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    if not manifest.is_manifest(output / manifest.NAME):
        raise BadInput(output, "is there already, and cryoflow did not write it.", "Choose another --output.")
    if manifest.made_with(output) == made_with:
        found = problems_of(target, output)
        if found and not overwrite:
            raise BadInput(
                output,
                f"holds this very export, but damaged: {said(found)}.",
                "Add --overwrite to write it anew; that removes trained models in it, too.",
            )
        return None if found else _read_settings(output)
    if not overwrite:
        raise BadInput(
            output,
            "holds another export already.",
            "Choose another --output, or add --overwrite; that removes it, trained models included.",
        )
    return None


def _read_settings(folder: Path) -> tuple[Setting, ...]:
    return tuple(Setting(str(r[0]), str(r[1]), str(r[2])) for r in manifest.settings_table(folder).to_numpy())
