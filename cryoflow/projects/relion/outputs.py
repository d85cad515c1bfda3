"""Which files of a job hold picks."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.relion_list import SUFFIX_FILE
from cryoflow.formats.star import read_blocks
from cryoflow.formats.star_blocks import walk
from cryoflow.formats.star_words import whole_number
from cryoflow.picks import Kind
from cryoflow.projects.relion.coordinates import files_of_suffix
from cryoflow.projects.relion.job_graph import Pipeline, Process
from cryoflow.projects.relion.job_options import is_yes, job_options
from cryoflow.projects.relion.job_types import job_type, node_kind
from cryoflow.projects.relion.sniff import sniff
from cryoflow.storage.files import is_file

_ITERATION = re.compile(r"run(?:_ct(?P<start>\d+))?_it(?P<iteration>\d+)_data\.star")
_FINAL = re.compile(r"run(?:_ct(?P<start>\d+))?_data\.star")
_MOST_CLASSES = 10_000
"""A larger number is no number of classes, and each class would be an output."""
_SPLIT = re.compile(r"particles_split(?P<number>\d+)\.star")


@dataclass(frozen=True)
class FoundTable:
    """A STAR file with picks, and the suffix of its entry; with `class_number`, only the particles of that class."""

    path: Path
    suffix: str = ""
    class_number: int | None = None


@dataclass(frozen=True)
class FoundTables:
    """The STAR files with picks that a job left.

    Attributes
    ----------
    useless
        Why such a job has no picks, where it has none.
    is_certain
        Whether that holds however the job ended.
    unfinished
        Why they are not final.
    expected
        What was looked for.
    mixes_classes
        All classes, good and bad, are in one file and their number is unknown.
    """

    stars: tuple[FoundTable, ...] = ()
    useless: str = ""
    is_certain: bool = False
    unfinished: str = ""
    expected: str = ""
    mixes_classes: bool = False


def find_outputs(pipeline: Pipeline, process: Process, kind: Kind, names: Collection[str]) -> FoundTables:
    """Return the files with picks in a job's folder, which holds `names`."""
    folder = pipeline.folder(process.name)
    if kind is Kind.REFINE_3D:
        return _refinement(folder, names)
    if kind in (Kind.CLASS_2D, Kind.CLASS_3D):
        last = last_iteration(names)
        found = _expected(folder, "run_itNNN_data.star", [last] if last else [])
        return _by_class(folder, found) if kind is Kind.CLASS_3D else replace(found, mixes_classes=bool(last))
    if kind is Kind.SELECT:
        return _selection(pipeline, process, names)
    if kind in (Kind.MANUAL_PICK, Kind.AUTO_PICK):
        return _picking(pipeline, process, kind, names)
    if kind in (Kind.IMPORT, Kind.EXTERNAL):
        return _from_outside(pipeline, process, kind, names)
    return _curated(pipeline, process, names)


def last_iteration(names: Collection[str]) -> str | None:
    """Return the data file of the highest iteration; of equal ones that of the run continued latest."""
    found = [(int(m["iteration"]), int(m["start"] or -1), m.string) for n in names if (m := _ITERATION.fullmatch(n))]
    return max(found)[2] if found else None


def _expected(folder: Path, expected: str, names: Collection[str]) -> FoundTables:
    return FoundTables(tuple(FoundTable(folder / name) for name in names), expected=expected)


def _refinement(folder: Path, names: Collection[str]) -> FoundTables:
    final = [(int(m["start"] or -1), m.string) for n in names if (m := _FINAL.fullmatch(n))]
    if final:
        return _expected(folder, "run_data.star", [max(final)[1]])
    last = last_iteration(names)
    if last is None:
        return FoundTables(expected="run_data.star")
    reason = f"has not converged: the last it wrote is {last}, there is no run_data.star"
    return FoundTables((FoundTable(folder / last),), unfinished=reason, expected="run_data.star")


def _by_class(folder: Path, found: FoundTables) -> FoundTables:
    """Return one output for each class; where their number is unknown, one that is marked so."""
    if not found.stars:
        return found
    path = found.stars[0].path
    n_classes = _number(job_options(folder).get("nr_classes", "")) or _number_of_classes(path)
    if n_classes == 1:
        return found
    if n_classes is None:
        return replace(found, mixes_classes=True)
    classes = tuple(FoundTable(path, f"class{k}", k) for k in range(1, n_classes + 1))
    return replace(found, stars=classes)


def _number_of_classes(data: Path) -> int | None:
    """Return the number of classes in the first block of the model beside a data file."""
    path = data.with_name(data.name.replace("_data.star", "_model.star"))
    try:
        block = next(walk(path), None)
    except BadInput:
        return None
    return _number(dict(zip(block.columns, block.values, strict=False)).get("rlnNrClasses", "")) if block else None


def _number(text: str) -> int | None:
    number = whole_number(text.strip())
    return number if number and 0 < number <= _MOST_CLASSES else None


def _selection(pipeline: Pipeline, process: Process, names: Collection[str]) -> FoundTables:
    folder = pipeline.folder(process.name)
    splits = sorted((int(m["number"]), m.string) for n in names if (m := _SPLIT.fullmatch(n)))
    if splits:
        return FoundTables(
            tuple(FoundTable(folder / name, f"split{number}") for number, name in splits), expected="particles_splitN"
        )
    if "particles.star" in names:
        return _expected(folder, "particles.star", ["particles.star"])
    made = pipeline.edges_out.get(process.name, ())
    options = job_options(folder)
    takes_micrographs = options.get("fn_mic", "") or any(
        pipeline.is_micrographs(n) for n in pipeline.inputs(process.name)
    )
    only_micrographs = any(name.startswith("micrographs") and name.endswith(".star") for name in names)
    if only_micrographs or (takes_micrographs and not any(n.endswith("particles.star") for n in made)):
        return FoundTables(useless="selects micrographs, not particles", is_certain=True)
    return FoundTables(expected="particles.star")


def _picking(pipeline: Pipeline, process: Process, kind: Kind, names: Collection[str]) -> FoundTables:
    folder = pipeline.folder(process.name)
    options = job_options(folder)
    made = pipeline.edges_out.get(process.name, ())
    if is_yes(options.get("do_startend", "")) or any(
        "startend" in pipeline.node_kinds.get(n, "").lower() for n in made
    ):
        return FoundTables(
            useless="picks are start and end points of helices, not centers of particles", is_certain=True
        )
    if is_yes(options.get("do_topaz_train", "")):
        return FoundTables(useless="trains Topaz, has no picks", is_certain=True)
    word = "manualpick" if kind is Kind.MANUAL_PICK else "autopick"
    for name in (f"{word}.star", f"coords_suffix_{word}.star"):
        if name in names:
            return _expected(folder, name, [name])
    others = sorted(name for name in names if name.startswith(SUFFIX_FILE))
    if not others and files_of_suffix(folder / f"{SUFFIX_FILE}_{word}.star"):
        others = [f"{SUFFIX_FILE}_{word}.star"]  # it is not there, but the files of its ending are
    return _expected(folder, f"{word}.star or coords_suffix_{word}.star", others[:1])


def _from_outside(pipeline: Pipeline, process: Process, kind: Kind, names: Collection[str]) -> FoundTables:
    """Import and External jobs: whatever they say they made, else whatever looks like it."""
    folder = pipeline.folder(process.name)
    stated = {n: pipeline.node_kinds.get(n, "") for n in pipeline.edges_out.get(process.name, ())}
    stated |= _stated_by_job(pipeline, folder)
    prefix = f"{process.name}/"
    wanted = [
        n.removeprefix(prefix)
        for n, what in stated.items()
        if what in ("coordinates", "particles") and n.startswith(prefix)
    ]
    present = [n for n in wanted if is_file(folder / n)]
    if not present and kind is Kind.IMPORT and stated:
        if wanted:
            return FoundTables(expected=", ".join(wanted))
        return FoundTables(useless="imports no picks", is_certain=True)
    if not present:
        stars = sorted(n for n in names if n.endswith(".star") and not n.startswith(("job", "RELION_", "default_")))
        present = [n for n in stars if _has_picks(folder / n)]
        present = present or [n for n in stars if n.startswith(SUFFIX_FILE)]
        for word in ("autopick", "manualpick") if not present else ():
            if files_of_suffix(folder / f"{SUFFIX_FILE}_{word}.star"):
                present = [f"{SUFFIX_FILE}_{word}.star"]
                break
    if not present and not wanted:
        return FoundTables(useless="has no picks", expected="")
    suffixes = ["" if i == 0 else Path(name).stem.replace("_", "-") for i, name in enumerate(present)]
    stars_found = tuple(FoundTable(folder / n, s) for n, s in zip(present, suffixes, strict=True))
    return FoundTables(stars_found, expected=", ".join(wanted) or "a STAR file with coordinates")


def _stated_by_job(pipeline: Pipeline, folder: Path) -> dict[str, str]:
    """Return what an External job wrote into `RELION_OUTPUT_NODES.star`."""
    path = folder / "RELION_OUTPUT_NODES.star"
    if not is_file(path):
        return {}
    try:
        nodes = read_blocks(path).get("output_nodes", {})
    except BadInput:
        return {}
    if isinstance(nodes, dict):
        rows = [
            (
                nodes.get("rlnPipeLineNodeName", ""),
                nodes.get("rlnPipeLineNodeTypeLabel", nodes.get("rlnPipeLineNodeType", "")),
            )
        ]
    else:
        kinds = nodes.get("rlnPipeLineNodeTypeLabel", nodes.get("rlnPipeLineNodeType"))
        rows = [] if kinds is None else list(zip(nodes["rlnPipeLineNodeName"], kinds, strict=True))
    return {pipeline.resolved(name): node_kind(kind) for name, kind in rows if name}


def _has_picks(path: Path) -> bool:
    try:
        content = sniff(path)
    except BadInput:
        return False
    return content.has_coordinates or content.is_coordinate_list


def _curated(pipeline: Pipeline, process: Process, names: Collection[str]) -> FoundTables:
    """Return jobs that hand on particles of others in one table: its name goes by the type."""
    folder = pipeline.folder(process.name)
    files = job_type(process.type_label).files
    options = job_options(folder)
    if is_yes(options.get("do_param_optim", "")):
        return FoundTables(useless="trains parameters of polishing, has no picks", is_certain=True)
    if is_yes(options.get("do_center_mask", "")) or is_yes(options.get("do_center_xyz", "")):
        return FoundTables(useless="particles were recentered on a part of them", is_certain=True)
    if files == ("join_particles.star",) and any(n.startswith("join_") for n in names) and files[0] not in names:
        return FoundTables(useless="joins tables of micrographs or movies", is_certain=True)
    return _expected(folder, files[0], [name for name in files if name in names][:1])
