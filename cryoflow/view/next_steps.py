"""Commands that follow a saved review."""

from __future__ import annotations

import shlex
from pathlib import Path


def next_steps(entry: str, database: Path) -> dict[str, str]:
    """Return what to type next: train the unpicker from the labels, and export what was accepted."""
    name, db = shlex.quote(entry), shlex.quote(str(database))
    return {
        "train": f"cryoflow unpicker train {name} --database {db} --output MODEL",
        "export": f"cryoflow export cryolo {name} --database {db} --output TRAINING_SET",
    }
