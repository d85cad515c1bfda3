"""The first steps from labeled micrographs to picks on new ones: choose entries, export, train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoflow.database import Database
from cryoflow.database.entry_lookup import matching
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.database.select import select_best
from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor, OnLine
from cryoflow.pickers.registry import picker, pickers
from cryoflow.pickers.running.run_picker import Picked, Trained, train, trained_already
from cryoflow.pickers.training_sets.export import ExportResult, export
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import PickSet

TRAINING, PICKED = "training", "picked"


@dataclass(frozen=True)
class TrainedAndPicked:
    """Results of the three steps; `output/training` and `output/picked` are their folders.

    `picked` is None where a script was written that is to train first.
    """

    exported: ExportResult
    trained: Trained
    picked: Picked | None


def best_entries(database: Database, projects: Sequence[str] = ()) -> tuple[str, ...]:
    """Return names of the entries to train from: the best one of each project, or of those that are named.

    Raises
    ------
    BadInput
        Where a project that is named has none, or no project has one.
    """
    selections = {s.project: s for s in select_best(database)}
    wanted = matching(database.root, projects, lambda: list(selections))
    for project in wanted:
        if project not in selections:
            raise BadInput(database.root, f"has no project {project}.", f"It has: {', '.join(selections)}.")
        if selections[project].entry is None:
            raise BadInput(project, f"has no entry to train from: {selections[project].reason}.")
    chosen = [selections[p] for p in wanted] or list(selections.values())
    if not (names := tuple(s.entry.name for s in chosen if s.entry)):
        raise BadInput(database.root, "has no entry to train from.", "`cryoflow database select` shows why.")
    return names


def load_entries(database: Database, entries: Sequence[str]) -> list[PickSet]:
    """Return the entries of names or patterns; diameters that they do not know are those of their projects."""
    return [load_with_diameter(database, entry) for entry in database.matching(entries)]


def export_and_train(
    picker_name: str,
    training: Sequence[PickSet],
    output: Path,
    executor: Executor,
    *,
    diameter_A: float | None = None,
    split: Fractions = Fractions(),  # noqa: B008
    seed: int = 0,
    settings: Mapping[str, object] | None = None,
    script_only: bool = False,
    on_stage: OnLine | None = None,
    on_line: OnLine | None = None,
) -> tuple[ExportResult, Trained]:
    """Export some sets of picks for a picker, and train it; what exists already is used as it is.

    Raises
    ------
    BadInput
        Where cryoflow cannot both train this picker and pick with it, or the picks cannot be exported.
    """
    target = picker(picker_name)
    if not (target.trains and target.picks):
        able = ", ".join(name for name, p in pickers().items() if p.trains and p.picks)
        raise BadInput(picker_name, "cannot both be trained and run from here.", f"These can: {able}.")
    exported = export(
        picker_name,
        training,
        output / TRAINING,
        diameter_A=diameter_A,
        split=split,
        seed=seed,
        settings=settings,
    )
    say = on_stage or (lambda _: None)
    for line in _about(exported):
        say(line)
    if not script_only:
        say(f"training {target.title}: the log is {exported.folder}/train.log")
    trained = trained_already(picker_name, exported.folder) or train(
        picker_name, exported.folder, executor, script_only=script_only, on_line=on_line
    )
    return exported, trained


def _about(exported: ExportResult) -> list[str]:
    """Return what a person should know before a long training: the picks, and each setting with its reason."""
    lines = [f"training set: {exported.n_picks} picks on {exported.n_micrographs} micrographs"]
    lines += [f"setting: {s.name} = {s.value} ({s.why})" for s in exported.settings]
    return lines + [f"note: {note}" for note in exported.notes]
