"""Names which say that picks are no particles: of output groups, blocks, files, and suffixes of entries."""

from __future__ import annotations

import re

_WORDS = r"excluded|rejected|discarded|junk|bad|not_?selected|unselected|false_?positives?"
_NEGATIVE = re.compile(rf"(?:^|[-_. ])({_WORDS})(?=[-_. ]|$)", re.IGNORECASE)
_NEGATIVE_SUFFIX = re.compile(rf"({_WORDS})(particles|picks)?(_|$)", re.IGNORECASE)


def negative_words(name: str) -> list[str]:
    """Return the words of a name that mark its picks as no particles, lower case and without `_`.

    >>> negative_words("particles_not_selected"), negative_words("particles_selected"), negative_words("badlands_1")
    (['notselected'], [], [])
    """
    return [match[1].lower().replace("_", "") for match in _NEGATIVE.finditer(name)]


def is_negative_suffix(suffix: str) -> bool:
    """Return whether an entry's suffix has such a word; suffixes lose the `_` of the group's name.

    >>> is_negative_suffix("junkparticles"), is_negative_suffix("notselected_2"), is_negative_suffix("class1")
    (True, True, False)
    """
    return bool(_NEGATIVE_SUFFIX.match(suffix))
