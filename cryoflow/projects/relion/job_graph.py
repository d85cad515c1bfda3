"""The graph of a project's jobs, as `default_pipeline.star` has it, completed from the job folders themselves."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.star import read_blocks
from cryoflow.projects.relion.job_options import job_options
from cryoflow.projects.relion.job_types import JOB_FOLDER, TYPE_FOLDERS, node_kind, status_word, type_label
from cryoflow.storage.files import is_file

_ATTEMPTS = 3
"""How often a file is read that RELION may be rewriting just now."""
_MICROGRAPHS_STAR = re.compile(r"(corrected_)?micrographs\w*\.star$")


@dataclass(frozen=True)
class Process:
    """One job of the graph: `Class2D/job008`, its alias `Class2D/LoG` or empty, its type's label, its status."""

    name: str
    alias: str
    type_label: str
    status: str

    @property
    def job(self) -> str:
        """Return the name of the job, such as `job008`."""
        return posixpath.basename(self.name)


@dataclass(frozen=True)
class Pipeline:
    """A project's graph. Names are relative to the project, aliases are resolved."""

    project: Path
    processes: Mapping[str, Process]
    aliases: Mapping[str, str]
    node_kinds: Mapping[str, str]
    edges_in: Mapping[str, tuple[str, ...]]
    edges_out: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def folder(self, process: str) -> Path:
        """Return absolute folder of a job."""
        return self.project / process

    def resolved(self, name: str) -> str:
        """Return a path of the project with an alias replaced by the job that it stands for."""
        name = clean(name)
        parts = name.split("/")
        for n in (2, 3):
            if (head := "/".join(parts[:n])) in self.aliases:
                return "/".join([self.aliases[head], *parts[n:]])
        return name

    def process_of(self, node: str) -> str | None:
        """Return the job that made a file, None for files from outside."""
        parts = self.resolved(node).split("/")
        head = "/".join(parts[:2])
        return head if len(parts) > 2 and (head in self.processes or JOB_FOLDER.fullmatch(parts[1])) else None

    def inputs(self, process: str) -> tuple[str, ...]:
        """Return files that a job read: from the pipeline, else from the job's own copy of it, else from its
        options."""
        if found := self.edges_in.get(process):
            return found
        return _own_inputs(self, process)

    def is_micrographs(self, node: str) -> bool:
        """Return whether a file is a table of micrographs."""
        kind = self.node_kinds.get(node, "")
        return kind == "micrographs" or (
            kind in ("", "data") and bool(_MICROGRAPHS_STAR.match(posixpath.basename(node)))
        )

    def users_of(self, process: str) -> tuple[str, ...]:
        """Return the jobs that read something of a job."""
        return self._users.get(process, ())

    @cached_property
    def _users(self) -> Mapping[str, tuple[str, ...]]:
        users: dict[str, list[str]] = {}
        for job, nodes in self.edges_in.items():
            for maker in dict.fromkeys(maker for node in nodes if (maker := self.process_of(node))):
                users.setdefault(maker, []).append(job)
        return {maker: tuple(jobs) for maker, jobs in users.items()}

    def ancestors(self, process: str) -> Iterator[tuple[str, str]]:
        """Yield (job, file it read), the nearest first, each file once."""
        waiting, seen, jobs = [process], set(), {process}
        while waiting:
            job = waiting.pop(0)
            for node in self.inputs(job):
                if node in seen:
                    continue
                seen.add(node)
                yield job, node
                maker = self.process_of(node)
                if maker and maker not in jobs:
                    jobs.add(maker)
                    waiting.append(maker)


def load_pipeline(project: Path) -> Pipeline:
    """Return the graph of a project; read again only where `default_pipeline.star` has changed or jobs have come or
    gone."""
    try:
        status = os.stat(project / "default_pipeline.star")
        stamp = (status.st_mtime_ns, status.st_size)
    except OSError:
        stamp = (0, 0)
    return _load(project, stamp, tuple(_job_folders(project)))


def clean(name: str) -> str:
    """Return a path without `./`, doubled slashes and a slash at its end."""
    return posixpath.normpath(name.strip()) if name.strip() else ""


@lru_cache(maxsize=64)
def _load(project: Path, stamp: tuple[int, int], folders: tuple[str, ...]) -> Pipeline:
    path = project / "default_pipeline.star"
    notes: list[str] = []
    blocks: dict[str, pd.DataFrame | dict[str, str]] = {}
    if stamp != (0, 0):
        try:
            blocks = _read_whole(path)
        except BadInput as error:
            notes.append(f"default_pipeline.star {error.reason} Jobs were listed from their folders.")
    processes: dict[str, Process] = {}
    for row in _rows(blocks, "pipeline_processes"):
        name = clean(row.get("rlnPipeLineProcessName", ""))
        if not name or name.startswith(("/", "..")):
            continue
        alias = clean(row.get("rlnPipeLineProcessAlias", ""))
        label = type_label(
            row.get("rlnPipeLineProcessTypeLabel", row.get("rlnPipeLineProcessType", "")), name.split("/")[0]
        )
        status = status_word(row.get("rlnPipeLineProcessStatusLabel", row.get("rlnPipeLineProcessStatus", "")))
        processes[name] = Process(name, "" if alias == "None" else alias, label, status)
    for name in folders:
        if name not in processes:
            processes[name] = Process(name, "", type_label("", name.split("/")[0]), "")
    aliases = {p.alias: p.name for p in processes.values() if p.alias}
    bare = Pipeline(project, processes, aliases, {}, {}, {})
    node_kinds = {
        bare.resolved(row.get("rlnPipeLineNodeName", "")): node_kind(
            row.get("rlnPipeLineNodeTypeLabel", row.get("rlnPipeLineNodeType", ""))
        )
        for row in _rows(blocks, "pipeline_nodes")
    }
    edges_in, edges_out = _edges(bare, blocks)
    return Pipeline(project, processes, aliases, node_kinds, edges_in, edges_out, tuple(notes))


def _read_whole(path: Path) -> dict[str, pd.DataFrame | dict[str, str]]:
    """Read a file that RELION may be rewriting just now."""
    for _ in range(_ATTEMPTS - 1):
        try:
            return read_blocks(path)
        except BadInput:
            continue
    return read_blocks(path)


def _edges(
    bare: Pipeline, blocks: Mapping[str, pd.DataFrame | dict[str, str]]
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    edges_in: dict[str, list[str]] = {}
    edges_out: dict[str, list[str]] = {}
    for row in _rows(blocks, "pipeline_input_edges"):
        job = bare.resolved(row.get("rlnPipeLineEdgeProcess", ""))
        edges_in.setdefault(job, []).append(bare.resolved(row.get("rlnPipeLineEdgeFromNode", "")))
    for row in _rows(blocks, "pipeline_output_edges"):
        job = bare.resolved(row.get("rlnPipeLineEdgeProcess", ""))
        edges_out.setdefault(job, []).append(bare.resolved(row.get("rlnPipeLineEdgeToNode", "")))
    return {job: tuple(n) for job, n in edges_in.items()}, {job: tuple(n) for job, n in edges_out.items()}


def _own_inputs(pipeline: Pipeline, process: str) -> tuple[str, ...]:
    folder = pipeline.folder(process)
    if is_file(folder / "job_pipeline.star"):
        try:
            edges_in, _ = _edges(pipeline, read_blocks(folder / "job_pipeline.star"))
            if found := edges_in.get(process):
                return found
        except BadInput:
            pass  # the job's options say the same
    names = (pipeline.resolved(value) for value in job_options(folder).values() if "/" in value)
    return tuple(dict.fromkeys(name for name in names if name.split("/")[0] in TYPE_FOLDERS and name.endswith(".star")))


def _rows(blocks: Mapping[str, pd.DataFrame | dict[str, str]], name: str) -> list[dict[str, str]]:
    """Return rows of a loop, or the one row of a list of pairs."""
    block = blocks.get(name, {})
    if isinstance(block, pd.DataFrame):
        return [
            {str(label): str(value) for label, value in zip(block.columns, row, strict=True)}
            for row in block.itertuples(index=False, name=None)
        ]
    return [dict(block)] if block else []


def _job_folders(project: Path) -> Iterator[str]:
    """Yield `Class2D/job008` for each job folder on the disk, sorted. Aliases are links, and left out."""
    for folder in sorted(TYPE_FOLDERS):
        try:
            with os.scandir(project / folder) as entries:
                names = [e.name for e in entries if JOB_FOLDER.fullmatch(e.name) and e.is_dir()]
        except OSError:
            continue
        yield from (f"{folder}/{name}" for name in sorted(names, key=lambda n: (len(n), n)))
