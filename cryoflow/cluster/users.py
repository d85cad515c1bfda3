"""Tags that name the user who launched a run. Prefect's server has no users, so the command line writes its account.

Who launches a run from the pages may type such a tag there.
"""

from __future__ import annotations

import getpass
import os

USER_TAG = "user:"
"""Start of the tag; the name of the account follows."""


def user_tag() -> str:
    """Return the tag of this process's account."""
    try:
        return f"{USER_TAG}{getpass.getuser()}"
    except (KeyError, OSError):  # an account without a name, as in a container
        return f"{USER_TAG}{os.getuid()}"


def users_of_run() -> list[str]:
    """Return the tags of the current flow run that name users; none outside a run."""
    from prefect.runtime import flow_run

    return [tag for tag in flow_run.tags or () if tag.startswith(USER_TAG)]
