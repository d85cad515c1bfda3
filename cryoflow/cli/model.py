"""`cryoflow model`: list, show, compare and switch versions of trained models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.errors import BadInput, ExitCode
from cryoflow.models.parameters import (
    AddParameters,
    CompareParameters,
    ModelParameters,
    PromoteParameters,
    PruneParameters,
    RegistryParameters,
    VersionParameters,
)
from cryoflow.models.version import version_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryoflow.models.registry import ModelRegistry
    from cryoflow.models.version import ModelVersion

app = App(name="model", help="List, show, compare and switch versions of trained models.", help_format="plaintext")

_MEASURES = {
    "f1": "F1",
    "f1_before": "F1 of the version before",
    "micrographs": "held-out micrographs",
    "agreement": "agreement with the unpicker",
}
"""Words of the table for names of measures."""


@app.command(name="list")
@declared
def list_(parameters: RegistryParameters, *, json: out.Json = False) -> int:
    """List all models, their versions, and which one is in use.

    The exit code is 3 where a version, or the record of the one in use, cannot be read.
    """
    registry = _registry(parameters)
    rows = []
    failed: list[BadInput] = []
    for name in registry.names():
        in_use: int | None = None
        try:
            versions, errors = registry.readable_versions(name)
        except BadInput as error:  # a folder whose name no model can have
            failed.append(error)
            continue
        failed += errors.values()
        try:
            in_use = next((switch.version for switch in reversed(registry.history(name))), 0)
        except BadInput as error:
            failed.append(error)
        cards = {v.number: v.card for v in versions}
        for number in sorted([*cards, *errors]):
            card = cards.get(number)
            rows.append(
                {
                    "version": f"{name}@{version_name(number)}",
                    "in_use": None if in_use is None else number == in_use,
                    "status": card.status if card else "unreadable",
                    "kind": card.kind if card else None,
                    "written": card.written if card else None,
                    "projects": len(card.trained_on) if card else None,
                    "f1": _mean(card.metrics, "f1") if card else None,
                }
            )
    out.emit_table(rows, title=str(registry.root), as_json=json, empty="no models yet")
    for each in failed:
        out.fail(each)
    return ExitCode.PARTLY_FAILED if failed else ExitCode.OK


@app.command
@declared
def show(parameters: VersionParameters, *, json: out.Json = False) -> int:
    """Show what a version is, what it learned from, how good it is, and whether its files are as they were written."""
    version = _find(_registry(parameters), parameters.version)
    card, problems = version.card, version.problems()
    record: dict[str, object] = {
        "version": version.label,
        "folder": version.model,
        "kind": card.kind,
        "status": card.status,
        "reasons": list(card.reasons),
        "written": card.written,
        "parent": card.parent,
        "cryoflow": card.cryoflow,
        "files": "as written" if not problems else "; ".join(problems),
    }
    if json:
        learned = [vars(t) for t in card.trained_on]
        out.emit_json({**record, "trained_on": learned, "metrics": card.metrics, "files": problems})
    else:
        out.emit_record(record)
        out.emit_table([vars(t) for t in card.trained_on], title="learned from", empty="not recorded")
        out.emit_table([{"project": p, **m} for p, m in card.metrics.items()], title="measured", empty="not measured")
    return ExitCode.FAILED if problems else ExitCode.OK


@app.command
@declared
def compare(parameters: CompareParameters, *, json: out.Json = False) -> int:
    """Compare the measures of two versions, project by project."""
    registry = _registry(parameters)
    before, after = (_find(registry, text).card.metrics for text in (parameters.version, parameters.other))
    rows = []
    for project in sorted({*before, *after}):
        old, new = before.get(project, {}), after.get(project, {})
        for measure in sorted({*old, *new}):
            values = old.get(measure, float("nan")), new.get(measure, float("nan"))
            shown = measure if json else _MEASURES.get(measure, measure)
            row = {"project": project, "measure": shown, "before": values[0], "after": values[1]}
            only = "" if old and new else f"measured on {parameters.other if new else parameters.version} only"
            rows.append({**row, "change": values[1] - values[0], "note": only})
    out.emit_table(rows, title=f"{parameters.version} and {parameters.other}", as_json=json, empty="nothing measured")
    return ExitCode.OK


@app.command
@declared
def add(parameters: AddParameters, *, json: out.Json = False) -> int:
    """Copy a trained model into the registry as the next version of NAME."""
    registry = _registry(parameters)
    version = registry.add(parameters.name, parameters.kind, parameters.model)
    if parameters.promote:
        registry.promote(version.name, version.number, "added by hand")
    out.emit_record({"version": version.label, "folder": version.model, "in_use": parameters.promote}, as_json=json)
    return ExitCode.OK


@app.command
@declared
def promote(parameters: PromoteParameters, *, json: out.Json = False) -> int:
    """Put a version into use, after its files were checked."""
    registry = _registry(parameters)
    version = registry.find(parameters.version)
    registry.promote(version.name, version.number, parameters.reason)
    out.emit_record({"in_use": version.label, "folder": version.model}, as_json=json)
    return ExitCode.OK


@app.command
@declared
def rollback(parameters: ModelParameters, *, json: out.Json = False) -> int:
    """Put the version into use that was in use before the current one."""
    registry = _registry(parameters)
    _check_name(registry, parameters.name)
    history = registry.history(parameters.name)
    if len({switch.version for switch in history}) == 1:
        in_use = history[-1].version
        others = [v.label for v in registry.readable_versions(parameters.name)[0] if v.number != in_use]
        raise BadInput(
            registry.root / parameters.name,
            f"no other version than {parameters.name}@{version_name(in_use)} was ever in use.",
            f"It stays in use. Put another one into use: cryoflow model promote {' or '.join(others)}."
            if others
            else "It stays in use, until an update or `cryoflow model add` makes another version.",
        )
    version = registry.rollback(parameters.name)
    out.emit_record({"in_use": version.label, "folder": version.model}, as_json=json)
    return ExitCode.OK


@app.command
@declared
def prune(parameters: PruneParameters, *, json: out.Json = False) -> int:
    """Remove old versions.

    The exit code is 3 where versions are kept because a card cannot be read, or because none is in use.
    """
    registry = _registry(parameters)
    _check_name(registry, parameters.name)
    pruned = registry.prune(parameters.name, parameters.keep)
    out.emit_table([{"removed": label} for label in pruned.removed], as_json=json, empty="nothing to remove")
    for note in pruned.notes:
        out.fail(note)
    return ExitCode.PARTLY_FAILED if pruned.notes else ExitCode.OK


def _registry(parameters: RegistryParameters) -> ModelRegistry:
    from cryoflow.models.registry import ModelRegistry

    database = parameters.database
    # The models lie beside a database, so that a misspelt one would name those of its parent folder.
    if parameters.models is None and database is not None and not database.is_dir():
        raise BadInput(database, "is no database: there is no such folder.", "Or name the folder of models (--models).")
    return ModelRegistry(parameters.root)


def _check_name(registry: ModelRegistry, name: str) -> None:
    """Refuse a name that no model has, as `ModelRegistry.find` does."""
    if name not in registry.names():
        hint = f"Models of {registry.root}: {', '.join(registry.names()) or 'none'}."
        raise BadInput(name, "is no model.", hint)


def _find(registry: ModelRegistry, reference: str) -> ModelVersion:
    """Return the version that a text names; where none of a model is in use, name all of them."""
    if reference in registry.names() and registry.current(reference) is None:
        labels = ", ".join(f"{reference}@{version_name(n)}" for n in registry.numbers(reference))
        raise BadInput(registry.root / reference, "has no version in use.", f"Name one of its versions: {labels}.")
    return registry.find(reference)


def _mean(metrics: Mapping[str, Mapping[str, float]], measure: str) -> float | None:
    values = [m[measure] for m in metrics.values() if measure in m]
    return sum(values) / len(values) if values else None
