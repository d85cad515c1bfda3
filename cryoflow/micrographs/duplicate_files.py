"""Copies of one micrograph, under other names or in other projects, recognized by their content.

A micrograph that trains in one project must not test in another, or the test would measure what was learned by heart.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.storage.fingerprints import fingerprint
from cryoflow.system.threads import on_each_file


def leaders(paths: Sequence[str | os.PathLike[str] | None], groups: Sequence[Hashable]) -> npt.NDArray[np.intp]:
    """Return which micrograph each one follows when a set is divided: itself, where it has no copy.

    Copies have the same `cryoflow.storage.fingerprints.fingerprint`: of size, first and last 64 KiB, and so of the
    header with its statistics and of many pixels. Of several copies that one leads whose group is the largest, the
    first of them in order.

    Parameters
    ----------
    paths : (n,)
        None, and files that cannot be read, have no copies.
    groups : (n,)
        The project that each belongs to.

    Returns
    -------
    (n,) int
        `split[leaders(...)]` gives copies the same part of a split.
    """
    sizes = [_size(path) for path in paths]
    common = {size for size, n in Counter(sizes).items() if n > 1 and size is not None}
    candidates = [i for i, size in enumerate(sizes) if size in common]
    marks = on_each_file(lambda i: _mark(paths[i]), candidates)
    members: dict[str, list[int]] = {}
    for i, mark in zip(candidates, marks, strict=True):
        if mark is not None:
            members.setdefault(mark, []).append(i)
    in_group = Counter(groups)
    found = np.arange(len(paths))
    for copies in members.values():
        if len(copies) > 1:
            found[copies] = max(copies, key=lambda i: (in_group[groups[i]], -i))
    return found


def _size(path: str | os.PathLike[str] | None) -> int | None:
    try:
        return None if path is None else os.stat(path).st_size
    except (OSError, ValueError):
        return None


def _mark(path: str | os.PathLike[str] | None) -> str | None:
    try:
        return None if path is None else fingerprint(Path(path))
    except OSError:
        return None
