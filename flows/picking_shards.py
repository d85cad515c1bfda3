"""Training a picker and picking with it where stages are jobs: the training is one, the picking is cut into shards.

Each shard leaves its picks, complete or absent, so the gathering stage repeats failed shards, and a second run picks
what is missing only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from annotated_types import Ge
from prefect import flow, task

from cryoflow.cluster.dispatch import Done, Work, run_stage
from cryoflow.database import Database
from cryoflow.database.add_entry import add_if_changed
from cryoflow.errors import BadInput, CryoflowError
from cryoflow.parameters import Count
from cryoflow.pickers.parameters import ExportParameters, TrainAndPickParameters
from cryoflow.pickers.running.pick_shards import (
    Picking,
    diameter_of_training,
    gather,
    micrograph_files,
    pick_shard,
    shard_of,
    shard_of_entry,
    shard_of_files,
)
from cryoflow.pickers.running.run_picker import trained_already
from cryoflow.pickers.running.train_and_pick import PICKED, TRAINING, export_and_train, load_entries
from cryoflow.pickers.stages import entries_to_train_on, executor_of, picks_to_train_on
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import Kind, PickSet
from cryoflow.shards import cut
from flows.export import write_training_set
from flows.export_shards import write_exports_in_shards
from flows.run_page import log, run_name, show_table, shown_progress
from flows.shards import run_remaining

FILES = ""
"""Name of the entry of micrographs that no entry has."""


@dataclass(frozen=True, kw_only=True)
class PickShardParameters(TrainAndPickParameters):
    """Micrographs to pick with a model, or with the picker trained in the output folder: all, or some of one entry."""

    model: str | None = None
    """The model; by default the one that was trained in the output folder."""
    entry: str | None = None
    """Only this entry; an empty name: the files of `micrographs`."""
    first: Annotated[int, Ge(0)] = 0
    """Number of its first micrograph, from 0."""
    last: Count | None = None
    """Number of the micrograph after the last one."""


def train_and_pick_as_jobs(parameters: TrainAndPickParameters) -> tuple[str, ...]:
    """Return the training as one job, then the picking as some at the same time, gathered by one more.

    A large training set is written before, in jobs of its own, none of which holds a GPU.
    """
    to_pick = Database(parameters.database).matching(parameters.to_pick)
    # All jobs get names in place of patterns: entries may be added meanwhile.
    parameters = replace(parameters, entries=entries_to_train_on(parameters), to_pick=to_pick)
    training_set = training_set_of(parameters)
    if write_exports_in_shards([training_set]):
        run_stage(write_training_set, training_set)
    run_stage(train_picker, parameters)
    rest = PickShardParameters.from_values(parameters.to_json())
    pick_in_shards(rest)
    run_stage(pick, rest)
    entries = Database(parameters.database).entries()
    return tuple(e.name for e in entries if e.kind == Kind.AUTO_PICK and e.job == parameters.picker)


def training_set_of(p: TrainAndPickParameters) -> ExportParameters:
    """Return the export that the training makes of its entries."""
    return ExportParameters(
        picker=p.picker,
        database=p.database,
        output=p.output.absolute() / TRAINING,
        entries=entries_to_train_on(p),
        diameter_A=p.diameter_A,
        validation=p.validation,
        seed=p.seed,
        settings=p.settings,
        models=p.models,
        shard_micrographs=p.shard_micrographs,
    )


@flow(name="train picker", flow_run_name=run_name("train picker", lambda p: p.picker))
def train_picker(parameters: TrainAndPickParameters) -> Path:
    """Write a picker's training set and train it; what is there already is taken as it is."""
    return train_one.with_options(task_run_name=f"train {parameters.picker}")(parameters)


@task
def train_one(parameters: TrainAndPickParameters) -> Path:
    """Train with the picker's own programs."""
    p = parameters
    exported, trained = export_and_train(
        p.picker,
        picks_to_train_on(p),
        p.output.absolute(),
        executor_of(p),
        diameter_A=p.diameter_A,
        split=Fractions(p.validation),
        seed=p.seed,
        settings=p.settings,
        on_stage=log.info,
        on_line=log.info,
    )
    show_table(f"train {p.picker} settings", exported.settings, f"trained {trained.model}")
    assert trained.model is not None  # no script was asked for
    return trained.model


@flow(name="pick", flow_run_name=run_name("pick", lambda p: f"{p.picker} {_range(p)}".strip()))
def pick(parameters: PickShardParameters) -> tuple[str, ...]:
    """Pick micrographs with the picker that `train picker` left in the same output folder; names of the new entries.

    Shards that are picked already are taken as they are. Of one shard alone no entry is made: it is gathered later.
    """
    p = parameters
    if p.entry is not None:
        pick_range.with_options(task_run_name=f"pick {_range(p)}")(p, p.entry, p.first, p.last)
        return ()
    ranges = list(ranges_to_pick(p))
    done: list[PickSet] = []
    failed: list[str] = []
    with shown_progress(f"pick {p.picker}", "shards picked") as report:
        for number, (entry, first, last) in enumerate(ranges, 1):
            try:
                done += pick_range.with_options(task_run_name=f"pick {entry or 'files'} {first}-{last}")(
                    p, entry, first, last
                )
            except CryoflowError as error:  # the others are not lost for it
                failed.append(f"{entry or 'files'} {first}-{last}: {' '.join(str(error).split())}.")
            report(number, len(ranges))
    entries = [add_if_changed(Database(p.database), picks) for picks in gather(done, _picking(p))]
    rows = [{"entry": e.name, "picks": e.n_picks, "micrographs": e.n_micrographs} for e in entries]
    show_table("picked", rows, f"picked with {p.picker}: {len(done)} of {len(ranges)} shards, in {p.output}")
    if failed:
        raise BadInput(
            f"{len(failed)} of {len(ranges)} shards",
            f"could not be picked. {' '.join(failed)}",
            "The picks of the others are in the database. Run the same again: only these are tried.",
        )
    return tuple(e.name for e in entries)


@task
def pick_range(parameters: PickShardParameters, entry: str, first: int, last: int | None) -> list[PickSet]:
    """Pick one shard; return [] where all its micrographs are missing."""
    p = parameters
    picking = _picking(p)
    some = _some(p, _whole(p, entry), first, n_micrographs(p, entry) if last is None else last)
    if some.micrographs["path"].isna().all():
        log.warning("none of the micrographs %d to %d of %s is there: they are left out", first, last, entry)
        return []
    shard = shard_of(picking, some, first, p.output.absolute() / PICKED)
    return [pick_shard(picking, some, shard, executor_of(p), on_line=log.info)]


def _picking(p: PickShardParameters) -> Picking:
    if p.model is not None:
        return Picking(p.picker, Path(p.model), p.diameter_A, threshold=p.threshold)
    training = p.output.absolute() / TRAINING
    trained = trained_already(p.picker, training)
    if trained is None or trained.model is None:
        raise BadInput(training, "holds no trained picker.", "Run `train picker` with this output first.")
    return Picking(p.picker, trained.model, p.diameter_A or diameter_of_training(training), threshold=p.threshold)


def _whole(p: PickShardParameters, entry: str) -> PickSet | None:
    """Return an entry, to be cut; None for the files."""
    return None if entry == FILES else load_entries(Database(p.database), [entry])[0]


def _some(p: PickShardParameters, whole: PickSet | None, first: int, last: int) -> PickSet:
    if whole is None:
        return shard_of_files(p.micrographs, first, last, pixel_size_A=p.pixel_size_A)
    return shard_of_entry(whole, first, last)


def pick_in_shards(parameters: PickShardParameters) -> tuple[Done, ...]:
    """Pick the micrographs in jobs of their own, so many a job; not where one job is enough for all that is left."""
    p = parameters
    jobs = (
        (
            last - first,
            Work(f"{p.picker} {entry or 'files'} {first}-{last}", replace(p, entry=entry, first=first, last=last)),
        )
        for entry, first, last in ranges_left(p)
    )
    return run_remaining("pick", jobs, p.shard_micrographs)


def ranges_to_pick(p: PickShardParameters) -> Iterator[tuple[str, int, int]]:
    """Yield entry, first micrograph and the one after the last, of each shard."""
    for entry in _entries(p):
        for first, last in cut(n_micrographs(p, entry), p.shard_micrographs, 1):
            yield entry, first, last


def ranges_left(p: PickShardParameters) -> Iterator[tuple[str, int, int]]:
    """Yield as `ranges_to_pick` does, without those whose picks an earlier run left."""
    picking, folder = _picking(p), p.output.absolute() / PICKED
    wholes = {entry: _whole(p, entry) for entry in _entries(p)}
    for entry, first, last in ranges_to_pick(p):
        if not shard_of(picking, _some(p, wholes[entry], first, last), first, folder).is_done:
            yield entry, first, last


def n_micrographs(p: PickShardParameters, entry: str) -> int:
    """Return how many micrographs an entry has, or how many files are named."""
    if entry == FILES:
        return len(micrograph_files(p.micrographs))
    return Database(p.database).entry(entry).n_micrographs


def _entries(p: PickShardParameters) -> tuple[str, ...]:
    return (*Database(p.database).matching(p.to_pick), *([FILES] if p.micrographs else []))


def _range(p: PickShardParameters) -> str:
    return "" if p.entry is None else f"{p.entry or 'files'} {p.first}-{p.last or 'end'}"
