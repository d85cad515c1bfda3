"""Files that are complete or absent: atomic writes, fingerprints and safe names. All of cryoflow writes through here.

Order of a write: everything goes to a hidden sibling in the target's own folder, is synced, and one rename commits it.
A crash before the rename leaves a hidden leftover (`.NAME.tmp-...`), which the next write of that name removes; a crash
after it leaves the new content. `fault_point` names each of those steps, so that tests can end the process there.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoflow.errors import UnsafePath
from cryoflow.picks import SourceFile

_on_fault_point: Callable[[str], None] | None = None


def fault_point(name: str) -> None:
    """A place where tests may end the process or raise; does nothing otherwise."""
    if _on_fault_point is not None:
        _on_fault_point(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden sibling to write to; when the block ends well it becomes `path` in one step, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name[:80]}.tmp-", dir=path.parent)
    os.close(handle)
    hidden = Path(name)
    try:
        os.chmod(hidden, 0o666 & ~current_umask())
        fault_point("file.opened")
        yield hidden
        fault_point("file.written")
        sync_file(hidden)
        fault_point("file.synced")
        os.replace(hidden, path)
        fault_point("file.renamed")
        sync_folder(path.parent)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a whole file, complete or not at all."""
    with replacing(path) as hidden, hidden.open("wb") as file:
        if isinstance(content, str):
            file.write(content.encode())
        elif isinstance(content, bytes):
            file.write(content)
        else:
            file.writelines(content)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A hidden sibling folder to fill; when the block ends well it takes the place of `path`, else it is removed.

    A folder cannot be replaced in one step where `path` exists: the old one is moved aside first, and a crash between
    the two renames is mended by the next call, which moves it back.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.old")
    if aside.exists():
        if path.exists():
            shutil.rmtree(aside)
        else:
            aside.rename(path)
    remove_leftovers(path)
    hidden = Path(tempfile.mkdtemp(prefix=f".{path.name[:80]}.tmp-", dir=path.parent))
    try:
        os.chmod(hidden, 0o777 & ~current_umask())
        fault_point("folder.opened")
        yield hidden
        fault_point("folder.written")
        for folder, _, names in os.walk(hidden):
            for name in names:
                if not (file := Path(folder, name)).is_symlink():
                    sync_file(file)
            sync_folder(Path(folder))
        fault_point("folder.synced")
        if path.exists():
            path.rename(aside)
            fault_point("folder.moved_aside")
        hidden.rename(path)
        fault_point("folder.renamed")
        sync_folder(path.parent)
        if aside.exists():
            shutil.rmtree(aside)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        raise


def remove_leftovers(path: Path) -> None:
    """Remove what killed writers of `path` left beside it. The caller is its only writer."""
    for old in path.parent.glob(f".{_glob_escaped(path.name[:80])}.tmp-*"):
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Ask the operating system to put a file's content on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(path: Path) -> None:
    """Ask the operating system to put a folder's names on the disk; some network file systems refuse: no loss."""
    try:
        sync_file(path)
    except OSError:
        pass


def current_umask() -> int:
    """The process's umask, which can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def source_file(path: Path) -> SourceFile:
    """Path, size and time of a file that is about to be read."""
    status = os.stat(path)
    return SourceFile(Path(path), status.st_size, status.st_mtime_ns)


def checksum(path: Path) -> str:
    """blake2b of a file's whole content, 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def short_hash(text: str, digits: int = 8) -> str:
    """A few hexadecimal digits that tell texts apart."""
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()[:digits]


_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]+")


def safe_name(text: str, *, longest: int = 120) -> str:
    """A file name made of `text`: letters, digits and `._+=@-` only, never hidden, never a path.

    A name that had to be changed gets a short hash of what it was, so that two names stay apart.

    >>> safe_name("P12")
    'P12'
    >>> safe_name("../etc/passwd") == safe_name("etc/passwd")
    False
    """
    name = _UNSAFE.sub("_", text).lstrip(".-")
    if name == text and 0 < len(name) <= longest:
        return name
    return f"{name[: longest - 9].rstrip('_') or 'unnamed'}-{short_hash(text)}"


def inside(folder: Path, name: str) -> Path:
    """`folder / name`, refused where it would not lie directly or deeply inside `folder`.

    Raises
    ------
    UnsafePath
        For absolute names, `..`, NUL and newlines.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or any(c in name for c in "\0\n\r"):
        raise UnsafePath(folder, f"the name {name!r} leads outside this folder or cannot be a file name.")
    return Path(folder, name)


def _glob_escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)
