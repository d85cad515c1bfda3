"""A job's outputs where `job.json` is missing or stale: from its `.csg` files, else from the names of its datasets."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cryoflow.errors import BadInput, OverBudget
from cryoflow.formats.cs import read_cs_header
from cryoflow.projects.cryosparc.job_json import Group, JobFile, Slot
from cryoflow.storage.parsing import read_yaml

log = logging.getLogger(__name__)
_UID = re.compile(r"(?:cryosparc_)?(?:(P\d+)_)?(J\d+)_")
_PASSTHROUGH = re.compile(r"passthrough_(\w+)\.cs")
_ITERATION = re.compile(r"(?:class_(\d+)_)?(?:(\d{3,5})_|(final)_)?particles(_\w+)?\.cs")
_FIXED = {  # file name -> (group, job type that writes it)
    "picked_particles.cs": ("particles", "template_picker_gpu"),
    "topaz_picked_particles.cs": ("particles", "topaz_extract"),
    "extracted_particles.cs": ("particles", "extract_micrographs_multi"),
    "particles_selected.cs": ("particles_selected", "select_2D"),
    "particles_excluded.cs": ("particles_excluded", "select_2D"),
    "imported_particles.cs": ("imported_particles", "import_particles"),
    "particles_kept.cs": ("particles_kept", "remove_duplicate_particles"),
}
_SLOT = re.compile(
    r"_(blob|location|ctf|alignments\w*|pick_stats|filament|sym_expand|micrograph_blob\w*|mscope_params)"
)
_SPLIT = re.compile(r"(split_\d+|remainder)(?:_particles)?\.cs")


def read_csg(path: Path) -> Group:
    """Return the output group that a `.csg` file describes; `>` before a file name means: beside the `.csg` file.

    Raises
    ------
    BadInput
        Where it is no such file.
    """
    try:
        found = read_yaml(path)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    group = found.get("group") if isinstance(found, dict) else None
    results = found.get("results") if isinstance(found, dict) else None
    if not isinstance(group, dict) or not isinstance(results, dict):
        raise BadInput(path, "is not a CryoSPARC group file: it has no group or no results.")
    slots = []
    n_items: int | None = None
    for name, result in results.items():
        if isinstance(name, str) and isinstance(result, dict) and isinstance(result.get("metafile"), str):
            count = result.get("num_items")
            count = count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None
            n_items = count if n_items is None else n_items
            metafile = result["metafile"].removeprefix(">")
            slots.append(Slot(name, (metafile,), count, "passthrough" in metafile))
    return Group(str(group.get("name", "")), str(group.get("type", "")), tuple(slots), path.parent, n_items)


def from_csg(folder: Path, uid: str) -> JobFile | None:
    """Return what the `.csg` files of a job's folder say, None where there are none that can be read."""
    groups = []
    for name in sorted(_names(folder)):
        if name.endswith(".csg") and not name.startswith("."):
            try:
                groups.append(read_csg(folder / name))
            except OverBudget as error:
                log.warning("%s", error)
            except BadInput:
                continue  # the file names are asked next
    if not groups:
        return None
    return JobFile(uid, job_type=guess_job_type(folder), status="completed", groups=tuple(groups), source=".csg files")


def job_of_name(name: str) -> str:
    """Return the job that the name of a dataset begins with; empty where it names none.

    >>> job_of_name("cryosparc_P12_J11_004_particles.cs"), job_of_name("picked_particles.cs")
    ('J11', '')
    """
    match = _UID.match(name)
    return match[2] if match else ""


def project_of_name(name: str) -> str:
    """Return the project that the name of a dataset begins with; empty where it names none.

    >>> project_of_name("cryosparc_P12_J11_004_particles.cs")
    'P12'
    """
    match = _UID.match(name)
    return match[1] or "" if match else ""


def earlier_iterations(names: Iterable[str]) -> set[str]:
    """Return those datasets of which a later iteration, of the same job and class, is among the names.

    >>> sorted(earlier_iterations(["J11_001_particles.cs", "J11_004_particles.cs", "J12_001_particles.cs"]))
    ['J11_001_particles.cs']
    """
    iterations: dict[tuple[str, ...], list[tuple[int, int, str]]] = {}
    for name in names:
        if match := _ITERATION.fullmatch(_plain(name)):
            class_number, iteration, final, rest = match.groups()
            which = (project_of_name(name), job_of_name(name), class_number or "", rest or "")
            iterations.setdefault(which, []).append((int(bool(final)), int(iteration or -1), name))
    return {name for found in iterations.values() for *_, name in sorted(found)[:-1]}


def from_names(folder: Path, uid: str, names: Iterable[str] | None = None) -> JobFile | None:
    """Return what the names of a job's datasets say, None where none is of particles. Of iterations, the last counts.

    `names` are those of the job in a folder of several; by default all in the folder.
    """
    own: dict[str, tuple[tuple[int, int], str]] = {}  # group -> ((is final, iteration), file)
    passed: dict[str, list[str]] = {}
    for name in sorted(_names(folder) if names is None else names):
        plain = _plain(name)
        if plain.startswith("templates") or not plain.endswith(".cs"):
            continue
        if match := _PASSTHROUGH.fullmatch(plain):
            passed.setdefault(match[1], []).append(name)
        elif plain in _FIXED:
            own[_FIXED[plain][0]] = ((1, 0), name)
        elif match := _SPLIT.fullmatch(plain):
            own[match[1]] = ((1, 0), name)
        elif match := _ITERATION.fullmatch(plain):
            class_number, iteration, final, rest = match.groups()
            group = f"particles_class_{int(class_number)}" if class_number else f"particles{rest or ''}"
            own[group] = max(own.get(group, ((-1, -1), "")), ((int(bool(final)), int(iteration or -1)), name))
    if "particles" in own and any("_class_" in group or group.endswith("all_classes") for group in (*own, *passed)):
        own["particles_all_classes"] = own.pop("particles")
    all_classes = "particles_all_classes"
    groups = []
    for group in sorted(set(own) | {re.sub(_SLOT.pattern + "$", "", name) for name in passed if "particles" in name}):
        slots = [slot for name in ([own[group][1]] if group in own else []) for slot in _slots(folder / name, False)]
        for passed_group, its_names in passed.items():  # one file a slot from 4.5 on: ..._particles_selected_blob.cs
            per_slot = passed_group.startswith(group) and _SLOT.fullmatch(passed_group[len(group) :])
            if passed_group == group or per_slot or (passed_group == all_classes and "_class_" in group):
                slots += [slot for name in its_names for slot in _slots(folder / name, True)]
        if slots:
            groups.append(Group(group, "particle", tuple(slots), folder))
    if not groups:
        return None
    return JobFile(uid, job_type=guess_job_type(folder), groups=tuple(groups), source="names of its files")


def guess_job_type(folder: Path) -> str:
    """Return the type of a job from the names of its datasets, empty where several types write such names."""
    plain = sorted(_plain(name) for name in _names(folder) if name.endswith(".cs"))
    for name in plain:
        if name in _FIXED:
            return _FIXED[name][1]
    if any(_SPLIT.fullmatch(name) for name in plain):
        return "particle_sets"
    matches = [match for name in plain if (match := _ITERATION.fullmatch(name))]
    if any(match[3] for match in matches):
        return "homo_abinit"
    if any(match[1] for match in matches):
        return "hetero_refine"
    if any(_PASSTHROUGH.fullmatch(name) for name in plain) and any("class_averages" in name for name in plain):
        return "class_2D"
    return ""


def exported_groups(project: Path) -> dict[str, list[Group]]:
    """Return groups of particles in `exports/`, by the job that they were exported from."""
    found: dict[str, list[Group]] = {}
    for kind in ("groups", "jobs"):
        top = project / "exports" / kind
        for folder in sorted(_names(top)):
            match = re.search(r"(?:^|_)(J[0-9]{1,9})(?:_|$)", folder)
            if not match:
                continue
            for name in sorted(_names(top / folder)):
                if name.endswith(".csg"):
                    try:
                        group = read_csg(top / folder / name)
                    except BadInput:
                        continue
                    if group.item_type == "particle":
                        found.setdefault(match[1], []).append(group)
    return found


def _plain(name: str) -> str:
    return _UID.sub("", name, count=1) if _UID.match(name) else name


def _slots(path: Path, is_passthrough: bool) -> list[Slot]:
    """Return one slot for each prefix among a dataset's columns; none where it cannot be read."""
    try:
        header = read_cs_header(path)
    except BadInput:
        return []
    prefixes = dict.fromkeys(name.partition("/")[0] for name in header.dtype.names or () if "/" in name)
    return [Slot(prefix, (path.name,), header.n_rows, is_passthrough) for prefix in prefixes]


def _names(folder: Path) -> Iterable[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return ()
