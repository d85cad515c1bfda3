"""The stage `improve`, as its command and its flow run it: from parameters to a version in the registry."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryoflow.database.add_entry import add_if_changed
from cryoflow.database.entry import Entry
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.database.select import best_of
from cryoflow.database.store import Database
from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.execution.executor import Executor, OnLine
from cryoflow.learning.improve import ImproveResult, improve
from cryoflow.learning.improve_steps import PickerSteps
from cryoflow.learning.learned_elsewhere import learned_elsewhere
from cryoflow.learning.learner import Say, names_in_drawn_order
from cryoflow.learning.parameters import KINDS, ImproveParameters
from cryoflow.learning.picks_scorer import Clean, PicksScorer, on_micrographs
from cryoflow.models.card import TrainedOn
from cryoflow.models.find_model import find_model
from cryoflow.models.held_out import HeldOut, held_out_anywhere, known_registries
from cryoflow.models.registry import ModelRegistry, OtherInUse
from cryoflow.models.version import ModelVersion, version_name
from cryoflow.parameters import ParameterError
from cryoflow.pickers.parameters import PickParameters
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.run_picker import micrographs_to_pick
from cryoflow.pickers.running.train_and_pick import load_entries
from cryoflow.pickers.stages import executor_of
from cryoflow.pickers.training_sets import manifest as manifests
from cryoflow.picks import Kind, PickSet
from cryoflow.storage import folders
from cryoflow.storage.fingerprints import checksum, fingerprint_of_values
from cryoflow.storage.safe_names import safe_name

BEST = "best"
"""The model to register, below the folder of an improvement."""


@dataclass(frozen=True)
class Improved:
    """Result of an improvement.

    Attributes
    ----------
    version
        The new version; None where no round was better than the base model.
    entry
        Picks of the best model, an entry of the database.
    notes
        Micrographs that could not be read, and why a version that is better than its base model is not in use.
    """

    result: ImproveResult
    version: ModelVersion | None
    entry: Entry
    notes: tuple[str, ...] = ()

    def described(self) -> dict[str, object]:
        """Return what came of it as a record."""
        best = self.result.best
        return {
            "better": best.number > 0,
            "round": best.number,
            "measure": self.result.measure,
            "first_score": round(self.result.rounds[0].score, 4),
            "score": round(best.score, 4),
            "model": best.model,
            "version": self.version.label if self.version else None,
            "status": self.version.card.status if self.version else None,
            "entry": self.entry.name,
            "rounds": [f"{r.number}: {r.why}" for r in self.result.rounds],
            "ended": self.result.ended,
            "notes": list(self.notes),
        }


def improve_picker(p: ImproveParameters, *, say: Say, on_line: OnLine | None = None) -> Improved:
    """Improve a picker on some micrographs; see `cryoflow.learning.improve`.

    Raises
    ------
    BadInput, MissingMetadata
        Where there are too few micrographs, no diameter, or no model to begin with.
    ParameterError
        Where a model would be compared by its own opinion.
    """
    database = Database(p.database)
    registry = ModelRegistry(p.root)
    source = _source(p, database)
    project = source.provenance.project_name
    name = p.name or safe_name(f"{p.picker}-{project}")
    home = registry.folder(name)
    if source.diameter_A is None:
        raise MissingMetadata(project, "the particle diameter is not known.", "Give it in angstrom: --diameter.")
    contents, notes = _contents(source, p.sample)
    files = dict(zip(source.micrographs["name"], source.micrographs["path"], strict=True))
    paths = {content: Path(str(files[n])) for n, content in contents.items()}
    registries = known_registries(registry.root, database=p.database)
    learned_by_others, unreadable = learned_elsewhere(registries, home)
    notes += unreadable
    held_out = HeldOut(home).draw({project: contents.values()}, learned_by_others, paths)[project]
    excluded = held_out_anywhere(*registries)
    reference = _reference(p, database, project)
    compared_on = {n: c for n, c in contents.items() if c in held_out}
    if reference is not None:
        known = set(reference.micrographs["name"])
        compared_on = {n: c for n, c in compared_on.items() if n in known}
    learned = [n for n, c in contents.items() if c not in excluded]
    if not compared_on or not learned:
        raise BadInput(
            project, f"has {len(contents)} usable micrographs: too few to learn from some and compare on others."
        )
    unpicker = find_model(p.unpicker, database=p.database)
    clean = cleaner(unpicker, source.diameter_A)
    first = load_with_diameter(database, p.first) if p.first else None
    own = KINDS[p.picker] == "detector" or (first is not None and _is_of_detector(first))
    if reference is None and own and _is_detector(unpicker):
        raise ParameterError(
            "Without {reference} the agreement with the un-picker counts; {unpicker} must not be a detector where "
            "{picker} or {first} is one, too."
        )
    source = on_micrographs(source, contents)
    steps = PickerSteps(
        picker=p.picker,
        source=source,
        diameter_A=float(source.diameter_A or 0),
        executor=executor_of(p),
        clean=clean,
        model="" if first is not None else _base_model(p, registry, name),
        entry=first,
        selected=load_entries(database, p.selected),
        agreeing=p.agreeing,
        at_least=p.at_least,
        settings=p.settings,
        seed=p.seed,
        executors={other: _executor_of_other(p, other, model) for other, model in p.agreeing.items()},
        on_line=on_line,
    )
    key = fingerprint_of_values(
        [
            [p.picker, p.entry, p.model, p.first, str(p.unpicker), p.reference, sorted(p.agreeing.items()), p.at_least],
            [sorted(p.settings.items()), source.diameter_A, p.seed, sorted(contents.items()), sorted(compared_on)],
        ]
    )
    scorer = PicksScorer(project, compared_on, clean, reference, float(source.diameter_A or 0))
    say(f"{len(learned)} micrographs to learn from, {len(compared_on)} to compare on: {scorer.measure}")
    result = improve(
        steps, scorer, learned, p.output.absolute(), key=key, rounds=p.rounds, least_gain=p.least_gain, say=say
    )
    version, not_used = _registered(p, registry, name, result, key, source, len(learned))
    notes += not_used
    where = replace(result.picks.provenance, job=f"improve-{p.picker}")
    picks = steps.candidates(result.best.number + 1, result.picks)
    return Improved(result, version, add_if_changed(database, replace(picks, provenance=where)), tuple(notes))


def _source(p: ImproveParameters, database: Database) -> PickSet:
    """Return the micrographs to pick."""
    if p.entry:
        source = load_with_diameter(database, p.entry)
    else:
        source = micrographs_to_pick(p.micrographs, pixel_size_A=p.pixel_size_A)
    return replace(source, diameter_A=p.diameter_A or source.diameter_A)


def _contents(source: PickSet, at_most: int) -> tuple[dict[str, str], list[str]]:
    """Return some micrographs, name -> fingerprint of the file, and why others cannot be used."""
    table = source.micrographs
    paths = {
        str(n): Path(str(path))
        for n, path, status in zip(table["name"], table["path"], table["status"], strict=True)
        if path is not None and status == "found"
    }
    contents, notes = {}, []
    if missing := len(table) - len(paths):
        notes.append(f"{missing} micrographs were not found, and are left out")
    for n in names_in_drawn_order(paths, source.provenance.project_name, at_most):
        try:
            contents[n] = checksum(paths[n])
        except OSError as error:
            notes.append(f"{paths[n]}: cannot be read: {error.strerror or error}")
    return contents, notes


def _reference(p: ImproveParameters, database: Database, project: str) -> PickSet | None:
    """Return the picks that must be found: those named, or the best entry of the project."""
    if p.reference:
        return load_with_diameter(database, p.reference)
    if not p.entry:
        return None
    home = p.entry.partition("/")[0]
    chosen = best_of(project, [e for e in database.entries() if e.project == home]).entry
    return database.load(chosen) if chosen else None


def _is_detector(model: Path) -> bool:
    from cryoflow.detector.bundle import is_detector

    return is_detector(model)


def _is_of_detector(picks: PickSet) -> bool:
    """Return whether our detector picked them: an un-picked entry has scores of this kind, too, but from an
    un-picker."""
    from cryoflow.parameters import CALIBRATED

    return picks.provenance.kind == Kind.AUTO_PICK and picks.score_kind == CALIBRATED


def cleaner(model: Path, diameter_A: float) -> Clean:
    """Return what keeps the picks that a model takes for particles."""
    if _is_detector(model):
        from cryoflow.detector.bundle import Detector
        from cryoflow.unpicker.unpick_with_detector import unpick_with_detector

        detector = Detector.load(model)
        return lambda picks: unpick_with_detector(detector, picks, diameter_A=diameter_A)[0]
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.unpick import unpick

    bundle = ModelBundle.load(model)
    return lambda picks: unpick(bundle, picks)[0]


def _base_model(p: ImproveParameters, registry: ModelRegistry, name: str) -> str:
    """Return the model that picks first: that given, the version in use, or the picker's most general one."""
    if p.model:
        return str(find_model(p.model, database=p.database))
    current = registry.current(name) if registry.holds(name) else None
    if current is not None:
        return str(current.model)
    names = picker(p.picker).model_names
    if not names:
        raise ParameterError(f"{p.picker} comes with no model: give {{model}}, or {{first}}, the picks to begin with.")
    return names[-1]


def _executor_of_other(p: ImproveParameters, name: str, model: str) -> Executor:
    """Return what runs another picker: with the same resources, and its programs from the site's settings."""
    other = PickParameters(
        picker=name,
        model=model,
        output=p.output,
        micrographs=(p.output,),
        slurm=p.slurm,
        sbatch=p.sbatch,
        gpu_numbers=p.gpu_numbers,
        gpus=p.gpus,
        cpus=p.cpus,
        timeout_h=p.timeout_h,
    )
    return executor_of(other)


def _registered(
    p: ImproveParameters,
    registry: ModelRegistry,
    name: str,
    result: ImproveResult,
    key: str,
    source: PickSet,
    n_micrographs: int,
) -> tuple[ModelVersion | None, list[str]]:
    """Add the best model to the registry once, and put it into use where it was compared with the version in use.

    Returns
    -------
    version
        None where no round was better than the base model.
    notes
        Versions that cannot be read, and why the version is not in use.
    """
    best, base = result.best, result.rounds[0]
    if best.number == 0:
        return None, []
    project = source.provenance.project_name
    mark = f"{key}-{best.number}"
    versions, errors = registry.readable_versions(name)
    there = next((v for v in versions if any(t.fingerprint == mark for t in v.card.trained_on)), None)
    notes = [] if there else [f"{name}@{version_name(n)} may be this model, too: {e}" for n, e in errors.items()]
    current = registry.current(name)
    if there and current and there.number == current.number:
        return there, []
    if there and current and any(switch.version == there.number for switch in registry.history(name)):
        return there, [f"{there.label} was in use before {current.label}, and is not put into use again"]
    if there and current and there.card.status == "candidate":
        return there, [f"{there.label} is not in use: {'; '.join(there.card.reasons)}"]
    compared = current is None or base.model == str(current.model)
    reasons = (best.why,) if compared else (best.why, f"not compared with {current.label if current else ''}")
    in_use = current.number if current else None
    version = there or registry.add(
        name,
        KINDS[p.picker],
        _model_folder(p.picker, Path(best.model), p.output.absolute() / BEST),
        trained_on=(TrainedOn(project, (p.entry or project,), mark, n_micrographs, len(result.picks)),),
        metrics={project: _metrics(result)},
        status="accepted" if compared else "candidate",
        reasons=reasons,
        compared_with=in_use if compared else None,
    )
    if not compared:
        # An accepted version that a kill left was compared with another one: its own reasons do not name this one.
        label = current.label if current else ""
        return version, [*notes, f"{version.label} was not compared with {label}, and is not in use"]
    try:
        return registry.promote(name, version.number, "; ".join(reasons), expected=in_use), notes
    except OtherInUse as error:  # what a user put into use meanwhile stays
        return version, [*notes, str(error)]


def _metrics(result: ImproveResult) -> Mapping[str, float]:
    return {"score": result.best.score, "score_before": result.rounds[0].score}


def _model_folder(name: str, model: Path, place: Path) -> Path:
    """Copy a model with what picking needs beside it, without checkpoints and micrographs, and return the folder."""
    with folders.replacing_folder(place) as hidden:
        if model.name == picker(name).model_file:
            from cryoflow.detector.bundle import Detector

            Detector.load(model.parent).save(hidden)
        else:
            shutil.copy2(model, hidden / model.name)
            training = next(f for f in model.parents if manifests.is_manifest(f / manifests.NAME))
            for beside in (manifests.NAME, manifests.SETTINGS):
                shutil.copy2(training / beside, hidden / beside)
    return place
