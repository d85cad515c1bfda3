"""Names of files and folders made of any text: never a path, never hidden, never two texts under one name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from cryoflow.errors import UnsafePath
from cryoflow.storage.fingerprints import fingerprint_of


def short_hash(text: str, digits: int = 8) -> str:
    """Return a few hexadecimal digits that tell texts apart."""
    return fingerprint_of(text)[:digits]


_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@-]+")


def safe_name(text: str, *, longest: int = 120) -> str:
    """Return a file name made of `text`: letters, digits and `._+=@-` only, never hidden, never a path.

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


def is_file_name(text: str) -> bool:
    """Return whether a text of somebody else's file can be the name of a file, and never a path.

    >>> [is_file_name(text) for text in ("a b.mrc", "..", "/etc/x", "a/b", "")]
    [True, False, False, False, False]
    """
    return text not in ("", ".", "..") and not any(c == "/" or not c.isprintable() for c in text)


def expanded(path: str | Path) -> Path:
    """Return a path with the home folder for its leading `~`; one of an account that does not exist stays as it is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111  # Path.expanduser raises RuntimeError


def inside(folder: Path, name: str) -> Path:
    """Return `folder / name`, refused where it would not lie directly or deeply inside `folder`.

    Raises
    ------
    UnsafePath
        For absolute names, `..`, NUL and newlines.
    """
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or any(c in name for c in "\0\n\r"):
        raise UnsafePath(folder, f"the name {name!r} leads outside this folder or cannot be a file name.")
    return Path(folder, name)
