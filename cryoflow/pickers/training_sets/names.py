"""Micrograph names of one program, found again among those of another."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.find_micrographs import canonical_name, clean_name

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings


@dataclass(frozen=True)
class NameMatch:
    """Match of names: which of `theirs` each of `ours` is.

    Attributes
    ----------
    index : (n,) int
        Row among theirs, -1 where there is none.
    how
        How many were matched in which way: `exact`, `path end`, `file name`, `stem`, `stem without uid`.
    """

    index: npt.NDArray[np.int64]
    how: dict[str, int]

    @property
    def matched(self) -> npt.NDArray[np.bool_]:
        """Return whether each row has a match, (n,) bool."""
        return self.index >= 0


def _file_name(name: str) -> str:
    return PurePosixPath(clean_name(name)).name


def _stem(name: str) -> str:
    return PurePosixPath(clean_name(name)).stem


_WAYS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("exact", clean_name),
    ("path end", lambda name: "/".join(PurePosixPath(clean_name(name)).parts[-2:])),
    ("file name", _file_name),
    ("stem", _stem),
    ("stem without uid", canonical_name),
)
"""From the strictest to the most forgiving; a way counts only where it leaves one choice on both sides."""


def match_names(ours: Sequence[str], theirs: Sequence[str]) -> NameMatch:
    """Find each of our names among theirs: as it is, by the end of its path, by file name, by stem, and by stem
    without CryoSPARC's uid prefix and what programs append (`_DW`, `_patch_aligned_doseweighted`).

    Each of theirs is given away once. A name for which two are left in some way is not guessed at.

    >>> match_names(["mics/a.mrc"], ["J2/m/001234567890123456789_a_patch_aligned.mrc"]).index.tolist()
    [0]
    """
    index = np.full(len(ours), -1, np.int64)
    how: dict[str, int] = {}
    free = set(range(len(theirs)))
    for way, key in _WAYS:
        left = [i for i in range(len(ours)) if index[i] < 0]
        if not left or not free:
            break
        places = {key(theirs[j]): j for j in sorted(free)}
        many_theirs = Counter(key(theirs[j]) for j in free)
        many_ours = Counter(key(ours[i]) for i in left)
        for i in left:
            wanted = key(ours[i])
            if many_ours[wanted] == 1 and many_theirs[wanted] == 1:
                index[i] = places[wanted]
                free.discard(places[wanted])
                how[way] = how.get(way, 0) + 1
    return NameMatch(index, how)


def match_and_note(
    ours: Sequence[str], theirs: Sequence[str], file: str | Path, settings: DerivedSettings
) -> NameMatch:
    """Match an entry's micrographs with those of a project's file, and note among the settings how it went.

    Raises
    ------
    BadInput
        If none matches.
    """
    match = match_names(ours, theirs)
    if not match.matched.any():
        first = theirs[0] if len(theirs) else "none"
        raise BadInput(
            file,
            f"names no micrograph of the entry. It has {first}; the entry has {ours[0]}.",
            "Are they of the same session?",
        )
    for how, count in match.how.items():
        settings.note(f"matched by {how}", count, "micrographs")
    if missing := int((~match.matched).sum()):
        first = ours[int(np.argmin(match.matched))]
        settings.note("not in the project", missing, f"of the entry's micrographs, the first {first}")
    if rest := len(theirs) - int(match.matched.sum()):
        settings.note("not in the entry", rest, "of the project's micrographs")
    return match


def plain_stem(name: str) -> str:
    """Return stem of a micrograph's name, letters, digits, `-` and single `_` only: Topaz cuts names at dots and
    blanks.

    EPicker cuts `_autopick`, `_manualpick` and `_empiar` out of names.

    >>> plain_stem("J1/a b.v1_empiar_10017.mrc")
    'a_b_v1-empiar_10017'
    """
    stem = re.sub(r"\.(mrc|tiff?)$", "", name.rsplit("/", 1)[-1], flags=re.IGNORECASE)
    plain = re.sub(r"_+", "_", re.sub(r"[^A-Za-z0-9-]", "_", stem)).strip("_-")[:100]
    return re.sub(r"_(?=autopick|manualpick|empiar)", "-", plain) or "micrograph"
