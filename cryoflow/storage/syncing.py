"""Put files and names on the disk, relative to an open folder (`open_folder.held`)."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor

from cryoflow.storage.open_folder import kind_in


def sync_file(name: str, folder: int) -> None:
    """Put the content of a file in an open folder on the disk."""
    descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(name: str, folder: int) -> None:
    """Put all files and names below a folder on the disk."""
    with ThreadPoolExecutor(8) as pool:  # file systems commit what is asked for together in one go
        for _, _, names, descriptor in os.fwalk(name, dir_fd=folder):
            files = [name for name in names if kind_in(name, descriptor) == stat.S_IFREG]
            list(pool.map(sync_file, files, [descriptor] * len(files)))
            sync_names(descriptor)


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
