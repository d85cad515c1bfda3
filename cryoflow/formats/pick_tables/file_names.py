"""Values in the name of a file of picks: its micrograph, and whether its picks are particles."""

from __future__ import annotations

import re
from pathlib import Path

from cryoflow.negative_names import negative_words

FALSE_POSITIVES = "false_positives"
"""CryoPPP's folder of labels that are no particles."""
_REPEATED = re.compile(r"_nonunique\.\w+$|\.\d+\.pik$", re.IGNORECASE)
"""Gautomatch's picks before it drops those that are too close to a better one (the picks of `_automatch` and more), and
Appion's peaks of a single template (those of `X.a.pik` are the best of all templates)."""
_APPENDED = re.compile(
    r"_(autopick\w*|automatch|manualpick|applepick|extract|reextract|picks|particles|coords?|boxes|topaz\w*|cryolo"
    r"|boxnet\w*|warp|info|nonunique|rejected|false_?positives?|excluded)$",
    re.IGNORECASE,
)


def without_appended(stem: str) -> str:
    """Return a file's stem without what pickers append to the micrograph's.

    >>> without_appended("mic_001_automatch")
    'mic_001'
    """
    return _APPENDED.sub("", stem) or stem


def negative_suffix(path: Path) -> str:
    """Return the suffix of the set that a file of picks belongs to where they are no particles; empty where they are.

    >>> negative_suffix(Path("picks/mic_001_rejected.star")), negative_suffix(Path("picks/mic_001_automatch.star"))
    ('rejected', '')
    """
    if words := negative_words(path.stem):
        return words[-1]
    return "falsepositives" if path.parent.name == FALSE_POSITIVES else ""


def is_repeated(path: Path) -> bool:
    """Return whether a file holds the picks of another one and near repeats of them."""
    return bool(_REPEATED.search(path.name))
