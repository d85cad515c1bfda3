"""What a job inherits from the jobs before it: its kind, its micrographs, its binning."""

from __future__ import annotations

import re
from collections.abc import Collection

from cryoflow.picks import Kind
from cryoflow.projects.relion.job_graph import Pipeline
from cryoflow.projects.relion.job_options import job_options
from cryoflow.projects.relion.job_types import TYPE_FOLDERS, job_type, type_label

_IN_2D = {Kind.CLASS_2D}
_IN_3D = {Kind.CLASS_3D, Kind.REFINE_3D, Kind.AB_INITIO}
_PICKING = {Kind.EXTRACT, Kind.AUTO_PICK, Kind.MANUAL_PICK}


def kind_of(pipeline: Pipeline, process: str) -> Kind:
    """Return the kind of a job by its type."""
    known = pipeline.processes.get(process)
    return job_type(known.type_label).kind if known else Kind.OTHER


def select_kind(pipeline: Pipeline, process: str, names: Collection[str]) -> Kind:
    """Return whether a selection is one of 2D classes, of 3D classes, or neither.

    Its label or `class_averages.star` say so, else the job whose output it read; a selection of particles inherits
    from the first such job before it.
    """
    known = pipeline.processes.get(process)
    made = pipeline.edges_out.get(process, ())
    if "class_averages.star" in names or any(node.endswith("/class_averages.star") for node in made):
        return Kind.SELECT_2D
    if known and known.type_label.startswith("relion.select.class2dauto"):
        return Kind.SELECT_2D
    waiting, seen = [process], {process}
    while waiting:
        job = waiting.pop(0)
        for node in _particle_inputs(pipeline, job):
            maker = pipeline.process_of(node)
            kind = kind_of(pipeline, maker) if maker else _kind_of_folder(node)
            if kind in _IN_2D:
                return Kind.SELECT_2D
            if kind in _IN_3D:
                return Kind.SELECT_3D
            if maker and maker not in seen:
                seen.add(maker)
                waiting.append(maker)
    return Kind.SELECT


def _particle_inputs(pipeline: Pipeline, process: str) -> tuple[str, ...]:
    """Return what a selection read, the model that it shows first; micrographs, picks and maps lead nowhere."""
    options = job_options(pipeline.folder(process))
    named = [pipeline.resolved(options[key]) for key in ("fn_model", "fn_data") if options.get(key, "").strip()]
    nodes = [*named, *pipeline.inputs(process)]
    return tuple(
        n for n in nodes if n.endswith(".star") and not pipeline.is_micrographs(n) and "coords_suffix" not in n
    )


def _kind_of_folder(node: str) -> Kind:
    folder = node.split("/")[0]
    return job_type(type_label("", folder)).kind if folder in TYPE_FOLDERS else Kind.OTHER


def micrograph_stars(pipeline: Pipeline, process: str) -> tuple[str, ...]:
    """Return tables of micrographs that a job goes back to, the nearest first."""
    named = []
    options = job_options(pipeline.folder(process))
    for key in ("star_mics", "fn_input_autopick", "fn_in"):
        if value := options.get(key, "").strip():
            named.append(pipeline.resolved(value))
    nodes = [node for _, node in pipeline.ancestors(process) if pipeline.is_micrographs(node)]
    return tuple(dict.fromkeys([n for n in named if n.endswith(".star")] + nodes))


def micrograph_tables(pipeline: Pipeline) -> tuple[str, ...]:
    """Return all tables of micrographs that the jobs of a project wrote, that of the newest job last."""
    nodes = {node for made in pipeline.edges_out.values() for node in made if pipeline.is_micrographs(node)}
    return tuple(sorted(nodes, key=lambda node: (re.findall(r"job(\d+)", node) or ["0"])[-1].zfill(9)))


def searched_micrographs(pipeline: Pipeline, process: str) -> tuple[str, ...]:
    """Return the tables of all micrographs in which the particles of a job were looked for: what its picking jobs
    read."""
    found: list[str] = []
    waiting, seen = [process], {process}
    while waiting:
        job = waiting.pop(0)
        nodes = pipeline.inputs(job)
        if kind_of(pipeline, job) in _PICKING:
            tables = [node for node in nodes if pipeline.is_micrographs(node)]
            found += tables
            if tables:
                continue
        for node in nodes:
            maker = pipeline.process_of(node)
            if maker and maker not in seen and not pipeline.is_micrographs(node):
                seen.add(maker)
                waiting.append(maker)
    return tuple(dict.fromkeys(found))


def option_of_ancestor(pipeline: Pipeline, process: str, kind_folder: str, option: str) -> str:
    """Return option value of the closest ancestor of that type (or of the job itself), or ""."""
    jobs = [process, *(maker for _, node in pipeline.ancestors(process) if (maker := pipeline.process_of(node)))]
    for job in dict.fromkeys(jobs):
        if job.split("/")[0] == kind_folder and (value := job_options(pipeline.folder(job)).get(option, "").strip()):
            return value
    return ""
