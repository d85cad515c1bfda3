"""Micrographs that no version of a model ever learns from: drawn once a project, kept for good, known by content.

A micrograph is known by the fingerprint of its file, so that it stays held out under another name, in another project
or in another folder. Whether it is held out follows from its fingerprint alone. Of a project with few micrographs at
least two are, drawn when the project is first seen; the record remembers them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from cryoflow.database.lock import locked
from cryoflow.storage import files, folders, inputs
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import sealed, unsealed

NAME = "held_out.json"
SHARE = 0.15
"""Share of the micrographs that are held out."""
LEAST = 2
"""Held-out micrographs of a project at least, as far as half of its micrographs allow."""
_FORMAT = 1
HINT = "Restore it from a copy: without it, training would learn from held-out micrographs."
_LARGEST_BYTES = 256 << 20


class HeldOut:
    """The record of held-out micrographs beside a model.

    Parameters
    ----------
    folder
        The model's folder in the registry.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / NAME

    def read(self) -> dict[str, frozenset[str]]:
        """Return project -> fingerprints of its held-out micrographs; empty where none was drawn yet.

        Raises
        ------
        BadInput
            Where the record was changed: what was held out is then not known, and training would use it.
        """
        try:
            raw = inputs.read_bytes(self.path, at_most=_LARGEST_BYTES)
        except FileNotFoundError:
            return {}
        record = unsealed(self.path, raw, _FORMAT)
        return validated(self.path, record.get("projects"), dict[str, frozenset[str]], "Restore it from a copy.")

    def draw(
        self, micrographs: Mapping[str, Iterable[str]], learned: Collection[str] = ()
    ) -> dict[str, frozenset[str]]:
        """Add what is new, and return the held-out micrographs of all projects ever seen.

        Parameters
        ----------
        micrographs
            Project -> fingerprints of its micrographs now.
        learned
            Fingerprints of micrographs that a version has learned from: they are never held out after that.
        """
        folders.make_folder(self.path.parent)
        with locked(self.path.parent):
            known = self.read()
            drawn = dict(known)
            for project, fingerprints in micrographs.items():
                fresh = set(fingerprints) - set(learned)
                least = 0 if project in known else LEAST
                drawn[project] = known.get(project, frozenset()) | draw_from(fresh, least)
            if drawn != known:
                record = {name: sorted(some) for name, some in sorted(drawn.items())}
                files.write_atomically(self.path, sealed({"format": _FORMAT, "projects": record}))
        return drawn

    def all_fingerprints(self) -> frozenset[str]:
        """Return every held-out micrograph of every project: none of these may be learned from."""
        return frozenset().union(*self.read().values())


def held_out_anywhere(root: Path) -> frozenset[str]:
    """Return the held-out micrographs of every model below a folder of models."""
    homes = [p for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    return frozenset().union(*(HeldOut(home).all_fingerprints() for home in homes))


def is_drawn(fingerprint: str) -> bool:
    """Return whether a micrograph is held out by its content alone; true for a share of `SHARE`."""
    return int(fingerprint[:8], 16) < SHARE * 0x1_0000_0000


def draw_from(fingerprints: Iterable[str], least: int) -> frozenset[str]:
    """Return the micrographs to hold out among those of one project.

    Where fewer than `least` are drawn by content, those of the smallest fingerprints are added, up to half of all.
    """
    ordered = sorted(set(fingerprints))
    chosen = [f for f in ordered if is_drawn(f)]
    rest = [f for f in ordered if not is_drawn(f)]
    return frozenset(chosen + rest[: max(0, min(least, len(ordered) // 2) - len(chosen))])
