"""Where a micrograph that a project names lies today: projects get moved, archived and renamed; we never guess."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from cryoflow.errors import BadInput

_UID_PREFIXES = re.compile(r"^(?:\d{21}_)+")
_SUFFIXES = re.compile(
    r"(?:_patch_aligned|_rigid_aligned|_doseweighted|_denoised|_dw|_fractions|_frames|\.frames|_noDW)$",
    re.IGNORECASE,
)
_INDEXED = (".mrc", ".mrcs", ".map", ".tif", ".tiff", ".eer")
_NOT_SEARCHED = {"Trash", ".Nodes", ".snapshot", ".git", "thumbnails", "Extract", "extract"}


def canonical_name(name: str) -> str:
    """A micrograph's name without folders, CryoSPARC's uid prefixes, extension and what programs append.

    >>> canonical_name("J14/motioncorrected/012951868257382468663_14sep05c_0001.frames_patch_aligned_doseweighted.mrc")
    '14sep05c_0001'
    """
    stem = _UID_PREFIXES.sub("", PurePosixPath(clean_name(name)).name)
    stem = stem[: -len(PurePosixPath(stem).suffix)] if PurePosixPath(stem).suffix.lower() in _INDEXED else stem
    while (shorter := _SUFFIXES.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem


def clean_name(name: str) -> str:
    """A path as the projects write it, without CryoSPARC's `>` and RELION's `000012@`."""
    return re.sub(r"^\d+@", "", name.lstrip(">"))


def parse_remaps(texts: Iterable[str]) -> dict[str, str]:
    """`OLD=NEW` texts of the command line as a mapping.

    Raises
    ------
    BadInput
        Where a text has no `=` or an empty side.
    """
    remaps: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new):
            raise BadInput(text, "is not a remap.", "Write OLD=NEW, two folders: --remap /data1=/archive/data1.")
        remaps[old] = new
    return remaps


class Finder:
    """Finds the micrographs of one project.

    A name is looked for, in this order: as given, where it is absolute; below the project; below the project's parent;
    with the user's remaps applied; and by its base name among all images below the project, where exactly one has it.
    For an absolute name of a project that was moved, each of its tails (of two parts or more) is tried below the
    project, the longest first. Dangling links are missing. Where several files could be meant, none is taken.

    Parameters
    ----------
    project_dir
        The project's folder.
    remaps
        Old folder -> new folder, for absolute names and for names relative to the project.
    search
        Folders whose images are indexed by base name; by default the project's.
    """

    def __init__(
        self, project_dir: str | Path, remaps: Mapping[str, str] | None = None, *, search: Iterable[Path] | None = None
    ) -> None:
        self.project_dir = Path(project_dir).absolute()
        self._remaps = [(PurePosixPath(old).parts, Path(new)) for old, new in (remaps or {}).items()]
        self._remaps.sort(key=lambda pair: -len(pair[0]))  # the most particular first
        self._places_of_folder: dict[str, list[Path]] = {}
        self._names: dict[Path, Container[str]] = {}
        self._search = [Path(folder) for folder in search] if search is not None else [self.project_dir]

    def find(self, name: str | Path) -> Path | None:
        """Absolute path of the file that `name` means, or None where it is missing or could be several."""
        text = clean_name(str(name))
        if not text or "\0" in text:
            return None
        for place in self._places(PurePosixPath(text)):
            if self._holds(place):
                return place
        found = self.candidates(text)
        return found[0] if len(found) == 1 else None

    def is_where_named(self, name: str | Path) -> bool:
        """Whether a file is where its name and the remaps say. Cheap: nothing is searched for by its base name."""
        text = clean_name(str(name))
        return bool(text) and "\0" not in text and any(map(self._holds, self._places(PurePosixPath(text))))

    def candidates(self, name: str | Path) -> tuple[Path, ...]:
        """Files below the searched folders that have the base name of `name`, sorted; several are ambiguous.

        The exact base name goes first; only where nobody has it, the name without prefixes and suffixes is compared.
        Several paths to one file (links) count as one.
        """
        by_base_name, by_canonical_name = self._index
        base_name = PurePosixPath(clean_name(str(name))).name
        paths = by_base_name.get(base_name) or by_canonical_name.get(_key(base_name), [])
        different = {os.path.realpath(path): path for path in sorted(paths, reverse=True)}
        return tuple(sorted(Path(path) for path in different.values()))

    def _places(self, name: PurePosixPath) -> Iterator[Path]:
        """Paths that a name may mean; folders that do not exist are left out."""
        if not name.name:
            return
        folder = str(name.parent)
        if folder not in self._places_of_folder:
            self._places_of_folder[folder] = [f for f in self._folders_for(name.parent) if self._is_folder(f)]
        for place in self._places_of_folder[folder]:
            yield place / name.name
        for old, new in self._remaps:
            if name.parts == old:
                yield self.project_dir / new

    def _folders_for(self, folder: PurePosixPath) -> Iterator[Path]:
        """Folders that the folder of a name may mean, most likely first.

        Micrographs of a project share their folder, so this runs once for each. Two hundred thousand names that are
        all in folders of their own, and missing, must take seconds: a tail is tried only below a name that is there.
        """
        if folder.is_absolute():
            yield Path(folder)
            parts = folder.parts[1:]
            for top in (self.project_dir, self.project_dir.parent):
                names = self._names_in(top)
                for start in range(1, len(parts)):
                    if parts[start] in names or parts[start] == "..":
                        yield top.joinpath(*parts[start:])
        else:
            for top in (self.project_dir, self.project_dir.parent):
                if not folder.parts or folder.parts[0] in self._names_in(top) or folder.parts[0] == "..":
                    yield top / folder
        for old, new in self._remaps:
            if folder.parts[: len(old)] == old:
                yield self.project_dir / new / Path(*folder.parts[len(old) :])

    def _names_in(self, folder: Path) -> Container[str]:
        """The names in a folder; any name counts where it may be entered but not listed."""
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except PermissionError:
                self._names[folder] = _Any()
            except OSError:
                self._names[folder] = frozenset()
        return self._names[folder]

    def _is_folder(self, folder: Path) -> bool:
        try:
            return folder.is_dir()
        except (OSError, ValueError):
            return False

    def _holds(self, place: Path) -> bool:
        """Whether a file is there."""
        return _is_file(place)

    @cached_property
    def _index(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Base name -> paths, and canonical name -> paths. Made when the first file is not where its name says."""
        by_base_name: dict[str, list[str]] = {}
        by_canonical_name: dict[str, list[str]] = {}
        folders = [str(top) for top in self._search]
        while folders:
            for entry in _entries(folders.pop()):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _NOT_SEARCHED:
                        folders.append(entry.path)
                elif entry.name.lower().endswith(_INDEXED) and _is_file(entry):
                    by_base_name.setdefault(entry.name, []).append(entry.path)
                    by_canonical_name.setdefault(_key(entry.name), []).append(entry.path)
        return by_base_name, by_canonical_name


class _Any:
    """A collection that contains every name."""

    def __contains__(self, name: object) -> bool:
        return True


def _key(base_name: str) -> str:
    """Canonical name with its extension: a movie never stands for a micrograph."""
    return canonical_name(base_name) + PurePosixPath(base_name).suffix.lower()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What a folder holds; nothing where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_file(place: os.DirEntry[str] | Path) -> bool:
    """Whether a file is there; a listed entry needs no further look at the disk unless it is a link."""
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False
