"""`cryoflow export verify`: compare an export with its record."""

from __future__ import annotations

from pathlib import Path

from cryoflow.cli import output as out
from cryoflow.errors import ExitCode


def verify(folder: Path, *, json: out.Json = False) -> int:
    """Check every file of an export against its fingerprint.

    Exit code 0 if all files, links and micrographs are as they were exported, 1 if one is missing or changed. The same
    export repeated writes missing and changed files again.

    Parameters
    ----------
    folder
        Folder that `cryoflow export` wrote.
    """
    from cryoflow.pickers.training_sets.contents import verify as verify_export

    changes = verify_export(folder)
    out.emit_table(changes, columns=["path", "what"], as_json=json)
    out.say(f"{len(changes)} missing or changed: repeat the export to restore them" if changes else "sound")
    return ExitCode.FAILED if changes else ExitCode.OK
