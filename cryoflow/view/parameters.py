"""Parameters of the viewer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le

from cryoflow.parameters import RARE, DatabaseFolder, Entries, ModelFolder, Option, ParameterError, Parameters

NETWORK = "Site use"


@dataclass(frozen=True, kw_only=True)
class ViewParameters(Parameters):
    """Show picks on micrographs in a browser, clean them, and save them as a new entry."""

    database: DatabaseFolder
    entries: Entries = ()
    write: Annotated[bool, Option(form=False)] = False
    """Print a second link whose holder may clean picks and save them."""
    model: ModelFolder | None = None
    """Score picks that have no probabilities with this unpicker, in the background."""
    masks: Annotated[tuple[Path, ...], Option(examples=(("/data/picks/masks",),))] = ()
    """Folder of masks of carbon, ice and aggregates to draw (`cryoflow pick --masks`); by default the site's."""
    models: Annotated[tuple[Path, ...], Option(examples=(("/data/models",),))] = ()
    """Folder of models and trainings to show; by default the site's, and the registry beside the database."""
    reports: Annotated[tuple[Path, ...], Option(examples=(("/data/runs",),))] = ()
    """Folder whose HTML reports are served; by default those of the site's settings."""
    port: Annotated[int, Ge(0), Le(65535), Option(group=NETWORK)] = 8765
    """Port of 127.0.0.1 to listen on; 0 takes one that is free."""
    host_name: Annotated[tuple[str, ...], Option(group=NETWORK, examples=(("picks.example.org",),))] = ()
    """Name under which a proxy serves the viewer; others than localhost are refused."""
    token_file: Annotated[Path | None, Option(group=NETWORK, examples=("/etc/cryoflow/view-tokens",))] = None
    """File that keeps the tokens from one start to the next; made with the permissions 600 where it is missing."""
    user_header: Annotated[str, Option(group=NETWORK, examples=("X-Remote-User",))] = ""
    """Header in which a proxy that also sends the token names the user who looks or writes."""
    state: Annotated[Path | None, Option(group=RARE)] = None
    """Folder for reviews that are not saved yet, if the database cannot be written; by default the user's."""

    def check(self) -> None:
        """Refuse names that are no names of hosts or headers."""
        for name in self.host_name:
            if not name or any(c in name for c in "/:@ \t\r\n"):
                raise ParameterError("{host_name} is a name without port, such as picks.example.org.")
        if self.user_header and not all(c.isascii() and (c.isalnum() or c == "-") for c in self.user_header):
            raise ParameterError("{user_header} is the name of a header, such as X-Remote-User.")
