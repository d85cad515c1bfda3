"""One entry: the values of its info.txt, and its picks."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from cryoflow.database import layout
from cryoflow.database.data_reader import is_data_text, read_data_text
from cryoflow.database.data_text import MAGIC, DataText
from cryoflow.database.data_text import VERSION as DATA_VERSION
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.entry_manifest import VERSION as MANIFEST_VERSION
from cryoflow.database.entry_manifest import read_manifest
from cryoflow.database.info import Info, OrientationRecord, parse_info, provenance
from cryoflow.database.micrograph_links import read_link
from cryoflow.database.older_text import count_older_data, read_older_data
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.picks import Kind, PickSet, Program, Provenance, confirmed_notes
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import REPAIR_HINT, refuse_newer, unsealed

CURRENT = "current"
"""Status of an entry that is what its job holds; every other word is a mark, such as `deleted` or `stale`."""
DAMAGED = "damaged"
NEWER = "newer"
"""Status of an entry that a newer cryoflow wrote: it is listed, and neither read nor replaced."""


@dataclass(frozen=True)
class Entry:
    """One entry of the database, by its info.txt.

    `pixel_size_A` is the most frequent one where micrographs differ; the picks' own table has each. `status` is
    `current`, the mark that ingest put on it (`deleted`, `stale`, `superseded`), or `damaged`.
    """

    name: str
    """`<project>/<Kind>_<job>[_suffix]`: what the command line takes."""
    folder: Path
    project: str
    """The project's folder in the database."""
    project_path: Path | None
    kind: Kind
    job: str
    suffix: str
    n_picks: int
    n_micrographs: int
    n_missing_micrographs: int
    pixel_size_A: float | None
    box_px: float | None
    diameter_A: float | None
    program: str
    program_version: str
    job_type: str
    job_status: str
    output_group: str
    score_kind: str
    notes: tuple[str, ...]
    orientation: OrientationRecord
    status: str
    reason: str


def read_entry(folder: Path) -> Entry:
    """Return an entry from its info.txt and mark; damaged ones have that status and the reason."""
    entry = _entry_of(folder)
    try:
        info = _read_info(folder)
        entry = replace(
            entry,
            project_path=Path(info.text("Project Path")) if info.text("Project Path") else None,
            n_picks=info.count("Number of Particles"),
            n_micrographs=info.count("Number of Micrographs"),
            n_missing_micrographs=len(info.texts("Missing Micrograph")),
            pixel_size_A=info.number("Pixel Size (A)", "PixelSize", "Pixel Size"),
            box_px=info.number("Box (px)"),
            diameter_A=info.number("Diameter (A)"),
            program=info.text("Program") or entry.program,
            program_version=info.text("Program Version"),
            job_type=info.text("Job Type"),
            job_status=info.text("Job Status"),
            output_group=info.text("Output Group"),
            score_kind=info.text("Score Kind"),
            notes=info.texts("Note"),
            orientation=info.orientation,
        )
        if not info.lines.get("Number of Particles"):
            entry = _counted(entry)
        _check_manifest(folder)
        mark = folder / layout.MARK
        if os.path.lexists(mark):
            record = validated(mark, unsealed(mark, layout.content(mark), layout.MARK_VERSION), _Mark, REPAIR_HINT)
            entry = replace(entry, status=record.status, reason=record.reason)
    except NewerFormat as error:
        entry = replace(entry, status=NEWER, reason=str(error))
    except BadInput as error:
        entry = replace(entry, status=DAMAGED, reason=str(error))
    return entry


@dataclass(frozen=True)
class _Mark:
    """The fields of a mark.json."""

    status: str
    reason: str


def _counted(entry: Entry) -> Entry:
    """Return an entry of the older scripts, whose info.txt has no numbers of picks and micrographs, with these
    counted."""
    try:
        n_micrographs, n_picks = count_older_data(entry.folder / layout.DATA)
    except FileNotFoundError:
        return entry
    return replace(entry, n_micrographs=n_micrographs, n_picks=n_picks)


def check_formats(folder: Path) -> None:
    """Raise `NewerFormat` if a newer cryoflow wrote any file of an entry; damage is passed over."""
    for check in (_read_info, _check_data, _check_manifest, _check_mark):
        try:
            check(folder)
        except NewerFormat:
            raise
        except (BadInput, FileNotFoundError):
            continue


def _check_data(folder: Path) -> None:
    path = folder / layout.DATA
    with layout.opened(path) as file:
        first = file.readline(100)
    if first.startswith(MAGIC):
        refuse_newer(path, first.removeprefix(MAGIC).decode(errors="replace").strip(), DATA_VERSION)


def _check_manifest(folder: Path) -> None:
    """Look at the first field of the manifest; its checksum is compared where it is used."""
    path = folder / MANIFEST
    try:
        with layout.opened(path) as file:
            found = re.match(rb'\{\s*"format": (\d+)', file.read(100))
    except FileNotFoundError:
        return
    if found:
        refuse_newer(path, found[1].decode(), MANIFEST_VERSION)


def _check_mark(folder: Path) -> None:
    path = folder / layout.MARK
    unsealed(path, layout.content(path), layout.MARK_VERSION)


def load_entry(folder: Path) -> PickSet:
    """Return the picks of an entry's folder.

    Raises
    ------
    BadInput
        Where its files are damaged.
    """
    check_formats(folder)
    return pickset_of(folder, _read_picks(folder / layout.DATA))


def pickset_of(folder: Path, text: DataText) -> PickSet:
    """Return the picks of an entry's folder from its data.txt, which was read, and its other files.

    Raises
    ------
    BadInput
        Where its files are damaged.
    """
    info = _read_info(folder)
    micrographs = text.micrographs
    _set_paths(micrographs, text.links, folder.parent.parent / layout.LINKS)
    if (folder / MANIFEST).exists():
        try:
            who = provenance(info)
        except ValueError as error:
            raise BadInput(folder / layout.INFO, f"damaged: {error}.", "Ingest the job again.") from None
        manifest = read_manifest(folder / MANIFEST)
        who = replace(who, sources=manifest.sources)
        if who.program == "file":  # of tables that share a name, the entry's name alone tells which is which
            _, job, suffix = layout.split_entry_name(manifest.entry)
            who = replace(who, job=job, suffix=suffix)
    else:
        who = _older_provenance(folder)
    return PickSet.build(
        who,
        micrographs,
        text.picks,
        box_px=info.number("Box (px)"),
        diameter_A=info.number("Diameter (A)"),
        score_kind=info.text("Score Kind"),
        counts=info.counts,
        notes=confirmed_notes(info.texts("Note")) if info.orientation.verdict == "confirmed" else info.texts("Note"),
    )


def _entry_of(folder: Path) -> Entry:
    """Return an entry of which nothing but its folder is known."""
    project, name = folder.parent.parent.name, layout.entry_name(folder)
    kind, job, suffix = layout.split_entry_name(name)
    return Entry(
        name=f"{project}/{name}",
        folder=folder,
        project=project,
        project_path=None,
        kind=kind,
        job=job,
        suffix=suffix,
        n_picks=0,
        n_micrographs=0,
        n_missing_micrographs=0,
        pixel_size_A=None,
        box_px=None,
        diameter_A=None,
        program=_older_provenance(folder).program,
        program_version="",
        job_type="",
        job_status="",
        output_group="",
        score_kind="",
        notes=(),
        orientation=OrientationRecord(),
        status=CURRENT,
        reason="",
    )


def _read_info(folder: Path) -> Info:
    path = folder / layout.INFO
    try:
        return parse_info(path, layout.content(path).decode())
    except UnicodeDecodeError:
        raise BadInput(path, "damaged: not UTF-8 text.", "Ingest the job again.") from None
    except FileNotFoundError:
        if folder.exists() and not (folder / MANIFEST).exists():
            return Info({})  # an older data.txt alone
        raise


def _read_picks(path: Path) -> DataText:
    return read_data_text(path) if is_data_text(path) else read_older_data(path)


def _set_paths(micrographs: pd.DataFrame, links: Sequence[str], folder: Path) -> None:
    targets = [read_link(folder / link) if "/" not in link else None for link in links]
    paths = [None if t is None else os.path.join(folder, t) for t in targets]  # a relative link starts at its folder
    statuses = list(micrographs["status"])
    for i, (status, path) in enumerate(zip(statuses, paths, strict=True)):
        if status == "found" and path is None:
            statuses[i] = "missing"
        elif status == "missing" and path is not None:
            if os.path.exists(path):  # noqa: PTH110  # Path.exists raises in a closed folder
                statuses[i] = "found"
            else:
                paths[i] = None
    micrographs["path"] = pd.Series(paths, dtype="object")
    micrographs["status"] = pd.Series(statuses, dtype="object")


def _older_provenance(folder: Path) -> Provenance:
    """Return the values in a folder's name, the only ones of an entry that the older scripts wrote."""
    project = folder.parent.parent
    kind, job, suffix = layout.split_entry_name(layout.entry_name(folder))
    program: Program = (
        "cryosparc" if job[:1] == "J" and job[1:].isdigit() else "relion" if job.startswith("job") else "file"
    )
    return Provenance(program, project, project.name, job, kind, suffix=suffix)
