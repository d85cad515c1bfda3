"""Train a picker, and pick with it: check first, run, and check the files that were written."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor, OnLine, run_steps, write_script
from cryoflow.micrographs.header import micrograph_status
from cryoflow.models.find_model import is_version
from cryoflow.pickers.base import Picker
from cryoflow.pickers.comparing.curves import plot_curve
from cryoflow.pickers.importing.import_picks import import_picks
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running import picked_before
from cryoflow.pickers.running.preflight import preflight
from cryoflow.pickers.running.work_folder import mend, through_scratch, work_folder
from cryoflow.pickers.training_sets import manifest as manifests
from cryoflow.pickers.training_sets.build import build_training_set
from cryoflow.pickers.training_sets.contents import read_contents
from cryoflow.pickers.training_sets.export import write_set
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.storage.files import write_if_changed
from cryoflow.storage.safe_names import expanded
from cryoflow.storage.tab_separated import table_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Attributes
    ----------
    model
        The model to pick with; None if only a script was written.
    script
        The job script, if one was written.
    curve, figure
        Training curve as table and as picture, if the picker logs one.
    reused
        The model existed already.
    """

    folder: Path
    model: Path | None
    log: Path
    script: Path | None = None
    curve: Path | None = None
    figure: Path | None = None
    seconds: float = 0.0
    reused: bool = False


@dataclass(frozen=True)
class Picked:
    """Result of picking: one `PickSet` per entry, none if only a script was written."""

    folder: Path
    log: Path
    picksets: tuple[PickSet, ...]
    script: Path | None = None
    seconds: float = 0.0
    reused: bool = False
    """The folder held these picks already, and the program was not run."""


def train(
    picker_name: str,
    folder: Path,
    executor: Executor,
    *,
    again: bool = False,
    script_only: bool = False,
    on_line: OnLine | None = None,
) -> Trained:
    """Train a picker on what `export` wrote.

    Parameters
    ----------
    again
        Train anew where there is a model already.
    script_only
        Write `train.sbatch` and run nothing.

    Raises
    ------
    BadInput
        Where the check beforehand finds something wrong, or no model was written.
    ToolFailed
        Where the program fails.
    """
    target, folder = picker(picker_name), Path(folder).absolute()
    _check_picker(target, folder)
    settings = manifests.read_settings(folder)
    log = folder / "train.log"
    if not (again or script_only) and (there := trained_already(picker_name, folder)):
        return there
    preflight(target, folder)
    steps = target.train_steps(folder, settings, executor.resources)
    if script_only:
        return Trained(folder, None, log, script=write_script(steps, executor, work_folder(folder), "train", log.name))
    with _micrographs_watched(folder):
        seconds = run_steps(steps, executor, work_folder(folder), log, on_line)
    return _trained(target, folder, _model_of(target, folder), log, seconds=seconds)


@contextmanager
def _micrographs_watched(folder: Path) -> Iterator[None]:
    """Warn if micrographs of an export change while a program runs: the links lead to the user's own files."""
    contents = read_contents(folder)
    before = contents.changed_micrographs() if contents else []
    try:
        yield
    finally:
        for change in contents.changed_micrographs() if contents else []:
            if change not in before:
                logger.warning("%s was changed while the program ran; restore it from a backup", change.path)


def trained_already(picker_name: str, folder: Path) -> Trained | None:
    """Return the result of an earlier training of that folder; None if there is no model."""
    target, folder = picker(picker_name), Path(folder).absolute()
    try:
        model = _model_of(target, folder)
    except BadInput:
        return None
    return _trained(target, folder, model, folder / "train.log", reused=True)


def _model_of(target: Picker, folder: Path) -> Path:
    """Return the model that a training left.

    Raises
    ------
    BadInput
        If there is none.
    """
    model = target.trained_model(folder, manifests.read_settings(folder))
    if not model.is_file() or not model.stat().st_size:
        raise BadInput(model, "was not written by the training.", "See train.log.")
    return model


def _trained(
    target: Picker, folder: Path, model: Path, log: Path, *, seconds: float = 0.0, reused: bool = False
) -> Trained:
    """Return the result of a training with its curve drawn; the training may have been a submitted job script."""
    curve = target.training_curve(folder)
    table = figure = None
    if len(curve):
        table, figure = folder / "training_curve.tsv", folder / "training_curve.png"
        write_if_changed(table, table_text(curve, "%.6g"))
        plot_curve(curve, f"{target.title}, {folder.name}", figure)
    return Trained(folder, model, log, curve=table, figure=figure, seconds=seconds, reused=reused)


def pick(
    picker_name: str,
    model: Path | str,
    picksets: Sequence[PickSet],
    output: Path,
    executor: Executor,
    *,
    name: str = "",
    diameter_A: float | None = None,
    settings: Mapping[str, object] | None = None,
    threshold: float | None = None,
    keep_all: bool = False,
    overwrite: bool = False,
    script_only: bool = False,
    on_line: OnLine | None = None,
) -> Picked:
    """Pick the micrographs of some entries, or of files (`micrographs_to_pick`), with a trained model.

    Parameters
    ----------
    model
        A file, or a model that comes with the picker (`resnet16` for Topaz).
    output
        Folder to write: links, manifest, what the picker writes, and its log.
    name
        Of the run, part of the entries' names; by default the output folder's.
    threshold
        Picks below it are left out; the picker's default where None.
    keep_all
        Apply no threshold at all.

    The program is not run where the folder holds the picks of the same model, micrographs and settings.

    Raises
    ------
    BadInput
        Where cryoflow cannot pick with this picker, or the model or the micrographs cannot be used.
    """
    target, output = picker(picker_name), Path(output).absolute()
    if not target.picks:
        raise BadInput(
            picker_name,
            "is not run from here.",
            "Pick in its own program, then: cryoflow ingest FOLDER_OF_ITS_PICKS --micrographs FOLDER --database DB.",
        )
    mend(output)
    model_path = model_file(target, str(model))
    training = build_training_set(picksets, diameter_A=diameter_A, link=target.links_micrographs, for_picking=True)
    write_set(
        target,
        training,
        output,
        settings or {},
        f"model {model_path.name}",
        for_picking=True,
        as_trained=_settings_of_model(target, model_path),
        overwrite=overwrite,
    )
    preflight(target, output)
    log = output / "pick.log"
    source = picked_before.source_of(output, model_path, executor)
    is_done = not script_only and picked_before.is_picked(output, source)
    seconds = 0.0
    if not is_done:
        steps = target.pick_steps(output, model_path, manifests.read_settings(output), executor.resources)
        # Picks of an earlier run must not be taken for this one's.
        shutil.rmtree(output / picked_before.PICKS, ignore_errors=True)
        (output / picked_before.PICKS).mkdir()
        if script_only:
            return Picked(output, log, (), script=write_script(steps, executor, work_folder(output), "pick", log.name))
        # Scratch is of this machine, not of a job's.
        scratch = nullcontext() if executor.slurm else through_scratch(output)
        with _micrographs_watched(output), scratch:
            seconds = run_steps(steps, executor, work_folder(output), log, on_line)
    found = import_picks(
        picker_name,
        output / picked_before.PICKS,
        output,
        name=name or output.name,
        threshold=threshold,
        keep_all=keep_all,
        model=model_path.name,
    )
    if not is_done and not target.not_picked(output / picked_before.PICKS):
        picked_before.record_picked(output, source)
    return Picked(output, log, tuple(found), seconds=seconds, reused=is_done)


def model_file(target: Picker, model: str) -> Path:
    """Return a model's file, absolute, or the name of a model that comes with the picker.

    Raises
    ------
    BadInput
        Where it is neither a file, a folder with one, nor such a name.
    """
    path = expanded(model)
    if path.is_file():
        return path.absolute()
    if target.model_file and (path / target.model_file).is_file():
        return (path / target.model_file).absolute()
    if is_version(path) and (file := _only_file(path)):
        return file
    if model in target.model_names:
        return Path(model)
    names = f", or {' or '.join(target.model_names)}" if target.model_names else ""
    raise BadInput(
        model,
        "is a folder, no model." if path.is_dir() else "is not there.",
        f"Name the model that `cryoflow picker train` reported{names}.",
    )


def _only_file(version: Path) -> Path | None:
    """Return the model of a registry's version beside its training's manifest and settings; None where unclear."""
    files = [p for p in version.iterdir() if p.is_file() and p.name not in (manifests.NAME, manifests.SETTINGS)]
    return files[0].absolute() if len(files) == 1 else None


def _settings_of_model(target: Picker, model: Path) -> dict[str, str]:
    """Return what picking must share with the training, where the model still lies in the folder that it was trained
    in."""
    for folder in model.parents[:2]:
        path = folder / manifests.NAME
        if manifests.is_manifest(path) and manifests.made_with(path).startswith(f"picker {target.name},"):
            settings = manifests.read_settings(folder)
            return {name: settings[name] for name in target.model_settings if name in settings}
    return {}


def micrographs_to_pick(paths: Sequence[Path], *, pixel_size_A: float | None = None, project: str = "") -> PickSet:
    """Return a set without picks, of micrograph files that belong to no project in the database.

    Parameters
    ----------
    paths
        MRC files, or folders whose `*.mrc` are picked.
    pixel_size_A
        Where the headers have none, or a wrong one.

    Raises
    ------
    BadInput
        Where a path does not exist, or there is no MRC file.
    """
    for path in paths:
        if not Path(path).exists():
            raise BadInput(path, "is not there.", "Name MRC files, or folders of them.")
    files = [f.absolute() for p in paths for f in (sorted(Path(p).glob("*.mrc")) if Path(p).is_dir() else [Path(p)])]
    if not files:
        raise BadInput(", ".join(map(str, paths)) or "micrographs", "holds no MRC file.")
    looked = [micrograph_status(f) for f in files]
    folder = Path(os.path.commonpath([f.parent for f in files]))
    columns: dict[str, object] = {
        "name": [str(f.relative_to(folder)) for f in files],
        "path": [str(f) for f in files],
        "status": [status for status, _ in looked],
        "ny": [h.shape_yx[0] if h else None for _, h in looked],
        "nx": [h.shape_yx[1] if h else None for _, h in looked],
        "pixel_size_A": [pixel_size_A or (h.pixel_size_A if h else None) or np.nan for _, h in looked],
    }
    where = Provenance("file", folder, project or folder.name, "files", Kind.IMPORT)
    empty = pd.DataFrame({"micrograph": np.zeros(0, np.int32), "x_px": np.zeros(0), "y_px": np.zeros(0)})
    return PickSet.build(where, micrograph_table(columns), empty)


def _check_picker(target: Picker, folder: Path) -> None:
    made = manifests.made_with(folder) if manifests.is_manifest(folder / manifests.NAME) else ""
    if not made:
        raise BadInput(folder, "is no training set of cryoflow.", f"Write one: cryoflow export {target.name} ...")
    if not made.startswith(f"picker {target.name},"):
        raise BadInput(folder, f"was exported for another picker ({made.split(',')[0]}).", f"Export for {target.name}.")
