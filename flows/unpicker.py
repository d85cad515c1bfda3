"""The unpicker's two stages: training, and un-picking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect import flow, task

from cryoflow.database import Database
from cryoflow.database.add_entry import add_if_changed
from cryoflow.database.entry_lookup import matching
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.errors import BadInput
from cryoflow.models.find_model import with_model
from cryoflow.models.held_out import known_registries
from cryoflow.unpicker.label import label_from_database
from cryoflow.unpicker.label_sources import label_sources
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.unpicker.parameters import TrainUnpickerParameters, UnpickParameters
from cryoflow.unpicker.train_options import TrainOptions
from flows.run_page import run_name, show_table, shown_progress


@flow(name="train unpicker", flow_run_name=run_name("train unpicker", lambda p: p.model.name))
def train_unpicker(parameters: TrainUnpickerParameters) -> Path:
    """Label picks by what became of them in their projects, and train the unpicker.

    Where labeled entries are named, those are learned from instead.

    A finished training of the same picks and options is taken as it is; a stopped one goes on.
    """
    labeled = Database(parameters.database_folder).matching(parameters.entries) or label_projects(parameters)
    train_model.with_options(task_run_name=f"train {parameters.model.name}")(parameters, labeled)
    return parameters.model


@task(task_run_name="label")
def label_projects(parameters: TrainUnpickerParameters) -> tuple[str, ...]:
    """Write labeled picks as entries of the database; return their names."""
    database = Database(parameters.database_folder)
    entries = database.entries()
    projects = matching(database.root, parameters.projects, lambda: list(dict.fromkeys(e.project for e in entries)))
    sources, without = label_sources(entries, projects)
    if not sources:
        raise BadInput(parameters.database_folder, "no project can be labeled.", " ".join(without))
    rows, names = [], []
    total = {"positive": 0, "negative": 0, "unlabeled": 0}
    for source in sources:
        positives, candidates = database.load(source.positives), load_with_diameter(database, source.candidates.name)
        excluded = database.load(source.excluded) if source.excluded else None
        picks = label_from_database(positives, candidates, excluded, diameter_A=parameters.diameter_A)
        entry = add_if_changed(database, picks)
        names.append(entry.name)
        counts = picks.picks["label"].value_counts()
        numbers = {word: int(counts.get(label, 0)) for word, label in zip(total, (1, -1, 0), strict=True)}
        total = {word: total[word] + numbers[word] for word in total}
        rows.append({"entry": entry.name, "survived in": source.positives.name, **numbers})
    numbers_text = ", ".join(f"{n} {word}" for word, n in total.items())
    show_table("labels", rows, f"labeled picks: {numbers_text}. " + " ".join(without))
    return tuple(names)


@task
def train_model(parameters: TrainUnpickerParameters, labeled: tuple[str, ...]) -> None:
    """Train one model."""
    from cryoflow.unpicker.train import train

    p = parameters
    database = Database(p.database_folder)
    training_set = LabeledSet.from_picks(map(database.load, labeled), diameter_A=p.diameter_A)
    training_set = training_set.without_held_out(known_registries(p.models, database=p.database))
    with shown_progress("training", "batches that the unpicker has learned from") as report:
        bundle = train(
            training_set,
            p.model,
            TrainOptions.from_parameters(p),
            overwrite=p.overwrite,
            on_progress=lambda done: report(done.done, done.total) if done.stage == "training" else None,
        )
    rows = [{"measure": name, "value": value} for name, value in bundle.metrics.items()]
    show_table("model", rows, f"model in {parameters.model}: threshold {bundle.threshold:.3f}")


@flow(name="unpick", flow_run_name=run_name("unpick", lambda p: p.database.name))
def unpick(parameters: UnpickParameters) -> tuple[str, ...]:
    """Remove the wrong picks of entries; what is left becomes an entry of its own.

    Micrographs are scored in shards. A shard that is done is not done again, and one that fails stops no other.
    """
    parameters = with_model(parameters)  # one version for all shards, whatever is promoted meanwhile
    database = parameters.database_folder
    entries = Database(database).matching(parameters.entries) or entries_to_clean(database)
    done = [clean_entry.with_options(task_run_name=f"clean {entry}")(parameters, entry) for entry in entries]
    n_picks, n_kept = sum(c.n_picks for c in done), sum(c.n_kept for c in done)
    show_table("unpick", done, f"un-picked: {n_kept} of {n_picks} picks kept")
    return tuple(cleaned.entry for cleaned in done)


@dataclass(frozen=True)
class Cleaned:
    """Result of one entry."""

    entry: str
    cleaned_from: str
    n_picks: int
    n_kept: int
    n_doubtful: int
    n_failed_micrographs: int


@task(task_run_name="entries to clean")
def entries_to_clean(database: Path) -> tuple[str, ...]:
    """Return the entries with all picks of each project, positive and negative."""
    sources, without = label_sources(Database(database).entries())
    if not sources:
        raise BadInput(database, "no project has picks to clean.", " ".join(without))
    return tuple(source.candidates.name for source in sources)


@task
def clean_entry(parameters: UnpickParameters, name: str) -> Cleaned:
    """Clean one entry, shard by shard."""
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick import doubtful_picks, supersede_doubtful
    from cryoflow.unpicker.unpick import unpick as clean

    bundle = ModelBundle.load(parameters.model)
    database = Database(parameters.database_folder)
    picks = load_with_diameter(database, name)
    with shown_progress(f"unpick {name}", f"micrographs of {name}") as report:
        kept, done = clean(
            bundle,
            picks,
            goal=parameters.goal,
            work=parameters.work_folder,
            n_a_shard=parameters.chunk_micrographs,
            on_progress=report,
        )
    entry = add_if_changed(database, kept)
    supersede_doubtful(database, doubtful_picks(bundle, picks, done))
    return Cleaned(entry.name, name, len(picks), len(kept), done.n_doubtful, len(done.failed))
