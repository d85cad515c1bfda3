"""Files that are complete or absent. All of cryoflow writes through here.

Order of a write: everything goes to a hidden sibling in the target's own folder, is synced, and one rename commits it.
A crash before the rename leaves a hidden leftover, which the next process that writes into that folder removes
(`leftovers.py`); a crash after it leaves the new content. `fault_point` names each of those steps, so that tests can
end the process there.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cryoflow.errors import NotWritten
from cryoflow.storage.fingerprints import Fingerprint
from cryoflow.storage.stale_files import hidden_sibling, remove_leftovers

FAULT_POINTS = frozenset(
    {
        *("file.opened", "file.piece", "file.written", "file.synced", "file.renamed"),
        *("folder.opened", "folder.written", "folder.synced", "folder.moved_aside", "folder.renamed", "folder.cleaned"),
        *("link.made", "link.renamed", "moved", "removed", "lock.written", "lock.taken", "lock.released"),
    }
)
"""Every place where a test ends the process. A step that writes, renames, syncs or removes is followed by one."""

_on_fault_point: Callable[[str], None] | None = None


def fault_point(name: str) -> None:
    """A place where tests may end the process or raise; does nothing otherwise."""
    if _on_fault_point is not None:
        if name not in FAULT_POINTS:
            raise ValueError(f"{name} is not in FAULT_POINTS")
        _on_fault_point(name)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A hidden sibling to write to; when the block ends well it becomes `path` in one step, else it is removed.

    Raises
    ------
    NotWritten
        Where the disk is full, read-only or failing; `path` is then what it was.
    """
    path = Path(path)
    hidden = hidden_sibling(path)
    try:
        with clear_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            hidden.touch(exist_ok=False)
            fault_point("file.opened")
            yield hidden
            fault_point("file.written")
            sync_file(hidden)
            fault_point("file.synced")
            os.replace(hidden, path)
            fault_point("file.renamed")
            sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            hidden.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: str | bytes | Iterable[bytes]) -> None:
    """Write a whole file, complete or not at all. Names that are no UTF-8 become the bytes that they were."""
    with replacing(path) as hidden, hidden.open("wb") as file:
        write_pieces(file, content.encode(errors="surrogateescape") if isinstance(content, str) else content)


def write_pieces(file: BinaryIO, content: bytes | Iterable[bytes]) -> tuple[int, str]:
    """Write `content` to a file that is being made; number of bytes and checksum of what was written."""
    digest = Fingerprint()
    size = 0
    for piece in [content] if isinstance(content, bytes) else content:
        fault_point("file.piece")
        file.write(piece)
        digest.add(piece)
        size += len(piece)
    return size, digest.digits


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A hidden sibling folder to fill; when the block ends well it takes the place of `path`, else it is removed.

    A folder cannot be replaced in one step where `path` exists: the old one is moved aside first
    (`.NAME.cryoflow-old`), and a crash between the two renames is mended by the next call, which moves it back.

    Raises
    ------
    NotWritten
        Where the disk is full, read-only or failing; `path` is then what it was.
    """
    path = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)  # results may lie on another disk
    aside = aside_of(path)
    hidden = hidden_sibling(path)
    try:
        with clear_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists() and not path.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is to be", str(path))
            mend(path)
            remove_leftovers(path.parent)
            hidden.mkdir()
            fault_point("folder.opened")
            yield hidden
            fault_point("folder.written")
            with ThreadPoolExecutor(8) as pool:  # file systems commit what is asked for together in one go
                for folder, _, names in os.walk(hidden):
                    paths = [Path(folder, name) for name in names]
                    list(pool.map(sync_file, [path for path in paths if not path.is_symlink()]))
                    sync_folder(Path(folder))
            fault_point("folder.synced")
            if path.exists():
                path.rename(aside)
                fault_point("folder.moved_aside")
            hidden.rename(path)
            fault_point("folder.renamed")
            sync_folder(path.parent)
            if aside.exists():
                _remove_folder(aside)
                fault_point("folder.cleaned")
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(hidden, ignore_errors=True)
            mend(path)
        raise


ASIDE = ".cryoflow-old"


def aside_of(path: Path) -> Path:
    """Where `replacing_folder` keeps the old folder between its two renames."""
    return path.with_name(f".{path.name}{ASIDE}")


def mend(path: Path) -> None:
    """Undo what a killed `replacing_folder` left half done: the old folder is back, or gone where a new one stands."""
    aside = aside_of(path)
    if aside.exists():
        if path.exists():
            _remove_folder(aside)
        else:
            aside.rename(path)


def _remove_folder(path: Path) -> None:
    """Remove a folder that another process may be removing, too."""
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def link(path: Path, target: str | Path) -> None:
    """Make `path` a symbolic link to `target`, in one step where another link stands there.

    Raises
    ------
    NotWritten
        Where it cannot be made.
    """
    with clear_errors(path):
        try:
            path.symlink_to(target)
            fault_point("link.made")
        except FileExistsError:
            remove_leftovers(path.parent)
            hidden = hidden_sibling(path)
            try:
                hidden.symlink_to(target)
                fault_point("link.made")
                os.replace(hidden, path)
                fault_point("link.renamed")
            except BaseException:
                with suppress(OSError):
                    hidden.unlink(missing_ok=True)
                raise


def replace_file(path: Path, new: Path) -> None:
    """Rename a complete file to `path`, replacing the file there in one step, and sync.

    Raises
    ------
    NotWritten
        If it cannot be renamed; `path` is then what it was.
    """
    with clear_errors(path):
        sync_file(new)
        os.replace(new, path)
        fault_point("file.renamed")
        sync_folder(path.parent)


def move(path: Path, to: Path) -> None:
    """Rename a file or folder to a name that is free, and sync.

    Raises
    ------
    NotWritten
        Where it cannot be moved.
    """
    with clear_errors(to):
        to.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(to):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(to))
        path.rename(to)
        fault_point("moved")
        sync_folder(to.parent)
        sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file of ours where it is there.

    Raises
    ------
    NotWritten
        Where it cannot be removed.
    """
    with clear_errors(path):
        path.unlink(missing_ok=True)
        fault_point("removed")
        sync_folder(path.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder of ours where it is there; it is gone in one step, and its files after that.

    Raises
    ------
    NotWritten
        Where it cannot be removed.
    """
    remove_leftovers(path.parent)  # of a removal that was killed
    if not path.is_dir():
        return
    with clear_errors(path):
        hidden = hidden_sibling(path)
        try:
            path.rename(hidden)
        except FileNotFoundError:  # another process was quicker
            return
        fault_point("removed")
        sync_folder(path.parent)
        _remove_folder(hidden)


def take_over(source: Path, folder: Path) -> None:
    """Give all that lies below one folder to another one too, which is being filled: second names for the same files.

    Where a file system has no second names, files are copied. The source stays whole, for a run that is killed here.
    """
    for where, folders, names in os.walk(source):
        to = folder / Path(where).relative_to(source)
        to.mkdir(parents=True, exist_ok=True)
        links = [name for name in folders if Path(where, name).is_symlink()]
        for name in [*names, *links]:
            old = Path(where, name)
            try:
                os.link(old, to / name, follow_symlinks=False)
            except (FileExistsError, FileNotFoundError):
                raise
            except (OSError, NotImplementedError):
                if old.is_symlink():
                    (to / name).symlink_to(old.readlink())
                else:
                    shutil.copyfile(old, to / name)


_HINTS = {
    errno.ENOSPC: "Make room and run it again: nothing was left half-written.",
    errno.EDQUOT: "Your quota is used up: make room and run it again.",
    errno.EROFS: "Choose a folder that can be written.",
    errno.EACCES: "Choose a folder that you may write.",
    errno.EPERM: "Choose a folder that you may write.",
}


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Say which of our files could not be written, why, and what to do, where the operating system refuses."""
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename
        if isinstance(named, str | os.PathLike):
            other = Path(named)
            if path.parent not in other.parents and other not in path.parents:
                raise  # an input that the block reads is no failed write
        hint = _HINTS.get(error.errno or 0, "Run it again once that is mended: nothing was left half-written.")
        raise NotWritten(path, f"could not be written: {error.strerror or error}.", hint) from error


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


def is_file(path: str | Path) -> bool:
    """Whether a file is there, as far as we may look: not where its folder is closed to us, or no disk takes the name.

    `Path.is_file` raises there, and one closed folder must not end the work on a whole project.
    """
    return os.path.isfile(path)  # noqa: PTH113
