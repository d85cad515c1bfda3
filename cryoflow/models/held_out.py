"""Micrographs that no version of a model ever learns from: drawn once a project, kept for good, known by content.

A micrograph is known by the fingerprint of its file, so that it stays held out under another name, in another project
or in another folder. Whether it is held out follows from its fingerprint alone. Of a project with few micrographs at
least two are, drawn when the project is first seen; the record remembers them.

Every training of cryoflow takes its micrographs through `without_held_out`, or, where their fingerprints are known
already, leaves out those of `held_out_anywhere`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from cryoflow.database.lock import locked
from cryoflow.errors import BadInput
from cryoflow.storage import files, folders, inputs
from cryoflow.storage.fingerprints import checksum, fingerprint
from cryoflow.storage.parsing import validated
from cryoflow.storage.sealing import sealed, unsealed
from cryoflow.system.threads import on_each_file

log = logging.getLogger(__name__)
T = TypeVar("T")

NAME = "held_out.json"
FILES = "held_out"
"""Folder beside the record: held-out micrographs, prepared, with their labels."""
SHARE = 0.15
"""Share of the micrographs that are held out."""
LEAST = 2
"""Held-out micrographs of a project at least, as far as half of its micrographs allow."""
_FORMAT = 1
_AGAIN = "Export it again."
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
            Where the record was changed, or removed although micrographs are kept: what was held out is then not
            known, and training would use it.
        """
        record = self._record()
        return {} if record is None else validated(self.path, record.get("projects"), dict[str, frozenset[str]], HINT)

    def read_ends(self) -> dict[str, str]:
        """Return fingerprint -> that of size and ends of the file, of held-out micrographs where it is known."""
        return validated(self.path, (self._record() or {}).get("ends", {}), dict[str, str], HINT)

    def _record(self) -> Mapping[str, object] | None:
        try:
            raw = inputs.read_bytes(self.path, at_most=_LARGEST_BYTES)
        except FileNotFoundError:
            kept = self.path.parent / FILES
            if kept.is_dir() and any(kept.glob("*.npz")):
                raise BadInput(self.path, f"is missing, although {kept} has held-out micrographs.", HINT) from None
            return None
        except OSError as error:
            raise BadInput(self.path, f"cannot be read: {error.strerror or error}.", HINT) from None
        return unsealed(self.path, raw, _FORMAT, HINT)

    def draw(
        self,
        micrographs: Mapping[str, Iterable[str]],
        learned: Collection[str] = (),
        paths: Mapping[str, Path] | None = None,
    ) -> dict[str, frozenset[str]]:
        """Add what is new, and return the held-out micrographs of all projects ever seen.

        Parameters
        ----------
        micrographs
            Project -> fingerprints of its micrographs now.
        learned
            Fingerprints of micrographs that a version of any model has learned from: they are never drawn after
            that; earlier draws stay.
        paths
            Fingerprint -> file. With it, a training need not read other micrographs whole to tell them from these.
        """
        folders.make_folder(self.path.parent)
        with locked(self.path.parent):
            known = self.read()
            drawn = dict(known)
            for project, fingerprints in micrographs.items():
                every = set(fingerprints)
                fresh = every - set(learned)
                # Micrographs that were learned from stay to learn from: the others may give half of all.
                least = 0 if project in known else min(LEAST, len(every) // 2)
                drawn[project] = known.get(project, frozenset()) | draw_from(fresh, least)
            ends = self.read_ends()
            new_ends = _ends_of(frozenset().union(*drawn.values()) - ends.keys(), paths or {})
            if drawn != known or new_ends:
                record = {name: sorted(some) for name, some in sorted(drawn.items())}
                values = {"format": _FORMAT, "projects": record, "ends": dict(sorted((ends | new_ends).items()))}
                files.write_atomically(self.path, sealed(values))
        return drawn

    def all_fingerprints(self) -> frozenset[str]:
        """Return every held-out micrograph of every project: none of these may be learned from."""
        return frozenset().union(*self.read().values())


def held_out_anywhere(*roots: Path) -> frozenset[str]:
    """Return the held-out micrographs of every model below some folders of models."""
    return frozenset().union(*(record.all_fingerprints() for root in roots for record in _records(root)))


def without_held_out(items: Iterable[T], path_of: Callable[[T], Path | str | None], roots: Sequence[Path]) -> list[T]:
    """Return the items that may be learned from; a warning has the number of others.

    Parameters
    ----------
    path_of
        Returns the micrograph of an item; None where it is not known.
    roots
        Folders of models; see `known_registries`.

    Raises
    ------
    BadInput
        Where a record of held-out micrographs was changed.
    """
    left = list(items)
    for root in dict.fromkeys(roots):
        records = _records(root)
        contents = frozenset().union(*(r.all_fingerprints() for r in records))
        if not contents:
            continue
        known_ends: dict[str, str] = {}
        for record in records:
            known_ends |= record.read_ends()
        # Micrographs of one camera have one size: only the ends of a file tell it quickly from all others.
        ends = frozenset(known_ends.values()) if contents <= known_ends.keys() else None
        paths = [path_of(item) for item in left]
        held = on_each_file(partial(_is_held_out, contents=contents, ends=ends), paths)
        if n := sum(held):
            log.warning("%d micrographs held out by %s, not learned from", n, root)
        left = [item for item, is_held in zip(left, held, strict=True) if not is_held]
    return left


def refuse_held_out(where: Path, paths: Iterable[Path | str | None], roots: Sequence[Path]) -> None:
    """Refuse a training set that was written before some of its micrographs were held out.

    Raises
    ------
    BadInput
        Where it has a micrograph that a model holds out.
    """
    given = [path for path in paths if path is not None]
    if n := len(given) - len(without_held_out(given, lambda path: path, roots)):
        raise BadInput(where, f"has {n} micrographs that must not be learned from: a model holds them out.", _AGAIN)


def known_registries(*given: Path | None, database: Path | None = None) -> tuple[Path, ...]:
    """Return the folders of models whose held-out micrographs are not learned from: given ones and those of the site.

    Parameters
    ----------
    database
        The folder `models` beside it is one of them.
    """
    from cryoflow.models.find_model import registry_beside
    from cryoflow.settings.load import load_settings

    beside = registry_beside(database) if database is not None else None
    roots = (*given, load_settings().settings.site.models, beside)
    return tuple(dict.fromkeys(Path(root).absolute() for root in roots if root is not None))


def _ends_of(contents: Iterable[str], paths: Mapping[str, Path]) -> dict[str, str]:
    found = {}
    for content in contents:
        if content in paths:
            with suppress(OSError):  # removed since: the whole content decides then
                found[content] = fingerprint(paths[content])
    return found


def _records(root: Path) -> list[HeldOut]:
    return [HeldOut(home) for home in sorted(root.iterdir()) if home.is_dir()] if root.is_dir() else []


def _is_held_out(path: Path | str | None, contents: Collection[str], ends: Collection[str] | None) -> bool:
    if path is None:
        return False
    try:
        return (ends is None or fingerprint(path) in ends) and checksum(path) in contents
    except OSError:  # what reads it to learn from it has the clearer message
        return False


def is_drawn(fingerprint: str) -> bool:
    """Return whether a micrograph is held out by its content alone; true for a share of `SHARE`."""
    return int(fingerprint[:8], 16) < SHARE * 0x1_0000_0000


def draw_from(fingerprints: Iterable[str], least: int) -> frozenset[str]:
    """Return the micrographs to hold out among those of one project.

    Where fewer than `least` are drawn by content, those of the smallest fingerprints are added.
    """
    ordered = sorted(set(fingerprints))
    chosen = [f for f in ordered if is_drawn(f)]
    rest = [f for f in ordered if not is_drawn(f)]
    return frozenset(chosen + rest[: max(0, least - len(chosen))])
