"""Write whole folders that are complete or absent, remove them, and mend what a killed writer left of one.

As with files (`files.py`), the content goes to a hidden sibling, is synced, and one rename commits it.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryoflow.errors import UnsafePath
from cryoflow.storage.fault_points import fault_point
from cryoflow.storage.open_folder import held, kind_in
from cryoflow.storage.stale_files import aside_of, hidden_name, remove_stale_files, sweep
from cryoflow.storage.syncing import sync_all, sync_names
from cryoflow.storage.write_errors import clear_errors


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
            kind = kind_in(name, folder)
            if kind == stat.S_IFLNK:
                raise UnsafePath(path, "a link stands where a folder of cryoflow should be.", "Remove it.")
            if kind not in (None, stat.S_IFDIR):
                raise NotADirectoryError(errno.ENOTDIR, "a file stands where a folder is to be", str(path))
            _mend(name, folder)
            remove_stale_files(folder)
            os.mkdir(hidden, dir_fd=folder)
            fault_point("folder.opened")
            yield path.with_name(hidden)
            fault_point("folder.written")
            sync_all(hidden, folder)
            fault_point("folder.synced")
            if kind_in(name, folder) is not None:
                os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
                fault_point("folder.moved_aside")
            os.rename(hidden, name, src_dir_fd=folder, dst_dir_fd=folder)
            fault_point("folder.renamed")
            sync_names(folder)
            if kind_in(aside, folder) is not None:
                _remove_tree(aside, folder)
                fault_point("folder.cleaned")
        except BaseException:
            with suppress(OSError):
                shutil.rmtree(hidden, ignore_errors=True, dir_fd=folder)
                _mend(name, folder)
            raise


def mend(path: Path, *, root: Path | None = None) -> None:
    """Undo what a killed `replacing_folder` left: move the old folder back, or remove it where a new one stands."""
    with suppress(FileNotFoundError), held(path, root) as (folder, name):
        _mend(name, folder)


def _mend(name: str, folder: int) -> None:
    aside = aside_of(Path(name)).name
    if kind_in(aside, folder) == stat.S_IFDIR:
        if kind_in(name, folder) is not None:
            _remove_tree(aside, folder)
        else:
            os.rename(aside, name, src_dir_fd=folder, dst_dir_fd=folder)


def _remove_tree(name: str, folder: int) -> None:
    """Remove a folder that another process may be removing, too."""
    with suppress(FileNotFoundError):
        shutil.rmtree(name, dir_fd=folder)


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
        remove_stale_files(folder)  # of a removal that was killed
        if kind_in(name, folder) != stat.S_IFDIR:
            return
        hidden = hidden_name(name)
        os.rename(name, hidden, src_dir_fd=folder, dst_dir_fd=folder)
        fault_point("removed")
        sync_names(folder)
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


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk.

    Raises
    ------
    NotWritten
        If the disk fails.
    """
    with clear_errors(path), held(path / "any") as (folder, _):
        sync_names(folder)
