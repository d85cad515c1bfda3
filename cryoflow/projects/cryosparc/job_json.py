"""`job.json` and `project.json` of all generations as one record.

CryoSPARC 2 to 4 keep `job_type`, `output_results`, `output_result_groups` and `input_slot_groups` at the top level;
CryoSPARC 5 keeps `type`, `outputs`, `inputs` and `params` below `spec`. The keys of version 5 are those of the
published models of cryosparc-tools 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.errors import BadInput, OverBudget
from cryoflow.storage import inputs
from cryoflow.storage.parsing import parse_json

_MAX_BYTES = 256 << 20  # a job of thousands of iterations has a few MiB


@dataclass(frozen=True)
class Slot:
    """One part of an output group: the files that hold its columns `<name>/...`, oldest first, as they are written."""

    name: str
    files: tuple[str, ...]
    n_items: int | None = None
    is_passthrough: bool = False


@dataclass(frozen=True)
class Group:
    """One output of a job: particles, exposures, volumes. Its files are relative to `base`."""

    name: str
    item_type: str
    slots: tuple[Slot, ...]
    base: Path
    n_items: int | None = None


@dataclass(frozen=True)
class JobFile:
    """Values of `job.json`, or values found without it.

    Attributes
    ----------
    inputs
        (job, output group) of everything that is connected, nearest first, without repeats.
    source
        Where the outputs were taken from: `job.json`, `.csg`, `file names` or `exports`.
    """

    uid: str
    job_type: str = ""
    status: str = ""
    title: str = ""
    version: str = ""
    groups: tuple[Group, ...] = ()
    inputs: tuple[tuple[str, str], ...] = ()
    params: Mapping[str, object] = field(default_factory=dict)
    source: str = "job.json"
    is_deleted: bool = False


def read_json(path: Path) -> dict[str, object]:
    """Return the object in a JSON file.

    Raises
    ------
    BadInput
        Where it cannot be read or is none.
    """
    try:
        content = inputs.read_bytes(path, at_most=_MAX_BYTES)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    if content.startswith(b"version https://git-lfs"):
        raise BadInput(path, "is a git-lfs pointer, not the file itself.", "Fetch the content (`git lfs pull`).")
    try:
        found = parse_json(path, content)
    except OverBudget:
        raise
    except BadInput as error:
        raise BadInput(path, "is not JSON, or is cut off.", "CryoSPARC rewrites it when the job is opened.") from error
    if not isinstance(found, dict):
        raise BadInput(path, "holds no JSON object.")
    return found


def read_job_json(folder: Path, project: Path) -> JobFile:
    """Read the `job.json` in a job's folder; values of a wrong type count as missing.

    Raises
    ------
    BadInput
        Where it is missing or no JSON object.
    """
    found = read_json(folder / "job.json")
    spec = _dict(found.get("spec"))
    is_v5 = bool(_text(spec.get("type")))
    inputs = list(_inputs_v5(spec) if is_v5 else _inputs_v4(found))
    inputs += [(uid, "") for uid in _list(found.get("parents")) if isinstance(uid, str)]
    if is_v5:
        params: dict[str, object] = dict(_dict(spec.get("params")))
    else:
        params = {key: _dict(value).get("value") for key, value in _dict(found.get("params_base")).items()}
        params |= {key: _dict(value).get("value") for key, value in _dict(found.get("params_spec")).items()}
    return JobFile(
        uid=_text(found.get("uid")) or folder.name,
        job_type=_text(spec.get("type")) or _text(found.get("job_type")) or _text(found.get("type")),
        status=_text(found.get("status")),
        title=_text(found.get("title")),
        version=program_version(found),
        groups=tuple(_groups_v5(spec, project) if is_v5 else _groups_v4(found, project)),
        inputs=tuple(dict.fromkeys(inputs)),
        params=params,
        is_deleted=found.get("deleted") is True,
    )


def program_version(found: Mapping[str, object]) -> str:
    """Return the version of CryoSPARC that a `job.json` or `project.json` names, without its `v`."""
    for key in ("version", "last_dumped_version", "create_version", "version_created"):
        if isinstance(value := found.get(key), str) and value:
            return value.removeprefix("v")
    return ""


def _groups_v4(found: Mapping[str, object], base: Path) -> Iterator[Group]:
    slots: dict[str, list[Slot]] = {}
    item_types: dict[str, str] = {}
    for result in map(_dict, _list(found.get("output_results"))):
        group, name = _text(result.get("group_name")), _text(result.get("name"))
        if not group or not name:
            continue
        slots.setdefault(group, []).append(_slot(result, name))
        item_types.setdefault(group, _text(result.get("type")).partition(".")[0])
    declared = {_text(g.get("name")): g for g in map(_dict, _list(found.get("output_result_groups")))}
    for name in dict.fromkeys([*filter(None, declared), *slots]):
        entry = declared.get(name, {})
        item_type = _text(entry.get("type")) or item_types.get(name, "")
        yield Group(name, item_type, tuple(slots.get(name, ())), base, _count(entry.get("num_items")))


def _groups_v5(spec: Mapping[str, object], base: Path) -> Iterator[Group]:
    outputs = spec.get("outputs")
    for name, output in _dict(_dict(outputs).get("root", outputs)).items():
        entry = _dict(output)
        results = [_dict(result) for result in _list(entry.get("results"))]
        slots = tuple(_slot(result, _text(result.get("name"))) for result in results if _text(result.get("name")))
        yield Group(name, _text(entry.get("type")), slots, base, _count(entry.get("num_items")))


def _slot(result: Mapping[str, object], name: str) -> Slot:
    files = tuple(file for file in _list(result.get("metafiles")) if isinstance(file, str) and file)
    counts = result.get("num_items")
    last = _list(counts)[-1] if _list(counts) else counts
    return Slot(name, files, _count(last), result.get("passthrough") not in (None, False, ""))


def _inputs_v4(found: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    for group in map(_dict, _list(found.get("input_slot_groups"))):
        for connection in map(_dict, _list(group.get("connections"))):
            yield from _connection(connection, "group_name")


def _inputs_v5(spec: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    inputs = spec.get("inputs")
    for entry in _dict(_dict(inputs).get("root", inputs)).values():
        connections = entry if isinstance(entry, list) else _dict(entry).get("connections")
        for connection in map(_dict, _list(connections)):
            yield from _connection(connection, "output")


def _connection(connection: Mapping[str, object], key: str) -> Iterator[tuple[str, str]]:
    """Yield a connection, and the jobs that single slots of it are taken from instead."""
    if uid := _text(connection.get("job_uid")):
        yield uid, _text(connection.get(key))
    for slot in map(_dict, [*_list(connection.get("slots")), *_list(connection.get("results"))]):
        if uid := _text(slot.get("job_uid")):
            yield uid, _text(slot.get(key))


def _dict(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
