"""`cryoflow model`: list, show, compare and switch versions of trained models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.errors import ExitCode
from cryoflow.models.parameters import (
    AddParameters,
    CompareParameters,
    ModelParameters,
    PromoteParameters,
    PruneParameters,
    RegistryParameters,
    VersionParameters,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryoflow.models.registry import ModelRegistry

app = App(name="model", help="List, show, compare and switch versions of trained models.", help_format="plaintext")


@app.command(name="list")
@declared
def list_(parameters: RegistryParameters, *, json: out.Json = False) -> int:
    """List all models, their versions, and which one is in use."""
    registry = _registry(parameters)
    rows = []
    for name in registry.names():
        current = registry.current(name)
        for version in registry.versions(name):
            rows.append(
                {
                    "version": version.label,
                    "in_use": current is not None and current.number == version.number,
                    "status": version.card.status,
                    "kind": version.card.kind,
                    "written": version.card.written,
                    "projects": len(version.card.trained_on),
                    "f1": _mean(version.card.metrics, "f1"),
                }
            )
    out.emit_table(rows, title=str(registry.root), as_json=json, empty="no models yet")
    return ExitCode.OK


@app.command
@declared
def show(parameters: VersionParameters, *, json: out.Json = False) -> int:
    """Show what a version is, what it learned from, how good it is, and whether its files are as they were written."""
    version = _registry(parameters).find(parameters.version)
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
    before, after = (registry.find(text).card.metrics for text in (parameters.version, parameters.other))
    rows = []
    for project in sorted({*before, *after}):
        old, new = before.get(project, {}), after.get(project, {})
        for measure in sorted({*old, *new}):
            values = old.get(measure, float("nan")), new.get(measure, float("nan"))
            row = {"project": project, "measure": measure, "before": values[0], "after": values[1]}
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
    version = _registry(parameters).rollback(parameters.name)
    out.emit_record({"in_use": version.label, "folder": version.model}, as_json=json)
    return ExitCode.OK


@app.command
@declared
def prune(parameters: PruneParameters, *, json: out.Json = False) -> int:
    """Remove old versions."""
    removed = _registry(parameters).prune(parameters.name, parameters.keep)
    out.emit_table([{"removed": label} for label in removed], as_json=json, empty="nothing to remove")
    return ExitCode.OK


def _registry(parameters: RegistryParameters) -> ModelRegistry:
    from cryoflow.models.registry import ModelRegistry

    return ModelRegistry(parameters.root)


def _mean(metrics: Mapping[str, Mapping[str, float]], measure: str) -> float | None:
    values = [m[measure] for m in metrics.values() if measure in m]
    return sum(values) / len(values) if values else None
