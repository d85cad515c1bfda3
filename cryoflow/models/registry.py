"""The registry of models: numbered versions in plain files, one of which is in use.

    models/unpicker/v0007/card.json       what it is (`card.py`), written last
    models/unpicker/v0007/model/...       its files, as the training left them
    models/unpicker/current.json          the version in use, and the history of switches
    models/unpicker/held_out.json         micrographs that no version learns from (`held_out.py`)

A version is filled beside its place and renamed into it: it is complete or absent, and never changes after that.
Versions are added, removed and put into use under the lock of their model, on what is read under it. `current.json` is
replaced in one step.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import cryoflow
from cryoflow.database.lock import locked
from cryoflow.errors import BadInput
from cryoflow.models.card import LARGEST_NUMBER, ModelCard, ModelKind, Status, TrainedOn, read_card
from cryoflow.models.card import NAME as CARD
from cryoflow.models.version import MODEL, ModelVersion, Switch, copy_model, link_files, sums_of, version_name
from cryoflow.storage import files, folders, inputs, write_errors
from cryoflow.storage.parsing import validated
from cryoflow.storage.safe_names import safe_name
from cryoflow.storage.sealing import sealed, unsealed
from cryoflow.wording import counted

CURRENT = "current.json"
_FORMAT = 1
HINT = "Restore it from a copy, or remove it and promote a version: `cryoflow model promote`."
_LARGEST_BYTES = 4 << 20
_VERSION = re.compile(r"v([0-9]{4,9})")
_REFERENCE = re.compile(r"([A-Za-z0-9._+=-]+)(?:@v?([0-9]{1,9}))?")


class OtherInUse(BadInput):
    """Another version is in use than the one that a version was compared with."""


@dataclass(frozen=True)
class Pruned:
    """Versions that `ModelRegistry.prune` removed.

    Attributes
    ----------
    removed
        Labels of the removed versions.
    notes
        Versions that are kept because a card cannot be read, and why it cannot.
    """

    removed: tuple[str, ...]
    notes: tuple[str, ...] = ()


class ModelRegistry:
    """A folder of models. Nothing is written until the first `add`.

    Parameters
    ----------
    root
        Such as `models` beside the database's folder.
    lock_timeout_s
        Seconds to wait for another writer.
    """

    def __init__(self, root: str | Path, *, lock_timeout_s: float = 600.0) -> None:
        self.root = Path(root).absolute()
        self.lock_timeout_s = lock_timeout_s

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and self._numbers(p))

    def numbers(self, name: str) -> list[int]:
        """Return the numbers of all versions of a model, also of those that cannot be read, oldest first."""
        return self._numbers(self.folder(name))

    def versions(self, name: str) -> list[ModelVersion]:
        """Return all versions of a model, oldest first.

        Raises
        ------
        BadInput
            Where there is no model of this name, or a version cannot be read; see `readable_versions`.
        """
        return [self.version(name, number) for number in self._known_numbers(name)]

    def readable_versions(self, name: str) -> tuple[list[ModelVersion], dict[int, BadInput]]:
        """Return the versions of a model that can be read, oldest first, and the errors of the others by number.

        Both are empty where there is no model of this name.
        """
        versions, errors = [], {}
        for number in self.numbers(name):
            try:
                versions.append(self.version(name, number))
            except BadInput as error:
                if number in self.numbers(name):  # else another process has removed it meanwhile
                    errors[number] = error
        return versions, errors

    def _known_numbers(self, name: str) -> list[int]:
        numbers = self.numbers(name)
        if not numbers:
            known = ", ".join(self.names()) or "none"
            raise BadInput(self.root, f"holds no model called {name!r} (it has: {known}).")
        return numbers

    def version(self, name: str, number: int) -> ModelVersion:
        """Return one version; its card is read and checked.

        Raises
        ------
        BadInput
            Where it is not there, or its card was changed.
        """
        folder = self.folder(name) / version_name(number)
        if not 1 <= number <= LARGEST_NUMBER or not folder.is_dir():
            known = ", ".join(map(version_name, self._numbers(self.folder(name)))) or "none"
            raise BadInput(folder, f"is no version of {name!r} (it has: {known}).")
        card = read_card(folder / CARD)
        if (card.name, card.version) != (name, number):
            raise BadInput(folder / CARD, f"is the card of {card.name}@{version_name(card.version)}.")
        return ModelVersion(name, number, folder, card)

    def history(self, name: str) -> tuple[Switch, ...]:
        """Return every switch of the version in use, oldest first; empty where none was ever in use."""
        path = self.folder(name) / CURRENT
        try:
            raw = inputs.read_bytes(path, at_most=_LARGEST_BYTES)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise BadInput(path, f"cannot be read: {error.strerror or error}.", HINT) from None
        record = unsealed(path, raw, _FORMAT, HINT)
        return validated(path, record.get("history"), tuple[Switch, ...], "Promote a version to write it anew.")

    def current(self, name: str) -> ModelVersion | None:
        """Return the version in use, None where none is."""
        history = self.history(name)
        return self.version(name, history[-1].version) if history else None

    def add(
        self,
        name: str,
        kind: ModelKind,
        model: Path,
        *,
        parent: int | None = None,
        trained_on: tuple[TrainedOn, ...] = (),
        metrics: Mapping[str, Mapping[str, float]] | None = None,
        status: Status = "accepted",
        reasons: tuple[str, ...] = (),
        carried: tuple[ModelVersion, tuple[str, ...]] | None = None,
        compared_with: int | None = None,
    ) -> ModelVersion:
        """Copy a trained model into the registry as the next version. It is not in use until it is promoted.

        Parameters
        ----------
        model
            Folder (or single file) that a training left.
        carried
            Files of an earlier version that this one has as well. They are linked, not copied, where the file system
            can: the exemplars of thousands of projects lie on disk once.
        compared_with
            The version in use that the gate compared this one with.

        Raises
        ------
        BadInput
            Where the name cannot be one, or the model is not there.
        NotWritten, DatabaseBusy
            Where the registry cannot be written, or another writer holds it.
        """
        home = self.folder(name)
        model = Path(model)
        if not model.exists():
            raise BadInput(model, "does not exist: there is no model to add.")
        folders.make_folder(home)
        with locked(home, timeout_s=self.lock_timeout_s):
            folders.clean(home, root=home)
            number = max(self._numbers(home), default=0) + 1
            if number > LARGEST_NUMBER:
                raise BadInput(home / version_name(number - 1), "has the largest number: no version can follow it.")
            place = home / version_name(number)
            with folders.replacing_folder(place) as filling, write_errors.clear_errors(place):
                copy_model(model, filling / MODEL)
                known = link_files(carried, filling / MODEL) if carried else {}
                card = ModelCard(
                    kind=kind,
                    name=name,
                    version=number,
                    written=datetime.now(UTC).isoformat(timespec="seconds"),
                    cryoflow=cryoflow.__version__,
                    parent=parent,
                    trained_on=trained_on,
                    metrics=metrics or {},
                    status=status,
                    reasons=reasons,
                    files=sums_of(filling / MODEL, known),
                    compared_with=compared_with,
                )
                files.write_atomically(filling / CARD, card.text())
        return ModelVersion(name, number, place, card)

    def promote(
        self, name: str, number: int, reason: str, *, expected: int | Literal["any"] | None = "any"
    ) -> ModelVersion:
        """Put a version into use, after its files were checked against its card.

        Parameters
        ----------
        expected
            The version that must be in use until then, None for none.

        Raises
        ------
        BadInput
            Where the version is not there or its files were changed.
        OtherInUse
            Where another version than `expected` is in use by now; nothing is written then.
        """
        _check_files(self.version(name, number))  # before the lock: to read large models takes minutes
        with locked(self.folder(name), timeout_s=self.lock_timeout_s):
            # Read again: another process may have removed the version meanwhile.
            return self._promote(self.version(name, number), reason, expected)

    def rollback(self, name: str) -> ModelVersion:
        """Put the version into use that was in use before the current one.

        Raises
        ------
        BadInput
            Where there was none before.
        """
        version = self.version(name, self._number_before(name))
        _check_files(version)  # before the lock: to read large models takes minutes
        with locked(self.folder(name), timeout_s=self.lock_timeout_s):
            if (number := self._number_before(name)) != version.number:
                version = self.version(name, number)
                _check_files(version)
            return self._promote(version, "rolled back", "any")

    def _number_before(self, name: str) -> int:
        """Return the version that was in use before the current one."""
        history = self.history(name)
        earlier = [s.version for s in history if s.version != history[-1].version]
        if not earlier:
            raise BadInput(self.folder(name), "has no earlier version to go back to.")
        return earlier[-1]

    def _promote(self, version: ModelVersion, reason: str, expected: int | Literal["any"] | None) -> ModelVersion:
        """Put a checked version into use, while the lock of its model is held."""
        history = self.history(version.name)
        in_use = history[-1].version if history else None
        if in_use == version.number:
            return version
        if expected not in ("any", in_use):
            other = "no version is in use any more"
            if history:
                other = f"{version_name(history[-1].version)} was put into use meanwhile ({history[-1].reason})"
            raise OtherInUse(
                self.folder(version.name),
                f"{other}: {version.label} was not compared with that, and is not in use.",
                "`cryoflow model promote` uses it all the same.",
            )
        switch = Switch(version.number, datetime.now(UTC).isoformat(timespec="seconds"), reason)
        switches = [vars(s) for s in (*history, switch)]
        files.write_atomically(
            self.folder(version.name) / CURRENT,
            sealed({"format": _FORMAT, "version": version.number, "history": switches}),
        )
        return version

    def prune(self, name: str, keep: int) -> Pruned:
        """Remove old versions.

        The newest `keep` versions stay, the one in use, the one before it, those that an update of the one in use has
        registered and not put into use yet, and every version that these started from. A version that cannot be read
        stays, and every older one with it: which of them it started from is not known. While no version is in use all
        stay: where `current.json` was lost, what was in use is not known.
        """
        self._known_numbers(name)  # a model that does not exist has no folder to lock
        with locked(self.folder(name), timeout_s=self.lock_timeout_s):
            readable, errors = self.readable_versions(name)
            versions = {v.number: v for v in readable}
            history = self.history(name)
            kept = self._numbers_to_keep(versions, history, keep) if history else set(versions)
            old = [v for number, v in sorted(versions.items()) if number not in kept]
            newest_unreadable = max(errors, default=0)
            removed = [v for v in old if v.number > newest_unreadable]
            for version in removed:
                folders.remove_folder(version.folder)
        notes = [f"{name}@{version_name(n)} is kept, because it cannot be read: {e}" for n, e in errors.items()]
        if spared := len(old) - len(removed):
            label = f"{name}@{version_name(newest_unreadable)}"
            notes.append(f"{counted(spared, 'older version')} kept with {label}: what it started from is not known")
        if not history and len(versions) > keep:
            notes.append(f"no version of {name!r} is in use: all are kept until one is (cryoflow model promote)")
        return Pruned(tuple(version.label for version in removed), tuple(notes))

    @staticmethod
    def _numbers_to_keep(versions: Mapping[int, ModelVersion], history: Sequence[Switch], keep: int) -> set[int]:
        in_use, used = history[-1].version, {s.version for s in history}
        kept = {*sorted(versions)[-max(keep, 1) :], in_use}
        kept |= {next((s.version for s in reversed(history) if s.version != in_use), 0)}
        # Another process may be about to put these into use, or was killed before: the next update does it then.
        kept |= {
            v.number
            for v in versions.values()
            if v.card.status == "accepted"
            and v.card.trained_on  # added by hand otherwise
            and v.card.compared_with == in_use
            and v.number not in used
        }
        for number in list(kept & set(versions)):
            parent = versions[number].card.parent
            while parent is not None and parent in versions and parent not in kept:
                kept.add(parent)
                parent = versions[parent].card.parent
        return kept

    def holds(self, name: str) -> bool:
        """Return whether there is a version of a model of this name."""
        return safe_name(name) == name and bool(self._numbers(self.root / name))

    def resolve(self, reference: str | Path) -> Path:
        """Return the folder of a model that a user named: a folder, `NAME` (the version in use) or `NAME@v0007`.

        Raises
        ------
        BadInput
            Where it is none of these; the message lists what there is.
        """
        place = Path(reference)
        return place if place.is_dir() else self.find(str(reference)).model

    def find(self, reference: str) -> ModelVersion:
        """Return the version that a text names: `NAME` (the one in use) or `NAME@v0007`.

        Raises
        ------
        BadInput
            Where there is no such version; the message lists what there is.
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None or match[1] not in self.names():
            hint = f"Models of {self.root}: {', '.join(self.names()) or 'none'}."
            raise BadInput(reference, "is neither a folder nor a model.", hint)
        if match[2]:
            return self.version(match[1], int(match[2]))
        if (current := self.current(match[1])) is None:
            hint = f"Put a version into use: cryoflow model promote {match[1]}@VERSION."
            raise BadInput(self.folder(match[1]), "has no version in use.", hint)
        return current

    def folder(self, name: str) -> Path:
        """Return the folder of a model, which need not exist.

        Raises
        ------
        BadInput
            Where the name cannot be one: it would lead elsewhere.
        """
        if safe_name(name) != name or "@" in name:
            raise BadInput(self.root, f"{name!r} cannot be the name of a model.", "Use letters, digits, - and _.")
        return self.root / name

    @staticmethod
    def _numbers(home: Path) -> list[int]:
        if not home.is_dir():
            return []
        found = (_VERSION.fullmatch(p.name) for p in home.iterdir() if p.is_dir() and not p.is_symlink())
        return sorted(int(m[1]) for m in found if m and m[0] == version_name(int(m[1])))


def _check_files(version: ModelVersion) -> None:
    if problems := version.problems():
        raise BadInput(version.folder, f"cannot be put into use: {problems[0]}.")
