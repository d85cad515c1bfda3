"""Where things lie in a database, and what they are called.

DB/cryoflow-database.json          which version of the layout this is, and the projects
DB/<project>/micrographs.txt       whose project it is, and which link stands for which micrograph
DB/<project>/entries.json          the entries, with fingerprints of their manifests
DB/<project>/Micrographs/<link>    symbolic links to the micrographs
DB/<project>/Particles/<Kind>_<job>[_suffix]/{info.txt,data.txt,manifest.json}
DB/.jobs/                          what ingest read when; may be removed, then all jobs are read again
DB/.reviews/                       journals of `cryoflow view`: what people decided and did not save yet
DB/.quarantine/                    what `verify --repair` and `remove` took out; never read
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path, PurePosixPath

from cryoflow.errors import BadInput
from cryoflow.picks import Kind
from cryoflow.storage import inputs, stale_files
from cryoflow.storage.safe_names import safe_name, short_hash

VERSION = 2
"""Version of the layout, in the marker. Version 1 has no entries.json and no list of projects; a write adds them."""
MARK_VERSION = 1
MARKER = "cryoflow-database.json"
RECORD = "entries.json"
MICROGRAPHS_TEXT = "micrographs.txt"
LINKS = "Micrographs"
ENTRIES = "Particles"
INFO, DATA, MARK = "info.txt", "data.txt", "mark.json"
JOBS = ".jobs"
QUARANTINE = ".quarantine"
REVIEWS = ".reviews"


def folded(name: str) -> str:
    """Return what a file system that ignores case and composition of letters takes a name for."""
    return unicodedata.normalize("NFC", name).casefold()


def opened(path: Path) -> BufferedReader:
    """Open one of the database's files; raises as `content`."""
    with _readable(path):
        return inputs.opened(path)


def content(path: Path) -> bytes:
    """Return the whole content of one of the database's small files.

    Raises
    ------
    BadInput
        Where it cannot be read.
    FileNotFoundError
        Where it is not there: perhaps a writer is just replacing it.
    """
    with _readable(path):
        return inputs.read_bytes(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if inputs.is_gone(error):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error


def free_name(wanted: Iterable[str], taken: Collection[str]) -> str:
    """Return the first of `wanted` whose folded form is not in `taken`; the last is numbered where none is free."""
    name = ""
    for name in wanted:
        if folded(name) not in taken:
            return name
    stem, dot, extension = name.rpartition(".")
    for i in range(2, len(taken) + 3):
        numbered = f"{stem}-{i}.{extension}" if dot else f"{name}-{i}"
        if folded(numbered) not in taken:
            return numbered
    raise AssertionError("more names than were taken were tried")


def project_names(name: str, path: Path) -> list[str]:
    """Return what a project's folder may be called, best first: its name, with its parent folder's, with a hash."""
    plain = safe_name(name)
    return [
        plain,
        safe_name(f"{plain}-{safe_name(path.parent.name or 'root')}"),
        f"{plain}-{short_hash(str(path))}",
    ]


def link_names(name: str) -> Iterator[str]:
    """Yield names for a micrograph's link, best first: its base name, with its folder's name, with a hash."""
    path = PurePosixPath(name)
    extension = path.suffix if re.fullmatch(r"\.[A-Za-z0-9]{1,8}", path.suffix) else ""
    stem = safe_name(path.name.removesuffix(extension))
    yield f"{stem}{extension}"
    folders = [p for p in path.parts[:-1] if re.fullmatch(r"(job|J)\d+", p)] or list(path.parts[-2:-1])
    if folders and folders[-1] != "/":
        yield f"{stem}-{safe_name(folders[-1])}{extension}"
    yield f"{stem}-{short_hash(name)}{extension}"


def project_folders(root: Path) -> list[Path]:
    """Return the folders of a database that may be those of projects, sorted."""
    return sorted(_folders(root))


def is_project(folder: Path) -> bool:
    """Return whether a folder holds a project: a record of any kind, or an entry."""
    records = (folder / RECORD, folder / MICROGRAPHS_TEXT)
    return any(map(os.path.lexists, records)) or next(entry_folders_of(folder), None) is not None


def entry_folders(root: Path) -> Iterator[Path]:
    """Iterate over every entry's folder, in order of project, then kind, then number of the job.

    A folder that a killed writer moved aside stands for the entry until the next writer moves it back.
    """
    for project in project_folders(root):
        yield from entry_folders_of(project)


def entry_folders_of(project: Path) -> Iterator[Path]:
    """Iterate over the folders of one project's entries, in order of kind and number of the job."""
    found = {p.name for p in _folders(project / ENTRIES)}
    found |= {entry_name(hidden) for hidden in (project / ENTRIES).glob(f".*{stale_files.ASIDE}")}
    for name in sorted(found, key=natural):
        if place := place_of(project / ENTRIES / name):
            yield place


def place_of(folder: Path) -> Path | None:
    """Return where an entry's files lie now: in its folder, or aside while a writer replaces it; None: nowhere."""
    for place in (folder, stale_files.aside_of(folder)) * 3:  # between two looks it may go from one to the other
        if is_entry(place):
            return place
    return None


def is_entry(folder: Path) -> bool:
    """Return whether a folder is an entry's, complete or damaged."""
    return (folder / INFO).exists() or (folder / DATA).exists()


def entry_name(folder: Path) -> str:
    """Return an entry's folder name, also while the folder is moved aside."""
    return folder.name[1:].removesuffix(stale_files.ASIDE) if folder.name.startswith(".") else folder.name


def split_entry_name(name: str) -> tuple[Kind, str, str]:
    """Return kind, job and suffix of `<Kind>_<job>[_suffix]`.

    >>> split_entry_name("Hetero_J50_class1")
    (<Kind.HETERO: 'Hetero'>, 'J50', 'class1')
    """
    kind, _, rest = name.partition("_")
    job, _, suffix = rest.partition("_")
    return (Kind(kind) if kind in set(Kind) else Kind.OTHER), job, suffix


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts numbers in a text by value: `J9` before `J51`."""
    return tuple((0, int(t), "") if t.isdigit() else (1, 0, t) for t in re.split(r"([0-9]+)", text))


def _folders(folder: Path) -> list[Path]:
    try:
        return [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_dir() and not p.is_symlink()]
    except OSError:
        return []
