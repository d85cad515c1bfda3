"""`contents.json`: the files of an export with their fingerprints, so that damage is found before the export is used.

The record is sealed and written last. It names the files, links and empty folders that cryoflow wrote, and size and
time of the micrographs they were made from. Models, picks and logs that a program adds later are not in it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoflow.errors import BadInput, NewerFormat
from cryoflow.storage import inputs
from cryoflow.storage.files import link, replace_file
from cryoflow.storage.fingerprints import checksum, fingerprint, state_of
from cryoflow.storage.parsing import validated
from cryoflow.storage.safe_names import inside
from cryoflow.storage.sealing import sealed, unsealed
from cryoflow.system.threads import on_each_file

NAME = "contents.json"
FORMAT = 1
REPLACED = ".replaced"
"""Folder of an export in which changed files are kept when they are written again."""

_QUICK_BYTES = 1 << 24


@dataclass(frozen=True)
class Change:
    """One difference between an export and its record.

    Attributes
    ----------
    path
        Relative to the export; a micrograph's path is absolute.
    what
        What happened to it, as in "is missing".
    """

    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.path} {self.what}"


@dataclass(frozen=True)
class Contents:
    """The record of an export.

    Attributes
    ----------
    made_with
        As in the first line of the manifest: picker, split and fingerprint of what was exported.
    files
        Path -> size, fingerprint, and quick fingerprint for large files.
    links
        Path -> target.
    folders
        Folders that were written empty.
    micrographs
        Path of each micrograph -> size and time of change (ns).
    """

    made_with: str
    files: dict[str, str]
    links: dict[str, str]
    folders: tuple[str, ...]
    micrographs: dict[str, str]

    def changes(self, folder: Path, *, thorough: bool = False) -> list[Change]:
        """Compare an export with its record.

        Parameters
        ----------
        thorough
            Read all files whole. Without it, of a file above 16 MiB only size, beginning and end are compared: a set of
            converted micrographs is too large to read whole each time that an export is repeated.
        """

        def of_file(path: str) -> str:
            recorded, found = self.files[path], _file(folder / path, self.files[path], thorough=thorough)
            return found if found.startswith("is ") else "" if found == recorded else "was changed"

        def of_link(path: str) -> str:
            return _link_change(folder / path, self.links[path])

        found = [*zip(self.files, on_each_file(of_file, self.files), strict=True)]
        found += zip(self.links, on_each_file(of_link, self.links), strict=True)
        found += [(path, "" if (folder / path).is_dir() else "is missing") for path in self.folders]
        return [*(Change(*each) for each in found if each[1]), *self.changed_micrographs()]

    def changed_micrographs(self) -> list[Change]:
        """Compare size and time of the micrographs with those at the time of the export."""
        both = zip(self.micrographs.items(), on_each_file(_state, self.micrographs), strict=True)
        gone = _text((0, 0))
        return [
            Change(path, "is missing" if now == gone else "was changed since the export")
            for (path, then), now in both
            if now != then
        ]


def write_contents(folder: Path, made_with: str, micrographs: Sequence[str]) -> None:
    """Record all that lies in a folder; the last step of an export."""
    files, links, folders = [], {}, []
    for path, kind in _walk(str(folder)):
        name = path[len(str(folder)) + 1 :]
        if kind == "link":
            links[name] = str(Path(path).readlink())
        elif kind == "file":
            files.append(name)
        else:
            folders.append(name)
    recorded = dict(zip(files, on_each_file(lambda name: _recorded(f"{folder}/{name}"), files), strict=True))
    states = dict(zip(micrographs, on_each_file(_state, micrographs), strict=True))
    record = {"format": FORMAT, "made_with": made_with, "files": recorded, "links": links, "folders": folders}
    (folder / NAME).write_text(sealed(record | {"micrographs": states}))


def read_contents(folder: Path) -> Contents | None:
    """Return the record of an export; None if there is none, or it is damaged.

    Raises
    ------
    NewerFormat
        If a newer cryoflow wrote it.
    """
    path = folder / NAME
    try:
        record = unsealed(path, inputs.read_bytes(path), FORMAT)
        contents = validated(path, record, Contents)
        for name in [*contents.files, *contents.links, *contents.folders]:
            inside(folder, name)
        return contents
    except NewerFormat:
        raise
    except (BadInput, OSError):
        return None


def verify(folder: Path) -> list[Change]:
    """Compare an export with its record, every byte of it.

    Raises
    ------
    BadInput
        If the folder is no export of cryoflow, or its record is missing or damaged.
    """
    if (contents := read_contents(Path(folder))) is None:
        raise BadInput(
            Path(folder) / NAME,
            "is missing or damaged: what the export consisted of is unknown.",
            "Export into the folder again: what is missing or differs is written anew, and the record with it.",
        )
    return contents.changes(Path(folder), thorough=True)


def restore(fresh: Path, folder: Path) -> list[Change]:
    """Make an export what a fresh copy of it is; files that are not part of it stay.

    Changed files are kept in `REPLACED`. Every step is one rename: what a killed run leaves, the next one restores.

    Returns
    -------
    list of Change
        What differed.
    """
    contents = read_contents(fresh)
    assert contents is not None
    changes = [c for c in contents.changes(folder, thorough=True) if not Path(c.path).is_absolute()]
    for change in changes:
        old, new = folder / change.path, fresh / change.path
        _make_way(folder, old)
        if new.is_symlink():
            if old.exists() and not old.is_symlink():
                old.unlink()  # an empty file: `_make_way` keeps all others
            link(old, new.readlink())
        elif new.is_dir():
            old.mkdir(parents=True, exist_ok=True)
        else:
            replace_file(old, new)
    replace_file(folder / NAME, fresh / NAME)
    return changes


def _make_way(folder: Path, old: Path) -> None:
    """Keep what stands where a file is to be written again, and make the folders above it."""
    for parent in reversed(old.relative_to(folder).parents):
        if (at := folder / parent).is_symlink() or (at.exists() and not at.is_dir()):
            _keep(folder, at)
        at.mkdir(exist_ok=True)
    if old.is_symlink() or old.is_dir() or (old.exists() and old.stat().st_size):
        _keep(folder, old)


def _keep(folder: Path, old: Path) -> None:
    if (folder / REPLACED).is_symlink():
        raise BadInput(folder / REPLACED, "is a link; changed files are kept in a folder of that name.", "Remove it.")
    kept = folder / REPLACED / old.relative_to(folder)
    kept.parent.mkdir(parents=True, exist_ok=True)
    number = 0
    while os.path.lexists(kept):
        number += 1
        kept = kept.with_name(f"{old.name}.{number}")
    old.rename(kept)


def _walk(folder: str) -> Iterator[tuple[str, str]]:
    """Yield all links, files and empty folders below a folder, sorted."""
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            if entry.is_symlink():
                yield entry.path, "link"
            elif not entry.is_dir():
                yield entry.path, "file"
            else:
                below = list(_walk(entry.path))
                yield from below or [(entry.path, "folder")]


def _recorded(path: str | Path) -> str:
    """Return size and fingerprint of a file; of a large one the quick fingerprint, too."""
    size = os.stat(path).st_size
    return f"{size} {checksum(path)}" + (f" {fingerprint(path)}" if size > _QUICK_BYTES else "")


def _file(path: Path, recorded: str, *, thorough: bool) -> str:
    """Return what `_recorded` would return now, or what is wrong with the file."""
    try:
        if path.is_symlink() or not path.is_file():
            return "is no file any more" if os.path.lexists(path) else "is missing"
        size = path.stat().st_size
        if str(size) != recorded.partition(" ")[0]:
            return f"is of {size} bytes, and was of {recorded.partition(' ')[0]}"
        if size > _QUICK_BYTES and not thorough:
            return recorded if recorded.endswith(f" {fingerprint(path)}") else "changed"
        return _recorded(path)
    except OSError as error:
        return f"is not readable: {error.strerror or error}"


def _link_change(path: Path, target: str) -> str:
    if not path.is_symlink():
        return "is no link any more" if os.path.lexists(path) else "is missing"
    return "" if str(path.readlink()) == target else "leads elsewhere"


def _state(path: str) -> str:
    return _text(state_of(path))


def _text(state: tuple[int, int]) -> str:
    return f"{state[0]} {state[1]}"
