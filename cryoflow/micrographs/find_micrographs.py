"""Where a micrograph that a project names lies today: projects get moved, archived and renamed; we never guess."""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from cryoflow.picks import NEEDS_CONFIRMATION

_SECTION = re.compile(r"^\d+@")
_UID_PREFIXES = re.compile(r"^(?:\d{21}_)+")
_SUFFIXES = re.compile(
    r"(?:_patch_aligned|_rigid_aligned|_doseweighted|_denoised|_dw|_fractions|_frames|\.frames|_noDW)$",
    re.IGNORECASE,
)
IMAGE_SUFFIXES = (".mrc", ".mrcs", ".map", ".tif", ".tiff", ".eer")
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
"""Pictures of micrographs, on which people pick by hand: the micrograph has the same stem."""
_CRYOSPARC_MOTION = re.compile(r"_(patch|rigid)_aligned")
_SEPARATORS = "_-."
_NOT_SEARCHED = {"Trash", ".Nodes", ".snapshot", ".git", "thumbnails", "Extract", "extract"}


def canonical_name(name: str) -> str:
    """Return a micrograph's name without folders, CryoSPARC's uid prefixes, extension and what programs append.

    >>> canonical_name("J14/motioncorrected/012951868257382468663_14sep05c_0001.frames_patch_aligned_doseweighted.mrc")
    '14sep05c_0001'
    """
    stem = _UID_PREFIXES.sub("", _base_name(clean_name(name)))
    if (suffix := _suffix(stem)).lower() in IMAGE_SUFFIXES:
        stem = stem[: -len(suffix)]
    while (shorter := _SUFFIXES.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem


def clean_name(name: str) -> str:
    """Return a path as the projects write it, without CryoSPARC's `>` and RELION's `000012@`."""
    return _SECTION.sub("", name.lstrip(">"))


def _base_name(name: str) -> str:
    """Return what follows the last folder of a name. Ten thousand names a second are too many for `pathlib`."""
    return name.rstrip("/").rpartition("/")[2]


def _suffix(base_name: str) -> str:
    """Return the extension of a base name with its dot, empty where it has none or begins with it."""
    stem, dot, ending = base_name.rpartition(".")
    return dot + ending if stem and ending else ""


class Finder:
    """Finds the micrographs of one project.

    A name is looked for, in this order: as given, where it is absolute; below the project; below the project's parent;
    with the user's remaps applied; and by its base name among all images below the project, where exactly one has it.
    For an absolute name of a project that was moved, each of its tails (of two parts or more) is tried below the
    project, the longest first. Of several files with one base name, the one is taken whose folders agree with those of
    the name. Dangling links are missing. Where several files could be meant, none is taken. Backslashes are separators
    where no file has them in its name.

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
        """Return absolute path of the file that `name` means, or None where it is missing or could be several."""
        text = clean_name(str(name))
        if not text or "\0" in text:
            return None
        for place in self._places(PurePosixPath(text)):
            if self._holds(place):
                return place
        if "\\" in text:  # a name may hold a backslash on Linux, so that it was tried as it stands
            return self.find(text.replace("\\", "/"))
        found = self.candidates(text)
        return found[0] if len(found) == 1 else _by_folders(PurePosixPath(text), found)

    def find_stem(self, name: str) -> Path | None:
        """Return the micrograph of a name without its extension, to which a program may have appended something.

        `mic_001_automatch` is `mic_001.mrc`: of all micrographs whose stem is the beginning of the name, up to a
        separator, the longest is taken. None where no or several files have it.
        """
        folder, _, stem = name.replace("\\", "/").rpartition("/")
        ends = [len(stem), *(i for i in range(len(stem) - 1, 0, -1) if stem[i] in _SEPARATORS)]
        prefix = f"{folder}/" if folder else ""
        for ending in IMAGE_SUFFIXES:
            if found := self.find(f"{prefix}{stem}{ending}"):
                return found
        by_base_name, by_canonical_name = self._index
        for end in ends:
            for ending in IMAGE_SUFFIXES:
                base_name = stem[:end] + ending
                if base_name in by_base_name or _key(base_name) in by_canonical_name:
                    return self.find(prefix + base_name)
        return None

    def find_named(self, name: str) -> Path | None:
        """Return the micrograph that a table of picks names: with its extension, that of a picture of it, or none."""
        suffix = _suffix(_base_name(name.replace("\\", "/"))).lower()
        if suffix in IMAGE_SUFFIXES:
            return self.find(name)
        if suffix in _PICTURES:
            name = name[: -len(suffix)]
        return self.find_stem(name)

    @property
    def some_names(self) -> tuple[str, ...]:
        """Return base names of a few images below the searched folders, sorted, for messages."""
        return tuple(sorted(self._index[0])[:3])

    def is_where_named(self, name: str | Path) -> bool:
        """Return whether a file is where its name and the remaps point. Cheap: nothing is searched for by its base
        name."""
        text = clean_name(str(name))
        return bool(text) and "\0" not in text and any(map(self._holds, self._places(PurePosixPath(text))))

    def candidates(self, name: str | Path) -> tuple[Path, ...]:
        """Return files below the searched folders that have the base name of `name`, sorted; several are ambiguous.

        The exact base name goes first; only where no file has it, the name without prefixes and suffixes is compared.
        Several paths to one file (links) count as one.
        """
        by_base_name, by_canonical_name = self._index
        base_name = _base_name(clean_name(str(name)))
        paths = by_base_name.get(base_name) or by_canonical_name.get(_key(base_name), [])
        different = {os.path.realpath(path): path for path in sorted(paths, reverse=True)}
        return tuple(sorted(Path(path) for path in different.values()))

    def _places(self, name: PurePosixPath) -> Iterator[Path]:
        """Yield paths that a name may mean; folders that do not exist are left out."""
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
        """Yield folders that the folder of a name may mean, most likely first.

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
        """Return the names in a folder; any name counts where it may be entered but not listed."""
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
        """Return whether a file is there."""
        return _is_file(place)

    @cached_property
    def _index(self) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return base name -> paths, and canonical name -> paths; listed when the first file is missing."""
        by_base_name: dict[str, list[str]] = {}
        by_canonical_name: dict[str, list[str]] = {}
        folders = [str(top) for top in self._search]
        while folders:
            for entry in _entries(folders.pop()):
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _NOT_SEARCHED:
                        folders.append(entry.path)
                elif entry.name.lower().endswith(IMAGE_SUFFIXES) and _is_file(entry):
                    by_base_name.setdefault(entry.name, []).append(entry.path)
                    by_canonical_name.setdefault(_key(entry.name), []).append(entry.path)
        return by_base_name, by_canonical_name


class _Any:
    """A collection that contains every name."""

    def __contains__(self, name: object) -> bool:
        return True


def _by_folders(name: PurePosixPath, candidates: tuple[Path, ...]) -> Path | None:
    """Return the candidate that shares most of its last folders with a name; None where none or several do."""
    folders = name.parts[:-1][::-1]
    shared = []
    for candidate in candidates:
        theirs = candidate.parts[:-1][::-1]
        shared.append(
            next(
                (i for i, pair in enumerate(zip(folders, theirs, strict=False)) if pair[0] != pair[1]),
                min(len(folders), len(theirs)),
            )
        )
    best = max(shared, default=0)
    return candidates[shared.index(best)] if best and shared.count(best) == 1 else None


def notes_on_other_names(names: Iterable[str], paths: Iterable[Path | str | None]) -> list[str]:
    """Return notes on micrographs that were found under another name than a table of picks has.

    CryoSPARC's uid prefixes are no difference. A micrograph that CryoSPARC's motion correction wrote and one that
    another program wrote may be mirror images of each other in y: those picks have to be confirmed by the pixels.
    """
    others = [(name, _base_name(str(path))) for name, path in zip(names, paths, strict=True) if path is not None]
    others = [(name, found) for name, found in others if not _is_same_name(name, found)]
    if not others:
        return []
    crossed = [
        pair for pair in others if bool(_CRYOSPARC_MOTION.search(pair[0])) != bool(_CRYOSPARC_MOTION.search(pair[1]))
    ]
    notes = []
    plain = [pair for pair in others if pair not in crossed]
    for pairs, what in ((plain, ""), (crossed, f", which another program wrote: {NEEDS_CONFIRMATION}")):
        if pairs:
            count = "1 micrograph was" if len(pairs) == 1 else f"{len(pairs)} micrographs were"
            notes.append(f"{count} found under another name: {pairs[0][1]} for {PurePosixPath(pairs[0][0]).name}{what}")
    return notes


def _is_same_name(name: str, found: str) -> bool:
    """Return whether a found file has the base name that was looked for; a name without extension may have more behind
    it."""
    ours = _UID_PREFIXES.sub("", _base_name(clean_name(name).replace("\\", "/")))
    theirs = _UID_PREFIXES.sub("", found)
    if _suffix(ours).lower() in IMAGE_SUFFIXES:
        return ours == theirs
    return ours.startswith(theirs.removesuffix(_suffix(theirs)))


def _key(base_name: str) -> str:
    """Return canonical name with its extension: a movie never stands for a micrograph."""
    return canonical_name(base_name) + _suffix(base_name).lower()


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what a folder holds; nothing where it may not be read."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _is_file(place: os.DirEntry[str] | Path) -> bool:
    """Return whether a file is there; a listed entry needs no further look at the disk unless it is a link."""
    try:
        return place.is_file()
    except (OSError, ValueError):
        return False
