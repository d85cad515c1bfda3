"""The stages around pickers as functions of their parameters: what commands and flows run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cryoflow.database import Database
from cryoflow.execution.executor import Executor, OnLine
from cryoflow.execution.resources import Resources
from cryoflow.models.held_out import known_registries, refuse_held_out, without_held_out
from cryoflow.pickers.parameters import (
    ExportParameters,
    PickerProgram,
    TrainAndPickParameters,
    TrainingSource,
    TrainPickerParameters,
)
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.run_picker import micrographs_to_pick, pick
from cryoflow.pickers.running.train_and_pick import (
    PICKED,
    TrainedAndPicked,
    best_entries,
    export_and_train,
    load_entries,
)
from cryoflow.pickers.training_sets.export import ExportResult, cut_export, export
from cryoflow.pickers.training_sets.manifest import read_manifest
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.settings.site import PickerSite

if TYPE_CHECKING:
    from cryoflow.picks import PickSet
    from cryoflow.shards import Shard


def entries_to_train_on(parameters: TrainingSource) -> tuple[str, ...]:
    """Return the names of the entries: those given, patterns replaced, or the best one of each project."""
    database = Database(parameters.database)
    return database.matching(parameters.entries) or best_entries(database, parameters.projects)


def picks_to_train_on(parameters: ExportParameters | TrainAndPickParameters) -> list[PickSet]:
    """Return the picks of `entries_to_train_on` that may be learned from; those for RELION and CryoSPARC are all."""
    p = parameters
    picksets = load_entries(Database(p.database), entries_to_train_on(p))
    if not picker(p.picker).links_micrographs:
        return picksets
    registries = known_registries(p.models, database=p.database)
    return [_learnable(picks, registries) for picks in picksets]


def _learnable(picks: PickSet, registries: Sequence[Path]) -> PickSet:
    """Return the micrographs of a set that may be learned from, and their picks."""
    paths = picks.micrographs["path"].tolist()
    wanted = np.zeros(len(paths), bool)
    wanted[without_held_out(range(len(paths)), lambda i: paths[i], registries)] = True
    return picks if wanted.all() else picks.on_micrographs(wanted)


def check_training_set(parameters: TrainPickerParameters) -> None:
    """Refuse an exported set with micrographs that were held out after it was written."""
    paths = read_manifest(parameters.folder)["path"].tolist()
    refuse_held_out(parameters.folder, paths, known_registries(parameters.models))


def write_export(parameters: ExportParameters) -> ExportResult:
    """Write a training set, or the picks for RELION or CryoSPARC."""
    p = parameters
    return export(
        p.picker,
        picks_to_train_on(p),
        p.output,
        diameter_A=p.diameter_A,
        box_px=p.box_px,
        split=Fractions(p.validation, p.test),
        seed=p.seed,
        negatives=p.negatives,
        force=p.force,
        overwrite=p.overwrite,
        settings=p.all_settings,
    )


def shards_of_export(parameters: ExportParameters) -> tuple[Shard, ...]:
    """Cut an export into shards of `shard_micrographs` micrographs."""
    p = parameters
    return cut_export(
        p.picker,
        picks_to_train_on(p),
        p.output,
        p.shard_micrographs,
        diameter_A=p.diameter_A,
        box_px=p.box_px,
        split=Fractions(p.validation, p.test),
        seed=p.seed,
        force=p.force,
        settings=p.all_settings,
    )


def _of_site(picker: str) -> PickerSite:
    """Return where the site's settings say that a picker's programs are."""
    from cryoflow.settings.load import load_settings

    return load_settings().settings.site.pickers.get(picker, PickerSite())


def executor_of(parameters: PickerProgram, *, script: bool = False) -> Executor:
    """Return what runs a picker's program: where the parameters name none, the site's settings do.

    For a script GPUs are only counted.
    """
    p = parameters
    scheduled = p.slurm or script
    gpus = tuple(range(len(p.gpu_list()))) if scheduled else p.gpu_list()
    here = p if p.programs or p.container or p.image else _of_site(getattr(p, "picker", ""))
    return Executor(
        container=here.container or "",
        image=here.image,
        slurm=p.slurm,
        sbatch_options=p.sbatch,
        programs=here.programs,
        resources=Resources(gpus, p.cpus, allocated=scheduled),
        timeout_s=p.timeout_h * 3600 if p.timeout_h else None,
    )


def train_then_pick(
    parameters: TrainAndPickParameters, *, on_stage: OnLine | None = None, on_line: OnLine | None = None
) -> TrainedAndPicked:
    """Train a picker on entries, and pick new micrographs with it.

    A second run uses the training set and the model of the first, and picks again. A script of the picking is written
    only where the one of the training has left its model.

    Parameters
    ----------
    on_stage
        Called with lines that announce each step: all settings with their reasons before the training, and the logs.
    """
    p = parameters
    training, to_pick = picks_to_train_on(p), list(_new_micrographs(p))
    executor = executor_of(p, script=p.script_only)
    exported, trained = export_and_train(
        p.picker,
        training,
        p.output,
        executor,
        diameter_A=p.diameter_A,
        split=Fractions(p.validation),
        seed=p.seed,
        settings=p.settings,
        script_only=p.script_only,
        on_stage=on_stage,
        on_line=on_line,
    )
    if trained.model is None:
        return TrainedAndPicked(exported, trained, None)
    if on_stage and not p.script_only:
        on_stage(f"picking with {trained.model}: the log is {p.output / PICKED}/pick.log")
    known = [picks.diameter_A for picks in training if picks.diameter_A]
    picked = pick(
        p.picker,
        trained.model,
        to_pick,
        p.output / PICKED,
        executor,
        name=p.run or p.picker,
        diameter_A=p.diameter_A or (sum(known) / len(known) if known else None),
        threshold=p.threshold,
        overwrite=True,
        script_only=p.script_only,
        on_line=on_line,
    )
    return TrainedAndPicked(exported, trained, picked)


def _new_micrographs(parameters: TrainAndPickParameters) -> Iterator[PickSet]:
    p = parameters
    yield from load_entries(Database(p.database), p.to_pick)
    if p.micrographs:
        yield micrographs_to_pick(p.micrographs, pixel_size_A=p.pixel_size_A)
