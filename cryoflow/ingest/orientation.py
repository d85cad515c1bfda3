"""The orientation check of an entry: a few of its micrographs against the picks on them."""

from __future__ import annotations

from cryoflow.database import Orientation
from cryoflow.picks import PickSet


def orientation_of(pickset: PickSet) -> Orientation:
    """What the pixels say about a pick set's convention."""
    del pickset
    return Orientation()
