"""Keep files of the working folder from being run or obeyed: it may be a project that somebody sent.

Python imports modules from there in the processes that it starts, and matplotlib takes its styles from there. Prefect
takes settings from there: see `cryoflow.settings.prefect_files`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from cryoflow.system.processes import giving_variables

SAFE_PATH, OURS = "PYTHONSAFEPATH", "cryoflow"
"""Variable by which a Python process does not import from its working folder, and its value if cryoflow set it."""
MATPLOTLIB_FILE = "matplotlibrc"


def safe_path() -> contextlib.AbstractContextManager[None]:
    """Let Python processes that are started within import nothing from the working folder."""
    return giving_variables({SAFE_PATH: os.environ.get(SAFE_PATH) or OURS})


def of_other_programs(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without our `SAFE_PATH`: a picker's script may import from its own folder."""
    return {name: value for name, value in environment.items() if (name, value) != (SAFE_PATH, OURS)}


def pass_over_matplotlibrc() -> bool:
    """Import matplotlib from another folder if the working folder has a `matplotlibrc`, and return whether it has.

    Matplotlib would obey such a file, which can make it run LaTeX, and waits for ever for one that is a pipe. Call it
    while the process has one thread, since all threads share the working folder.
    """
    if not os.path.lexists(MATPLOTLIB_FILE):
        return False
    with contextlib.chdir(os.sep):
        import matplotlib  # noqa: F401
    return True
