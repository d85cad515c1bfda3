"""`cryoflow site`: settings of a site."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from cryoflow.cli.output import UsageError, say

app = App(name="site", help="Write a cryoflow.toml for this SLURM cluster.")


@app.command
def init(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("cryoflow.toml"),
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write a commented cryoflow.toml for the SLURM cluster that this machine belongs to.

    Asks sinfo for partitions, memory, time limits and GPUs, and sacctmgr for accounts and limits. Lines marked CHANGE
    need a person. Examples of other sites are in examples/sites.

    Parameters
    ----------
    output
        The file to write.
    overwrite
        Replace one that is there.
    """
    import socket

    from cryoflow.cluster.site_init import ask_cluster, cryoflow_toml
    from cryoflow.storage.files import write_atomically

    if output.exists() and not overwrite:
        raise UsageError(f"{output} is there already: name another with --output, or add --overwrite.")
    write_atomically(output, cryoflow_toml(ask_cluster(), socket.getfqdn()))
    say(f"wrote {output}: change the lines marked CHANGE, then `chmod 600` it, for it will hold a password")
