"""Check one entry of a database against its manifest, and the links and strange files of a project's folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from cryoflow.database import layout, repairs
from cryoflow.database.data_reader import is_data_text, read_data_text
from cryoflow.database.entry import check_formats, pickset_of
from cryoflow.database.entry_manifest import NAME as MANIFEST
from cryoflow.database.entry_manifest import read_manifest
from cryoflow.database.findings import Broken, Finding
from cryoflow.database.lock import NAME as LOCK
from cryoflow.database.lock import is_abandoned as is_abandoned_lock
from cryoflow.database.micrograph_links import ProjectLinks, read_link
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.micrographs.header import shape_of_file
from cryoflow.picks import PickSet
from cryoflow.storage import stale_files
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.safe_names import safe_name
from cryoflow.storage.sealing import unsealed
from cryoflow.system.threads import on_each_file

Shapes = MutableMapping[str, tuple[int, int] | None]
"""Shape of each micrograph whose header was read."""


def check_entry(folder: Path, record: ProjectLinks | None, shapes: Shapes) -> Iterator[Broken]:
    """Check an entry's manifest, files and mark, and its micrographs: their links and, with `shapes`, their shapes."""
    quarantine = repairs.quarantine(folder)
    project = folder.parent.parent
    if folder.name.startswith("."):
        yield Broken(Finding("leftover", folder, "moved aside by a writer that was killed"), repairs.mend(folder))
    if not (folder / MANIFEST).exists():
        if _is_older(folder):
            yield Broken(Finding("notice", folder, "written by the older scripts: there are no checksums to compare"))
        else:
            yield Broken(Finding("damage", folder / MANIFEST, "the manifest is missing"), quarantine, project)
        return
    try:
        manifest = read_manifest(folder / MANIFEST)
    except NewerFormat:
        raise
    except BadInput as error:
        yield Broken(Finding("damage", error.path, error.reason), quarantine, project)
        return
    if manifest.entry != layout.entry_name(folder):
        what = f"the folder holds the entry {manifest.entry}: it was renamed"
        yield Broken(Finding("damage", folder, what), quarantine, project)
    sound = True
    for name, (size, mark) in sorted(manifest.sums.items()):
        if what := _difference(folder, name, size, mark):
            sound = False
            yield Broken(Finding("damage", folder / name, what), quarantine, project)
    if sound:
        check_formats(folder)
        yield from _content(folder, record, shapes)
    if os.path.lexists(folder / layout.MARK):
        for broken in check_sealed(folder / layout.MARK):
            yield Broken(broken.finding, lambda db: repairs.mark_again(db, folder), project)
    yield from check_strangers(folder, {MANIFEST, layout.MARK, *manifest.sums})


def _content(folder: Path, record: ProjectLinks | None, shapes: Shapes) -> Iterator[Broken]:
    """Load an entry whose checksums fit: a database that somebody sent has checksums that fit any content."""
    quarantine, project = repairs.quarantine(folder), folder.parent.parent
    try:
        text = read_data_text(folder / layout.DATA)
        picks = pickset_of(folder, text)
    except NewerFormat:
        raise
    except BadInput as error:
        yield Broken(Finding("damage", error.path, error.reason), quarantine, project)
        return
    except FileNotFoundError as error:
        yield Broken(Finding("damage", Path(error.filename), "the file is missing"), quarantine, project)
        return
    unknown = [link for link in text.links if link not in record.links] if record else []
    if unknown:
        what = f"{len(unknown)} of its micrographs are not in the record of links, {unknown[0]!r} first"
        yield Broken(
            Finding("damage", folder / layout.DATA, what), lambda db: repairs.rebuild_record(db, project, [folder])
        )
    others = _of_another_shape(picks, shapes)
    if others:
        what = f"{len(others)} of its micrographs lead to files of another shape, {others[0]!r} first: ingest it again"
        yield Broken(Finding("notice", folder / layout.DATA, what))


def _of_another_shape(picks: PickSet, shapes: Shapes) -> list[str]:
    """Return the micrographs whose files are not of the shape that the entry records; adds to `shapes`."""
    table = picks.micrographs
    known = table[(table["status"] == "found") & table["ny"].notna() & table["nx"].notna()]
    new = [path for path in dict.fromkeys(known["path"]) if path not in shapes]
    shapes.update(zip(new, on_each_file(shape_of_file, new), strict=True))
    recorded = zip(known["name"], known["path"], known["ny"], known["nx"], strict=True)
    return [name for name, path, ny, nx in recorded if shapes[path] not in (None, (ny, nx))]


def _is_older(folder: Path) -> bool:
    """Return whether the older scripts wrote an entry: neither of its files starts as ours do."""
    info, data = folder / layout.INFO, folder / layout.DATA
    try:
        return not (info.exists() and layout.content(info)[:15] == b"cryoflow entry ") and not (
            data.exists() and is_data_text(data)
        )
    except (BadInput, OSError):
        return False  # what cannot be read is not said to be sound


def _difference(folder: Path, name: str, size: int, mark: str) -> str:
    """Return how a file differs from what its manifest records, "" if it does not."""
    if safe_name(name) != name:
        return "the manifest names a file outside the entry, or one that no disk can hold"
    path = folder / name
    try:
        found = path.stat().st_size
        if found != size:
            return f"{found} bytes, recorded are {size}"
        return "" if checksum(path) == mark else "its checksum is not the recorded one"
    except FileNotFoundError:
        return "the file is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def check_sealed(path: Path) -> Iterator[Broken]:
    """Check a file with a checksum of its own."""
    try:
        unsealed(path, layout.content(path), layout.MARK_VERSION)
    except FileNotFoundError:
        return  # removed meanwhile
    except NewerFormat:
        raise
    except BadInput as error:
        yield Broken(Finding("damage", path, error.reason), repairs.quarantine(path))


def check_strangers(folder: Path, expected: set[str], *, folders: bool = False) -> Iterator[Broken]:
    """Yield what lies in a folder and was not put there by a finished write; `folders` may have any (visible) name."""
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        path = folder / name
        if name in expected or (folders and path.is_dir() and not name.startswith(".")):
            continue
        if stale_files.is_unfinished(name):
            if stale_files.is_abandoned(path):
                yield Broken(Finding("leftover", path, "left by a writer that was killed"), repairs.quarantine(path))
        elif name.startswith(".") and name.endswith(stale_files.ASIDE):
            yield Broken(Finding("leftover", path, "moved aside by a writer that was killed"), repairs.mend(path))
        elif is_abandoned_lock(path):
            yield Broken(Finding("leftover", path, "left by a writer that was killed"), repairs.quarantine(path))
        elif not name.startswith(LOCK):
            yield Broken(Finding("notice", path, "not made by cryoflow, or by a write that was killed"))


def check_links(project: Path, record: ProjectLinks) -> Iterator[Broken]:
    """Check a project's links to micrographs against their record."""
    folder = project / layout.LINKS
    gone = closed = 0
    for name, link in sorted(record.links.items()):
        if link.target is None:
            continue
        path = folder / name
        target = read_link(path)
        if target != link.target:
            what = f"points to {target!r}, recorded is {link.target!r}" if target else "the link is missing"
            yield Broken(Finding("damage", path, what), repairs.relink(path, link.target))
        else:
            try:
                path.stat()
            except PermissionError:
                closed += 1
            except OSError:
                gone += 1
    if gone:
        what = f"{gone} of {len(record.links)} links lead nowhere: their micrographs were moved or deleted"
        yield Broken(Finding("notice", folder, what))
    if closed:
        what = f"{closed} of {len(record.links)} links lead to folders that are closed to you: they were not checked"
        yield Broken(Finding("notice", folder, what))
    yield from check_strangers(folder, set(record.links))
