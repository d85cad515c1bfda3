"""The text database: picks of finished jobs as text that a person can read and a script can parse."""

from cryoflow.database.entry import Entry
from cryoflow.database.info import Orientation
from cryoflow.database.store import Database

__all__ = ["Database", "Entry", "Orientation"]
