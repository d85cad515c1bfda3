"""The text database: picks of finished jobs as text that a person can read and a script can parse."""

from cryoflow.database.entry import Entry
from cryoflow.database.findings import Finding
from cryoflow.database.info import OrientationRecord
from cryoflow.database.select import Selection, select_best
from cryoflow.database.store import Database
from cryoflow.database.verify import verify

__all__ = ["Database", "Entry", "Finding", "OrientationRecord", "Selection", "select_best", "verify"]
