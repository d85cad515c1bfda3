"""The `README.txt` of an export: what the folder is, and what a user must know before a program runs in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cryoflow.pickers.base import Picker
from cryoflow.pickers.training_sets.contents import NAME as CONTENTS
from cryoflow.pickers.training_sets.contents import REPLACED

NAME = "README.txt"

_LINKS = """
WARNING: the micrographs in this folder are links to your own files. A program that edits a picture in place edits your
data. Pickers only read them, and containers started by cryoflow mount them read-only. Before you run anything else
here, export with `--copy`, or with `--reflink` on a file system that shares blocks between files (XFS, Btrfs): the
folder then has files of its own.
"""


def write_readme(target: Picker, folder: Path, settings: Mapping[str, str], *, for_picking: bool) -> None:
    """Write the README into a folder that is being filled."""
    kind = (
        "Micrographs to pick with" if for_picking else "Training set for" if target.links_micrographs else "Picks for"
    )
    lines = [
        f"{kind} {target.title}, written by cryoflow.",
        "",
        "settings.tsv   the settings, each with its reason",
        "manifest.tsv   each exported name, and the micrograph that it stands for",
        f"{CONTENTS}  all files with their fingerprints: `cryoflow export verify FOLDER` compares them",
        "",
        "The same export repeated writes deleted and changed files again, and keeps trained models; it moves the",
        f"changed files to {REPLACED}.",
    ]
    if not for_picking and (steps := target.readme_lines(folder, settings)):
        lines += ["", *steps]
    warning = _LINKS if settings.get("micrographs") == "link" else ""
    (folder / NAME).write_text("\n".join(lines) + "\n" + warning)
