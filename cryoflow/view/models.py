"""The models page: versions of the registry with their measures, and trainings with their curves while they run."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cryoflow.errors import BadInput, CryoflowError
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import ModelVersion, version_name
from cryoflow.storage import inputs
from cryoflow.storage.parsing import parse_json, read_record, validated
from cryoflow.view.answers import printable

MOST_FOLDERS = 200
"""Most folders of trainings that are looked for in one folder."""
MOST_COLUMNS = 6
"""Most versions whose measures stand side by side; the newest ones, and the one in use."""
RUNS_FOR_S = 3600.0
"""Seconds after its last epoch for which an unfinished training counts as running."""
_DESCRIPTION, _METRICS, _HISTORY = "bundle.json", "metrics.json", "history.json"
_STATES = (("checkpoints/state.npz", "history"), ("state.npz", "described"))
"""State of a running training below its folder, and the array with its history: of the unpicker, of the detector."""
_UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError, BadInput)


@dataclass(frozen=True)
class ChartLine:
    """One line of a plot, as the points of an SVG polyline."""

    kind: str
    points: str


@dataclass(frozen=True)
class Plot:
    """A plot of one measure by epoch, with the values at the ends of its axis."""

    title: str
    low: str
    high: str
    n: int
    lines: tuple[ChartLine, ...]


@dataclass(frozen=True)
class Training:
    """A folder of a training: finished with its measures, or under way."""

    name: str
    state: str
    epochs: int
    curves: tuple[Plot, ...]
    measures: tuple[tuple[str, str], ...]
    problem: str


@dataclass(frozen=True)
class VersionRow:
    """One version of a model in the registry."""

    name: str
    state: str
    written: str
    parent: str
    learned_from: str
    f1: str
    reasons: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True)
class MeasureRow:
    """One measure of one project: its value for each version that is shown, and whether it is the best one."""

    project: str
    measure: str
    values: tuple[tuple[str, bool], ...]


@dataclass(frozen=True)
class RegisteredModel:
    """A model of the registry and its versions, newest first."""

    name: str
    kind: str
    in_use: str
    switched: str
    versions: tuple[VersionRow, ...]
    columns: tuple[str, ...]
    measures: tuple[MeasureRow, ...]
    curves: tuple[Plot, ...]
    problem: str


def registered_models(roots: Sequence[Path]) -> list[RegisteredModel]:
    """Return the models of the registries in some folders."""
    found = []
    for root in roots:
        registry = ModelRegistry(root)
        try:
            names = registry.names()
        except OSError:
            continue
        found += [_registered(registry, name) for name in names]
    return found


def trainings(roots: Sequence[Path]) -> list[Training]:
    """Return the trainings in some folders: the folder itself where it is one, else those in it."""
    found: list[Path] = []
    for root in roots:
        if _is_training(root):
            found.append(root)
            continue
        try:
            inner = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))[:MOST_FOLDERS]
        except OSError:
            continue
        found += filter(_is_training, inner)
    return [_training(folder) for folder in found]


def _is_training(folder: Path) -> bool:
    return (folder / _DESCRIPTION).is_file() or _state_of(folder) is not None


def _registered(registry: ModelRegistry, name: str) -> RegisteredModel:
    versions: dict[int, ModelVersion] = {}
    problems: dict[int, str] = {}
    for number in reversed(registry.numbers(name)):
        try:
            versions[number] = registry.version(name, number)
        except (CryoflowError, OSError) as error:
            problems[number] = printable(error)
    try:
        history, problem = registry.history(name), ""
    except (CryoflowError, OSError) as error:
        history, problem = (), printable(error)
    in_use = history[-1].version if history else 0
    used = {s.version for s in history}
    rows = [
        _version_row(versions[n], in_use, used)
        if n in versions
        else VersionRow(version_name(n), "cannot be read", "", "", "", "", (), problems[n])
        for n in sorted({*versions, *problems}, reverse=True)
    ]
    shown = sorted({*sorted(versions)[-MOST_COLUMNS:], *({in_use} & set(versions))})
    newest = versions[max(versions)] if versions else None
    try:
        curves = _curves(_history(newest.model)) if newest else ()
    except _UNREADABLE:
        curves = ()  # a model of another program has no history of ours
    return RegisteredModel(
        name=name,
        kind=newest.card.kind if newest else "",
        in_use=version_name(in_use) if in_use else "",
        switched=printable(f"since {_minutes(history[-1].when)}: {history[-1].reason}") if history else "",
        versions=tuple(rows),
        columns=tuple(version_name(n) for n in shown),
        measures=_measures([versions[n] for n in shown]),
        curves=curves,
        problem=problem,
    )


def _version_row(version: ModelVersion, in_use: int, used: set[int]) -> VersionRow:
    card = version.card
    state = "in use" if version.number == in_use else "was in use" if version.number in used else card.status
    n_micrographs, n_picks = (sum(getattr(t, of) for t in card.trained_on) for of in ("n_micrographs", "n_picks"))
    values = [m["f1"] for m in card.metrics.values() if math.isfinite(m.get("f1", math.nan))]
    return VersionRow(
        name=version_name(version.number),
        state=state,
        written=_minutes(card.written),
        parent=version_name(card.parent) if card.parent else "",
        learned_from=f"{_counted(len(card.trained_on), 'project')}, {_counted(n_micrographs, 'micrograph')}, "
        f"{_counted(n_picks, 'pick')}"
        if card.trained_on
        else "",
        f1=f"{sum(values) / len(values):.3f}" if values else "",
        reasons=tuple(map(printable, card.reasons)),
    )


def _measures(versions: Sequence[ModelVersion]) -> tuple[MeasureRow, ...]:
    """Return each measure of each project; the best value is marked where more is better."""
    names = sorted({(p, m) for v in versions for p, of in v.card.metrics.items() for m in of})
    rows = []
    for project, measure in names:
        values = [v.card.metrics.get(project, {}).get(measure, math.nan) for v in versions]
        known = [v for v in values if math.isfinite(v)]
        best = max(known) if len(known) > 1 and measure in ("f1", "precision", "recall") else math.nan
        cells = tuple((f"{v:.3f}" if math.isfinite(v) else "–", v == best) for v in values)
        rows.append(MeasureRow(printable(project), printable(measure).replace("_", " "), cells))
    return tuple(rows)


def _training(folder: Path) -> Training:
    curves: tuple[Plot, ...] = ()
    measures: tuple[tuple[str, str], ...] = ()
    state, n_epochs, problem = "finished", 0, ""
    try:
        epochs = _history(folder)
        n_epochs, curves = len(epochs), _curves(epochs)
        if (folder / _DESCRIPTION).is_file():
            record = read_record(folder / _METRICS, dict[str, object])
            measures = tuple(
                (printable(name).replace("_", " "), f"{value:.4g}")
                for name, value in record.items()
                if isinstance(value, int | float)
            )
        else:
            written = _state_of(folder)
            state = "running" if written and time.time() - written[2] < RUNS_FOR_S else "stopped"
    except _UNREADABLE as error:
        problem = f"cannot be read: {printable(error)}"
    return Training(printable(folder.name), state, n_epochs, curves, measures, problem)


def _state_of(folder: Path) -> tuple[Path, str, float] | None:
    """Return the file with the state of an unfinished training, the array with its history, and when it was written."""
    for name, array in _STATES:
        try:
            return folder / name, array, (folder / name).stat().st_mtime
        except OSError:
            continue
    return None


def _history(folder: Path) -> list[Mapping[str, float]]:
    """Return the measures of each epoch, of a finished training or of one under way."""
    if (folder / _HISTORY).is_file():
        return read_record(folder / _HISTORY, list[Mapping[str, float]])
    if state := _state_of(folder):
        file, array, _ = state
        epochs = parse_json(file, inputs.read_npz(file, array)[array].tobytes())
        return validated(file, epochs.get("history") if isinstance(epochs, dict) else epochs, list[Mapping[str, float]])
    return []


def _curves(epochs: Sequence[Mapping[str, float]]) -> tuple[Plot, ...]:
    """Return a plot for each measure of validation, together with the same measure of training where it is known."""
    keys = {key.removeprefix(p): key for e in epochs for p in ("val_", "validation_") for key in e if key.startswith(p)}
    found = []
    for name, key in sorted(keys.items()):
        lines = {kind: _values(epochs, of) for kind, of in (("train", name), ("validation", key))}
        known = np.concatenate([v[np.isfinite(v)] for v in lines.values()])
        if not len(known):
            continue
        low, high = float(known.min()), float(known.max())
        drawn = tuple(ChartLine(kind, _points(values, low, high)) for kind, values in lines.items())
        found.append(Plot(name.replace("_", " "), f"{low:.3g}", f"{high:.3g}", len(epochs), drawn))
    return tuple(found)


def _values(epochs: Sequence[Mapping[str, float]], key: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    numbers = (e.get(key) for e in epochs)
    return np.array([v if isinstance(v, int | float) and not isinstance(v, bool) else math.nan for v in numbers], float)


def _points(values: np.ndarray[tuple[int], np.dtype[np.float64]], low: float, high: float) -> str:
    """Return the points of a line in the coordinates of the plot: x from 40 to 250, y from 130 up to 14."""
    x = 40 + 210 * np.arange(len(values)) / max(1, len(values) - 1)
    y = 130 - 116 * (values - low) / ((high - low) or 1)
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True) if math.isfinite(b))


def _minutes(when: str) -> str:
    """Return a time of ISO 8601 without its seconds, as people read it."""
    return printable(when)[:16].replace("T", " ")


def _counted(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"
