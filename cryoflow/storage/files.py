"""Write files that are complete or absent. All of cryoflow writes through here and through `folders.py`.

Order of a write: everything goes to a hidden sibling in the target's own folder, is synced, and one rename commits it.
A crash before the rename leaves a hidden file, which the next process that writes into that folder removes
(`stale_files.py`); a crash after it leaves the new content. `fault_point` names each of those steps, so that tests can
end the process there. `open_folder.held` opens the folder, and holds every name to its root.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cryoflow.errors import UnsafePath
from cryoflow.storage.fault_points import fault_point
from cryoflow.storage.fingerprints import Fingerprint
from cryoflow.storage.open_folder import NEW_FILE, held, kind_in
from cryoflow.storage.stale_files import hidden_name, remove_stale_files
from cryoflow.storage.syncing import sync_file, sync_names
from cryoflow.storage.write_errors import clear_errors


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
    with _renamed_at_the_end(path) as (folder, hidden):
        os.close(os.open(hidden, NEW_FILE, 0o666, dir_fd=folder))
        fault_point("file.opened")
        yield path.with_name(hidden)
        fault_point("file.written")
        sync_file(hidden, folder)


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
    with (
        _renamed_at_the_end(Path(path), root) as (folder, hidden),
        open(os.open(hidden, NEW_FILE, 0o666, dir_fd=folder), "wb") as file,
    ):
        fault_point("file.opened")
        write_pieces(file, content.encode(errors="surrogateescape") if isinstance(content, str) else content)
        file.flush()
        fault_point("file.written")
        os.fsync(file.fileno())


@contextmanager
def _renamed_at_the_end(path: Path, root: Path | None = None) -> Iterator[tuple[int, str]]:
    """Open the folder of `path` and give a hidden name in it, for a file that the block writes and syncs.

    The file is then renamed to `path`; if the block raises, it is removed.
    """
    with clear_errors(path), held(path, root, make=True) as (folder, name):
        remove_stale_files(folder)
        hidden = hidden_name(name)
        try:
            yield folder, hidden
            fault_point("file.synced")
            os.replace(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
            fault_point("file.renamed")
            sync_names(folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(hidden, dir_fd=folder)
            raise


def write_if_changed(path: Path, content: str | bytes) -> bool:
    """Write a whole file, except where it holds the same already; returns whether it was written.

    Raises
    ------
    NotWritten
        If the disk is full, read-only or failing; `path` is then unchanged.
    """
    raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISREG(status.st_mode) and status.st_size == len(raw) and file.read(len(raw)) == raw:
                return False
    except OSError:
        pass  # not there, or it cannot be read: the write tells what is wrong
    write_atomically(path, raw)
    return True


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
        open(os.open(name, NEW_FILE, 0o666, dir_fd=folder), "wb") as file,
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
            if kind_in(name, folder) != stat.S_IFLNK:
                raise UnsafePath(path, "a file stands where a link is to be; it is left alone.", "Move it.") from None
            remove_stale_files(folder)
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
        sync_file(new_name, old)
        os.replace(new_name, name, src_dir_fd=old, dst_dir_fd=folder)
        fault_point("file.renamed")
        sync_names(folder)


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
        if kind_in(new_name, new) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(to))
        os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
        fault_point("moved")
        sync_names(new)
        sync_names(old)


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
        sync_names(folder)


def is_file(path: str | Path) -> bool:
    """Return whether a file exists, as far as it can be seen: False if its folder is closed to us.

    `Path.is_file` raises there, and one closed folder must not end the work on a whole project.
    """
    return os.path.isfile(path)  # noqa: PTH113
