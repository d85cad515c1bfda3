"""Opening what others wrote. All of cryoflow reads users' files through here.

Any name in a project may be a named pipe, a socket or a device, or a link to one: a pipe is waited for for ever, and
/dev/zero never ends. Only regular files are read; the others are an error like that of a file which cannot be read.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.storage import budgets
from cryoflow.storage.budgets import LONGEST_LINE_BYTES as LONGEST_LINE_BYTES
from cryoflow.storage.budgets import WHOLE_BYTES as WHOLE_BYTES
from cryoflow.system import garbage_collector

if TYPE_CHECKING:
    import numpy.typing as npt


def opened(path: str | Path) -> io.BufferedReader:
    """Open a regular file for reading bytes.

    Raises
    ------
    OSError
        Where it cannot be opened, or is a pipe, a socket or a device; says which.
    """
    return open(path, "rb", opener=_regular)


def unbuffered(path: str | Path) -> io.FileIO:
    """Open as `opened` does, for reads of large pieces straight into an array."""
    return open(path, "rb", buffering=0, opener=_regular)


def text_lines(path: str | Path, *, errors: str = "strict") -> io.TextIOWrapper:
    """Open as `opened` does, for UTF-8 text; line ends of all systems become `\\n`."""
    return io.TextIOWrapper(opened(path), encoding="utf-8", errors=errors)


def opened_table(path: str | Path) -> io.BufferedReader:
    """Open as `opened` does, for a table of text whose rows a library splits: the length of each row is checked first.

    Raises
    ------
    OSError
        As `opened`.
    OverBudget
        If a row is longer than `budgets.LONGEST_ROW_BYTES`, or has more columns than `budgets.MOST_COLUMNS`.
    """
    file = opened(path)
    try:
        budgets.check_rows(path, file)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: str | Path, *, at_most: int = WHOLE_BYTES) -> bytes:
    """Return the whole content of a regular file.

    Raises
    ------
    OSError
        As `opened`, and where it has more than `at_most` bytes.
    """
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= at_most else b""
        while size <= at_most and (more := file.read(1 << 16)):  # it grows, or is one of the kernel's, without a size
            content += more
            size = len(content)
        if size <= at_most:
            return content
    raise OSError(errno.EFBIG, f"it has more than {at_most >> 10} KiB", str(path))


def is_gone(error: OSError) -> bool:
    """Return whether an error says that a file is not there, or (ESTALE, over NFS) that another was put in its
    place."""
    return isinstance(error, FileNotFoundError) or error.errno == errno.ESTALE


def read_text(path: str | Path, *, errors: str = "strict", at_most: int = WHOLE_BYTES) -> str:
    """Return the whole content of a regular file as text; line ends of all systems become `\\n`.

    Raises
    ------
    OSError
        As `read_bytes`.
    UnicodeDecodeError
        Where it is no such text, unless `errors` says otherwise.
    """
    text = read_bytes(path, at_most=at_most).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def load_npy(file: Path | io.BytesIO, *, mapped: bool = False) -> npt.NDArray[Any]:
    """Return the array in a `.npy` file, in any thread; `mapped` to memory, read-only, where it is asked for.

    Raises
    ------
    ValueError, SyntaxError, tokenize.TokenError
        Where it is no such file; NumPy parses the header as Python.
    OSError
        Where it cannot be read.
    """
    import numpy as np

    with garbage_collector.paused():
        array: npt.NDArray[Any] = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
    return array


def read_npz(path: Path, only: str | None = None) -> dict[str, npt.NDArray[Any]]:
    """Return arrays by name that lie in the file as they are: a compressed one may claim to be larger than any memory.

    Parameters
    ----------
    only
        Read the array of this name alone; the others of a large file cost nothing then.

    Raises
    ------
    ValueError
        Where it is no such file.
    """
    import tokenize
    import zipfile

    try:
        with opened(path) as file, zipfile.ZipFile(file) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed")
            return {
                name.removesuffix(".npy"): load_npy(io.BytesIO(archive.read(name)))
                for name in archive.namelist()
                if only is None or name == f"{only}.npy"
            }
    except (zipfile.BadZipFile, EOFError, MemoryError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path.name}: {error}") from error
    except (SyntaxError, tokenize.TokenError) as error:
        raise ValueError(f"{path.name}: {error}") from error


def _regular(path: str, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK)  # to open a pipe would wait for its writer
    except BlockingIOError:  # a file server's client has a lease of the file, which is no reason not to read it
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ENXIO and stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "it is a socket, not a file", path) from None
        raise
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISDIR(kind):  # of a folder, Python itself says that it is one
        return descriptor
    os.close(descriptor)
    what = "a named pipe" if stat.S_ISFIFO(kind) else "a device"
    raise OSError(errno.EINVAL, f"it is {what}, not a file", path)
