"""Which files hold the outputs of a project's jobs today, and where a job's inputs lead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.cs import CsHeader, read_cs_header
from cryoflow.picks import Kind
from cryoflow.projects.cryosparc.job_json import Group, JobFile, read_job_json, read_json
from cryoflow.projects.cryosparc.job_types import kind_of
from cryoflow.projects.cryosparc.without_json import exported_groups, from_csg, from_names

JOB_NAME = re.compile(r"J[0-9]{1,9}")


@dataclass(frozen=True)
class DatasetTable:
    """A dataset that is there and whose head is sound."""

    path: Path
    header: CsHeader

    def has(self, column: str, shape: tuple[int, ...] = ()) -> bool:
        """Return whether it has this column of numbers, of this shape in each row."""
        if column not in (self.header.dtype.names or ()):
            return False
        field = self.header.dtype[column]
        return field.shape == shape and field.base.kind in "iuf"

    @property
    def has_positions(self) -> bool:
        """Return whether it has positions of particles and their micrographs."""
        names = ("location/micrograph_path", "location/micrograph_uid", "location/micrograph_shape")
        is_on_some = self.has_text(names[0]) or self.has(names[1]) or self.has(names[2], (2,))
        return self.has("location/center_x_frac") and self.has("location/center_y_frac") and is_on_some

    def shape_of(self, column: str) -> tuple[int, ...]:
        """Return the shape of this column in each row; empty where it is a single number or is not there."""
        return self.header.dtype[column].shape if column in (self.header.dtype.names or ()) else ()

    def has_text(self, column: str) -> bool:
        """Return whether it has this column of text."""
        return column in (self.header.dtype.names or ()) and self.header.dtype[column].kind in "SUO"


@dataclass(frozen=True)
class SlotFile:
    """The table that holds a slot's columns `<slot>/...`, and whether the job only handed it on."""

    table: DatasetTable
    is_passthrough: bool


@dataclass(frozen=True)
class OutputDatasets:
    """An output group of a job with the files that are there.

    Attributes
    ----------
    lost
        Slots whose files are gone.
    problems
        Files that are there but cannot be read.
    is_damaged
        Whether one of those is of a slot that the job made itself: what it decided is then not known.
    """

    name: str
    item_type: str
    slots: Mapping[str, SlotFile]
    n_items: int | None = None
    lost: tuple[str, ...] = ()
    problems: tuple[BadInput, ...] = ()
    is_damaged: bool = False

    @property
    def primary(self) -> DatasetTable | None:
        """Return the table whose rows are the output's: one that the job made itself, else that of the positions."""
        own = [slot.table for slot in self.slots.values() if not slot.is_passthrough]
        if own:
            return own[0]
        return self.slots["location"].table if "location" in self.slots else next(iter(self.tables), None)

    @property
    def tables(self) -> list[DatasetTable]:
        """Return all tables, each once."""
        return list({slot.table.path: slot.table for slot in self.slots.values()}.values())


@dataclass(frozen=True)
class Record:
    """A job of a project: what its files state, and its outputs as they are on disk."""

    job_file: JobFile
    folder: Path
    outputs: tuple[OutputDatasets, ...] = ()
    problem: BadInput | None = None
    """Why `job.json` could not be used."""

    @property
    def kind(self) -> Kind:
        """Return what the job did."""
        return kind_of(self.job_file.job_type)

    @property
    def particles(self) -> list[OutputDatasets]:
        """Return the outputs of particles."""
        return [output for output in self.outputs if output.item_type == "particle"]

    def output(self, name: str) -> OutputDatasets | None:
        """Return the output of this name."""
        return next((output for output in self.outputs if output.name == name), None)


class ProjectIndex:
    """The jobs of one project, each read when it is first asked for. Nothing is kept open."""

    def __init__(self, project: Path) -> None:
        self.project = project
        self._records: dict[str, Record] = {}

    @cached_property
    def job_names(self) -> list[str]:
        """Return the names of all jobs by number, including jobs that only the manifest and exports mention."""
        try:
            with os.scandir(self.project) as entries:
                found = {entry.name for entry in entries if JOB_NAME.fullmatch(entry.name) and entry.is_dir()}
        except OSError as error:
            raise BadInput(self.project, f"cannot be listed: {error.strerror or error}.") from error
        try:
            listed = read_json(self.project / "job_manifest.json").get("jobs")
            found |= (
                {name for name in listed if isinstance(name, str) and JOB_NAME.fullmatch(name)}
                if isinstance(listed, list)
                else set()
            )
        except BadInput:
            pass  # the manifest is a help, not a need
        return sorted(found | set(self.exports), key=lambda name: (int(name[1:]), name))

    @cached_property
    def exports(self) -> Mapping[str, list[Group]]:
        """Return the exported groups of particles by job."""
        return exported_groups(self.project)

    def record(self, job: str) -> Record:
        """Return what is known of a job. Never raises for what is wrong with a job."""
        if job not in self._records:
            self._records[job] = self._read(job)
        return self._records[job]

    def _read(self, job: str) -> Record:
        folder = self.project / job
        if not JOB_NAME.fullmatch(job):
            return Record(JobFile(job), folder)
        problem = None
        try:
            job_file = read_job_json(folder, self.project)
        except BadInput as error:
            job_file, problem = JobFile(job, source=""), error
        outputs = resolved(job_file.groups)
        if not _needs_help(job_file, outputs, problem):
            return Record(job_file, folder, outputs)
        for other in (from_csg(folder, job), from_names(folder, job), self._exported(job)):
            if other is None:
                continue
            helped = _merged(outputs, resolved(other.groups), may_add=not outputs)
            if any(output.slots for output in helped if output.item_type == "particle") and helped != outputs:
                if problem is not None:
                    job_file = other
                source = (
                    other.source if problem is not None or not _any_files(outputs) else f"job.json and {other.source}"
                )
                return Record(replace(job_file, source=source), folder, helped, problem)
        return Record(job_file, folder, outputs, problem)

    def _exported(self, job: str) -> JobFile | None:
        groups = self.exports.get(job)
        return JobFile(job, groups=tuple(groups), source="exports") if groups else None

    def ancestors(self, record: Record) -> Iterator[tuple[Record, OutputDatasets]]:
        """Yield outputs that a job was made from, the nearest first; all outputs of a job whose output is not named."""
        to_visit = list(record.job_file.inputs)
        seen: set[tuple[str, str]] = set()
        for uid, group in to_visit:  # grows while it is walked: breadth first
            if (uid, group) in seen or not JOB_NAME.fullmatch(uid):
                continue
            seen.add((uid, group))
            parent = self.record(uid)
            for output in parent.outputs:
                if group in ("", output.name):
                    yield parent, output
            to_visit.extend(parent.job_file.inputs)

    def with_location(self, record: Record, output: OutputDatasets) -> Iterator[tuple[Record, OutputDatasets]]:
        """Yield outputs that may say where the particles of an output are: itself, then its ancestors.

        Tables without rows locate no particle: they are yielded only for an output without particles.
        """
        has_particles = output.primary is not None and output.primary.header.n_rows > 0
        candidates = [(record, output), *((r, o) for r, o in self.ancestors(record) if o.item_type == "particle")]
        for other, candidate in candidates:
            if "location" not in candidate.slots:
                continue
            table = candidate.slots["location"].table
            if table.has_positions and (table.header.n_rows or not has_particles):
                yield other, candidate


def _needs_help(job_file: JobFile, outputs: tuple[OutputDatasets, ...], problem: BadInput | None) -> bool:
    """Return whether other files than `job.json` have to be asked for the outputs."""
    if problem is not None:
        return True
    particles = [output for output in outputs if output.item_type == "particle"]
    if any(output.lost for output in particles):
        return True
    return kind_of(job_file.job_type) is not Kind.OTHER and not _any_files(tuple(particles))


def _any_files(outputs: tuple[OutputDatasets, ...]) -> bool:
    return any(output.slots or output.problems for output in outputs)


def _merged(
    listed: tuple[OutputDatasets, ...], found: tuple[OutputDatasets, ...], *, may_add: bool
) -> tuple[OutputDatasets, ...]:
    """Return what `job.json` says, with slots whose files are gone taken from elsewhere; no outputs unknown to it."""
    by_name = {output.name: output for output in listed}
    for output in found:
        known = by_name.get(output.name)
        if known is None:
            if may_add:
                by_name[output.name] = output
        elif not known.slots:
            by_name[output.name] = output
        else:
            slots = {**output.slots, **known.slots}
            lost = tuple(name for name in known.lost if name not in slots)
            by_name[output.name] = replace(known, slots=slots, lost=lost)
    return tuple(by_name.values())


def resolved(groups: tuple[Group, ...]) -> tuple[OutputDatasets, ...]:
    """Return output groups with the tables that are there; a slot's table is the last of its files that exists."""
    tables: dict[Path, DatasetTable | BadInput | None] = {}
    return tuple(_resolve(group, tables) for group in groups)


def _resolve(group: Group, tables: dict[Path, DatasetTable | BadInput | None]) -> OutputDatasets:
    slots: dict[str, SlotFile] = {}
    lost: list[str] = []
    problems: dict[Path, BadInput] = {}
    damaged: set[str] = set()
    if group.item_type not in ("particle", "exposure"):
        return OutputDatasets(group.name, group.item_type, {}, group.n_items)
    for slot in sorted(group.slots, key=lambda slot: slot.is_passthrough):  # what the job made itself wins
        if slot.name in slots or not slot.files:
            continue
        found = next((t for file in reversed(slot.files) if (t := _table(group.base, file, tables)) is not None), None)
        if found is None:
            lost.append(slot.name)
        elif isinstance(found, BadInput):
            problems[found.path] = found
            if not slot.is_passthrough:
                damaged.add(slot.name)
        elif any(name.startswith(f"{slot.name}/") for name in found.header.dtype.names or ()) and found.has("uid"):
            slots[slot.name] = SlotFile(found, slot.is_passthrough)
    lost = [name for name in dict.fromkeys(lost) if name not in slots]
    is_damaged = not damaged <= set(slots)
    return OutputDatasets(
        group.name, group.item_type, slots, group.n_items, tuple(lost), tuple(problems.values()), is_damaged
    )


def _table(base: Path, file: str, tables: dict[Path, DatasetTable | BadInput | None]) -> DatasetTable | BadInput | None:
    """Return the table in a file, the reason why it cannot be read, or None where there is no such file."""
    path = base / file.removeprefix(">")
    if path not in tables:
        try:
            os.lstat(path)
            tables[path] = DatasetTable(path, read_cs_header(path))
        except BadInput as error:
            tables[path] = error
        except (FileNotFoundError, NotADirectoryError, ValueError):  # the last: a NUL in the name
            tables[path] = None
        except OSError as error:
            tables[path] = BadInput(path, f"cannot be read: {error.strerror or error}.")
    return tables[path]
