"""Turn finished cryo-EM projects into trained particle pickers and clean picks.

>>> import cryoflow as cf                                                  # doctest: +SKIP
>>> picks = cf.read("/data/P190")                # a project, a job, a .star, .cs or .box file, a database entry
>>> picks["mic_001"]                             # a DataFrame: x_px, y_px, ...
>>> clean = cf.Unpicker.load("models/unpicker").clean(picks)
>>> clean.to_star("clean.star")

Everything here is imported at its first use, so that `import cryoflow` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from cryoflow.database import Database as Database
    from cryoflow.library import Unpicker as Unpicker
    from cryoflow.library import read as read
    from cryoflow.library import read_all as read_all
    from cryoflow.picks import PickSet as PickSet
    from cryoflow.projects.crawl import crawl as crawl

_HOMES = {
    "Database": "cryoflow.database",
    "PickSet": "cryoflow.picks",
    "Unpicker": "cryoflow.library",
    "crawl": "cryoflow.projects.crawl",
    "read": "cryoflow.library",
    "read_all": "cryoflow.library",
}
"""Public name -> module that defines it."""

__all__ = ["Database", "PickSet", "Unpicker", "__version__", "crawl", "read", "read_all"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'cryoflow' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
