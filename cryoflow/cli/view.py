"""`cryoflow view`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cryoflow.cli.declared import declared
from cryoflow.cli.output import Json, emit_json, say
from cryoflow.errors import ExitCode
from cryoflow.view.parameters import ViewParameters

if TYPE_CHECKING:
    from cryoflow.view.serve import Links


@declared
def view(parameters: ViewParameters, *, json: Json = False) -> ExitCode:
    """Show picks in a browser; --write also lets you clean them and save a new entry. Ctrl-C stops it.

    The viewer listens on this machine alone and prints a link that carries a token; from elsewhere use ssh -L or a
    proxy (docs/view.md). What is decided is kept at once. Saving makes a new entry, <entry>_reviewed; entries that are
    there, and projects, are never changed.
    """
    from cryoflow.settings.load import load_settings
    from cryoflow.view.serve import serve

    def tell(links: Links) -> None:
        if json:
            emit_json(links)
            return
        if parameters.token_file and not sys.stdout.isatty():  # a service: whoever reads its log must not get in
            say(f"the viewer listens; its tokens are in {parameters.token_file}")
            return
        say("open one of these links in a browser; Ctrl-C stops")
        print(f"to look:  {links.read}", flush=True)
        if links.write:
            print(f"to clean: {links.write}", flush=True)

    serve(parameters, load_settings().settings, tell)
    return ExitCode.OK
