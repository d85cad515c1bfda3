"""Put files and names on the disk, relative to an open folder (`open_folder.held`)."""

from __future__ import annotations

import errno
import os

from cryoflow.system.threads import on_each_file


def sync_file(name: str, folder: int) -> None:
    """Put the content of a file in an open folder on the disk."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(name: str, folder: int) -> None:
    """Put all files and names below a folder on the disk."""
    below = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        with os.scandir(below) as entries:
            inside = list(entries)
        for entry in inside:
            if entry.is_dir(follow_symlinks=False):
                sync_all(entry.name, below)
        files = [entry.name for entry in inside if entry.is_file(follow_symlinks=False)]
        # File systems commit what is asked for together in one go.
        on_each_file(lambda file: sync_file(file, below), files)
        sync_names(below)
    finally:
        os.close(below)


_CANNOT_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF}
"""Answers of file systems that cannot sync a folder (some network file systems), and of `O_PATH` descriptors.

They lose nothing that was promised. Other errors mean that the disk failed, and are raised.
"""


def sync_names(folder: int) -> None:
    """Put the names in an open folder on the disk."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
