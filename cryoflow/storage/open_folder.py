"""Open the folder to write into, without leaving the folder that the user named.

`held` is the one place where a folder to write into is opened. Every change is made relative to that open folder
(`openat`), and no link below `root` is followed. A name that comes from a file, and a folder that somebody replaces by
a link while we write, therefore cannot lead a write out of `root`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryoflow.errors import UnsafePath

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


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
    """Return the names that lead from `base` to `path`."""
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
        if kind_in(name, folder) == stat.S_IFLNK:
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


def kind_in(name: str, folder: int) -> int | None:
    """Return what a name in an open folder is (`stat.S_IFLNK`, ...), None where it is free."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None
