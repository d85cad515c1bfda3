"""Atomic writes: files and folders that are complete or absent. All of cryoflow writes through here.

Order of a write: everything goes to a hidden sibling in the target's own folder, is synced, and one rename commits it.
A crash before the rename leaves a hidden file, which the next process that writes into that folder removes
(`stale_files.py`); a crash after it leaves the new content. `fault_point` names each of those steps, so that tests can
end the process there.

`held` is the one place where a folder to write into is opened. Every change is made relative to that open folder
(`openat`), and no link below `root` is followed. A name that comes from a file, and a folder that somebody replaces by
a link while we write, therefore cannot lead a write out of `root`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cryoflow.errors import NotWritten, UnsafePath
from cryoflow.storage.fingerprints import Fingerprint
from cryoflow.storage.stale_files import hidden_name, is_unfinished, remove_leftovers, sweep

FAULT_POINTS = frozenset(
    {
        *("file.opened", "file.piece", "file.written", "file.synced", "file.renamed"),
        *("folder.opened", "folder.written", "folder.synced", "folder.moved_aside", "folder.renamed", "folder.cleaned"),
        *("link.made", "link.renamed", "moved", "removed", "lock.written", "lock.taken", "lock.released"),
    }
)
"""Every place where a test ends the process. A step that writes, renames, syncs or removes is followed by one."""

on_fault_point: Callable[[str], None] | None = None
"""Called with the name of each step of a write; tests set it, to fail or to be killed there."""


def fault_point(name: str) -> None:
    """Let a test end the process or raise here; does nothing otherwise."""
    if on_fault_point is not None:
        if name not in FAULT_POINTS:
            raise ValueError(f"{name} is not in FAULT_POINTS")
        on_fault_point(name)


_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def held(path: Path, root: Path | None = None, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Open the folder that contains `path`; gives its descriptor and the last name of `path`.

    Parameters
    ----------
    path
        What is to be written, moved or removed.
    root
        A folder that the user named. Links in the path of `root` itself are the user's and are followed; below it
        none is. Without it, the folder that contains `path` is taken for one that the user named.
    make
        Create the folders that are missing.

    Raises
    ------
    UnsafePath
        If `path` does not lie below `root`, or a link stands where one of its folders should be.
    OSError
        If a folder cannot be opened or created.
    """
    path = Path(path)
    base = path.parent if root is None else Path(root)
    parts = _parts_below(path, base)
    if make:
        base.mkdir(parents=True, exist_ok=True)
    folder = _opened_folder(str(base), None)
    try:
        at = base
        for name in parts[:-1]:
            at = at / name
            below = _below(folder, name, at, make=make)
            os.close(folder)
            folder = below
        yield folder, parts[-1]
    finally:
        os.close(folder)


def _parts_below(path: Path, base: Path) -> tuple[str, ...]:
    """The names that lead from `base` to `path`."""
    try:
        parts = path.relative_to(base).parts
    except ValueError:
        parts = ()
    if not parts or ".." in parts or "\0" in str(path):
        raise UnsafePath(path, f"it does not lie inside {base}: nothing is written there.")
    return parts


def _below(folder: int, name: str, path: Path, *, make: bool) -> int:
    """Open a folder inside an open folder, without following a link."""
    try:
        return _opened_folder(name, folder)
    except FileNotFoundError:
        if not make:
            raise
        try:
            os.mkdir(name, dir_fd=folder)
        except FileExistsError:  # another process was quicker
            pass
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        return _opened_folder(name, folder)
    except OSError as error:
        if _kind(name, folder) == stat.S_IFLNK:
            raise UnsafePath(
                path, "a link stands where a folder of cryoflow should be.", "Look where it leads, and remove it."
            ) from None
        raise OSError(error.errno, error.strerror, str(path)) from error


def _opened_folder(name: str, folder: int | None) -> int:
    flags = _FOLDER if folder is None else _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=folder)
    except PermissionError:  # a folder that may be written and entered, but not listed
        if not hasattr(os, "O_PATH"):
            raise
        return os.open(name, os.O_PATH | os.O_DIRECTORY | (flags & os.O_NOFOLLOW), dir_fd=folder)


def _kind(name: str, folder: int) -> int | None:
    """What a name in an open folder is (`stat.S_IFLNK`, ...), None where it is free."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden sibling to write to, which becomes `path` in one step when the block ends without an error.

    For libraries that write to a path; `write_atomically` is for content that we have.

    Raises
    ------
    NotWritten
        If the disk is full, read-only or failing; `path` is then unchanged.
    """
    path = Path(path)
    with clear_errors(path), held(path, make=True) as (folder, name):
        remove_leftovers(folder)
        hidden = hidden_name(name)
        try:
            os.close(os.open(hidden, _NEW_FILE, 0o666, dir_fd=folder))
            fault_point("file.opened")
            yield path.with_name(hidden)
            fault_point("file.written")
            _sync(hidden, folder)
            fault_point("file.synced")
            os.replace(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
            fault_point("file.renamed")
            _sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=folder)
            raise


def write_atomically(path: Path, content: str | bytes | Iterable[bytes], *, root: Path | None = None) -> None:
    """Write a whole file, complete or not at all. Names that are not UTF-8 become the bytes that they were.

    Parameters
    ----------
    root
        See `held`.

    Raises
    ------
    NotWritten
        If the disk is full, read-only or failing; `path` is then unchanged.
    UnsafePath
        If `path` leads out of `root`.
    """
    path = Path(path)
    with clear_errors(path), held(path, root, make=True) as (folder, name):
        remove_leftovers(folder)
        hidden = hidden_name(name)
        try:
            with open(os.open(hidden, _NEW_FILE, 0o666, dir_fd=folder), "wb") as file:
                fault_point("file.opened")
                write_pieces(file, content.encode(errors="surrogateescape") if isinstance(content, str) else content)
                file.flush()
                fault_point("file.written")
                os.fsync(file.fileno())
            fault_point("file.synced")
            os.replace(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
            fault_point("file.renamed")
            _sync_folder(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=folder)
            raise


def write_new(
    path: Path, content: bytes | Iterable[bytes], *, root: Path | None = None, sync: bool = False
) -> tuple[int, str]:
    """Write a file that must not exist yet, inside a hidden folder that is being filled (`replacing_folder`).

    Parameters
    ----------
    root
        See `held`.
    sync
        Put the content on the disk; `replacing_folder` does so for all files of the folder.

    Returns
    -------
    tuple
        Number of bytes, and the fingerprint of the content.
    """
    with (
        clear_errors(path),
        held(path, root) as (folder, name),
        open(os.open(name, _NEW_FILE, 0o666, dir_fd=folder), "wb") as file,
    ):
        size, fingerprint = write_pieces(file, content)
        if sync:
            file.flush()
            os.fsync(file.fileno())
        return size, fingerprint


def write_pieces(file: BinaryIO, content: bytes | Iterable[bytes]) -> tuple[int, str]:
    """Write `content` to an open file; returns number of bytes and fingerprint."""
    found = Fingerprint()
    size = 0
    for piece in [content] if isinstance(content, bytes) else content:
        fault_point("file.piece")
        file.write(piece)
        found.add(piece)
        size += len(piece)
    return size, found.digits


@contextmanager
def replacing_folder(path: Path, *, root: Path | None = None) -> Iterator[Path]:
    """Give a hidden sibling folder to fill, which takes the place of `path` when the block ends without an error.

    A folder cannot be replaced in one step where `path` exists: the old one is moved aside first
    (`.NAME.cryoflow-old`). The next call moves it back if a crash came between the two renames.

    Parameters
    ----------
    root
        See `held`. Without it, a link at `path` is the user's own (results may lie on another disk) and is followed.

    Raises
    ------
    NotWritten
        If the disk is full, read-only or failing; `path` is then unchanged.
    UnsafePath
        If `path` leads out of `root`.
    """
    path = Path(path)
    if root is None and path.is_symlink():
        path = Path(os.path.realpath(path))
    aside = aside_of(path).name
    with clear_errors(path), held(path, root, make=True) as (folder, name):
        hidden = hidden_name(name)
        try:
            kind = _kind(name, folder)
            if kind == stat.S_IFLNK:
                raise UnsafePath(path, "a link stands where a folder of cryoflow should be.", "Remove it.")
            if kind not in (None, stat.S_IFDIR):
                raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is to be", str(path))
            _mend(name, folder)
            remove_leftovers(folder)
            os.mkdir(hidden, dir_fd=folder)
            fault_point("folder.opened")
            yield path.with_name(hidden)
            fault_point("folder.written")
            _sync_all(hidden, folder)
            fault_point("folder.synced")
            if _kind(name, folder) is not None:
                os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
                fault_point("folder.moved_aside")
            os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
            fault_point("folder.renamed")
            _sync_folder(folder)
            if _kind(aside, folder) is not None:
                _remove_tree(aside, folder)
                fault_point("folder.cleaned")
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(hidden, ignore_errors=True, dir_fd=folder)
                _mend(name, folder)
            raise


ASIDE = ".cryoflow-old"


def aside_of(path: Path) -> Path:
    """Return where `replacing_folder` keeps the old folder between its two renames."""
    return path.with_name(f".{path.name}{ASIDE}")


def mend(path: Path, *, root: Path | None = None) -> None:
    """Undo what a killed `replacing_folder` left: move the old folder back, or remove it where a new one stands."""
    with suppress(FileNotFoundError), held(path, root) as (folder, name):
        _mend(name, folder)


def _mend(name: str, folder: int) -> None:
    aside = aside_of(Path(name)).name
    if _kind(aside, folder) == stat.S_IFDIR:
        if _kind(name, folder) is not None:
            _remove_tree(aside, folder)
        else:
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _remove_tree(name: str, folder: int) -> None:
    """Remove a folder that another process may be removing, too."""
    with suppress(FileNotFoundError):
        shutil.rmtree(name, dir_fd=folder)


def link(path: Path, target: str | Path, *, root: Path | None = None) -> None:
    """Make `path` a symbolic link to `target`, in one step where another link stands there.

    Raises
    ------
    NotWritten
        If it cannot be made.
    UnsafePath
        If `path` leads out of `root`, or is something else than a link.
    """
    with clear_errors(path), held(path, root, make=True) as (folder, name):
        try:
            os.symlink(target, name, dir_fd=folder)
            fault_point("link.made")
        except FileExistsError:
            if _kind(name, folder) != stat.S_IFLNK:
                raise UnsafePath(path, "a file stands where a link is to be; it is left alone.", "Move it.") from None
            remove_leftovers(folder)
            hidden = hidden_name(name)
            try:
                os.symlink(target, hidden, dir_fd=folder)
                fault_point("link.made")
                os.replace(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
                fault_point("link.renamed")
            except BaseException:
                with suppress(OSError):
                    os.unlink(hidden, dir_fd=folder)
                raise


def replace_file(path: Path, new: Path, *, root: Path | None = None) -> None:
    """Rename a complete file to `path`, replacing the file there in one step, and sync.

    Raises
    ------
    NotWritten
        If it cannot be renamed; `path` is then unchanged.
    UnsafePath
        If `path` leads out of `root`.
    """
    with clear_errors(path), held(new) as (old, new_name), held(path, root) as (folder, name):
        _sync(new_name, old)
        os.replace(new_name, name, src_dir_fd=old, dst_dir_fd=folder)
        fault_point("file.renamed")
        _sync_folder(folder)


def move(path: Path, to: Path, *, root: Path | None = None) -> None:
    """Rename a file or folder to a name that is free, and sync.

    Raises
    ------
    NotWritten
        If it cannot be moved.
    UnsafePath
        If `path` or `to` leads out of `root`.
    """
    with clear_errors(to), held(path, root) as (old, name), held(to, root, make=True) as (new, new_name):
        if _kind(new_name, new) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(to))
        os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
        fault_point("moved")
        _sync_folder(new)
        _sync_folder(old)


def remove(path: Path, *, root: Path | None = None) -> None:
    """Remove a file of ours if it exists.

    Raises
    ------
    NotWritten
        If it cannot be removed.
    UnsafePath
        If `path` leads out of `root`.
    """
    with clear_errors(path), suppress(FileNotFoundError), held(path, root) as (folder, name):
        os.unlink(name, dir_fd=folder)
        fault_point("removed")
        _sync_folder(folder)


def remove_folder(path: Path, *, root: Path | None = None) -> None:
    """Remove a folder of ours if it exists; it is gone in one step, and its files after that.

    Raises
    ------
    NotWritten
        If it cannot be removed.
    UnsafePath
        If `path` leads out of `root`.
    """
    with clear_errors(path), suppress(FileNotFoundError), held(path, root) as (folder, name):
        remove_leftovers(folder)  # of a removal that was killed
        if _kind(name, folder) != stat.S_IFDIR:
            return
        hidden = hidden_name(name)
        os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
        fault_point("removed")
        _sync_folder(folder)
        _remove_tree(hidden, folder)


def make_folder(path: Path) -> None:
    """Create a folder that the user named for output, and its parents, where they are missing.

    Raises
    ------
    NotWritten
        If it cannot be created, or something else stands there.
    """
    with clear_errors(path):
        Path(path).mkdir(parents=True, exist_ok=True)


def clean(folder: Path, *, root: Path) -> None:
    """Remove what killed writers left in a folder, also if this process did so before."""
    with suppress(OSError, UnsafePath), held(folder / "any", root) as (descriptor, _):
        sweep(descriptor)


def take_over(source: Path, folder: Path) -> None:
    """Give all that lies below one folder to another one, which is being filled: second names for the same files.

    Files are copied if the file system has no second names. The source stays whole, for a run that is killed here.
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
    errno.EIO: "The disk or its file server failed: look at its health, then run it again.",
}


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn an error of the operating system about `path` into `NotWritten`: which file, why, and what to do."""
    path = Path(path)
    try:
        yield
    except OSError as error:
        named = error.filename2 or error.filename
        if isinstance(named, str | os.PathLike):
            other = Path(named)
            # Calls relative to an open folder name the file by its last name alone.
            names = (path.name, aside_of(path).name)
            is_ours = other.name == str(other) and (other.name in names or is_unfinished(other.name))
            if not is_ours and path.parent not in other.parents and other not in path.parents:
                raise  # an input that the block reads is no failed write
        hint = _HINTS.get(error.errno or 0, "Run it again once that is mended: nothing was left half-written.")
        raise NotWritten(path, f"could not be written: {error.strerror or error}.", hint) from error


def _sync(name: str, folder: int) -> None:
    """Put the content of a file in an open folder on the disk."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_all(name: str, folder: int) -> None:
    """Put all files and names below a folder on the disk."""
    with ThreadPoolExecutor(8) as pool:  # file systems commit what is asked for together in one go
        for _, _, names, descriptor in os.fwalk(name, dir_fd=folder):
            files = [name for name in names if _kind(name, descriptor) == stat.S_IFREG]
            list(pool.map(_sync, files, [descriptor] * len(files)))
            _sync_folder(descriptor)


_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
"""Answers of file systems that cannot sync a folder (some network file systems), and of `O_PATH` descriptors.

They lose nothing that was promised. Other errors mean that the disk failed, and are raised.
"""


def _sync_folder(folder: int) -> None:
    """Put the names in an open folder on the disk."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk.

    Raises
    ------
    NotWritten
        If the disk fails.
    """
    with clear_errors(path), held(path / "any") as (folder, _):
        _sync_folder(folder)


def is_file(path: str | Path) -> bool:
    """Return whether a file exists, as far as it can be seen: False if its folder is closed to us.

    `Path.is_file` raises there, and one closed folder must not end the work on a whole project.
    """
    return os.path.isfile(path)  # noqa: PTH113
