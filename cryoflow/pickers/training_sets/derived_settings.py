"""Settings of a picker: each is derived with a reason, given by hand, or taken from the training of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from cryoflow.errors import BadInput
from cryoflow.storage.safe_names import expanded

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True)
class Setting:
    """One setting of a picker: its value, the reason for it, and whether it was given by hand."""

    name: str
    value: str
    why: str
    by_hand: bool = False


class DerivedSettings:
    """The settings of one export: each is derived with a reason, unless it is given by hand.

    Parameters
    ----------
    by_hand
        Name -> value, from the command line (text) or from Python.
    as_trained
        Name -> value of the training, for picking with its model; values given by hand take precedence.
    choices
        Name -> allowed values.
    """

    def __init__(
        self,
        by_hand: Mapping[str, object] | None = None,
        as_trained: Mapping[str, str] | None = None,
        choices: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._by_hand = {name.replace("-", "_"): value for name, value in (by_hand or {}).items()}
        self._as_trained = dict(as_trained or {})
        self._choices = dict(choices or {})
        self._derived: dict[str, Setting] = {}

    def derive(self, name: str, derived: T, why: str) -> T:
        """Return the value given by hand, else the derived one, and record it with its reason.

        Raises
        ------
        BadInput
            If a value given by hand is not of the derived value's type, or not one of the choices.
        """
        by_hand = name in self._by_hand
        if name in self._as_trained:
            derived, why = _parsed(name, self._as_trained[name], derived), "as in the model's training"
        value = _parsed(name, self._by_hand[name], derived) if by_hand else derived
        if value not in (allowed := self._choices.get(name, (value,))):
            raise BadInput(name, f"is {value!r}; it is {' or '.join(map(str, allowed))}.")
        self._derived[name] = Setting(name, _text(value), "given by hand" if by_hand else why, by_hand)
        return value

    def derive_path(self, name: str, why: str) -> str:
        """Return a file or folder given by hand, absolute, as programs run in another folder; empty if none is given.

        Raises
        ------
        BadInput
            If it does not exist: some programs go on without it, without a message.
        """
        given = self.derive(name, "", why)
        if not given:
            return ""
        path = expanded(given).absolute()
        if not path.exists():
            raise BadInput(given, f"is not there, and was given for {name}.", "Name a file that exists.")
        self._derived[name] = replace(self._derived[name], value=str(path))
        return str(path)

    def note(self, name: str, value: object, why: str) -> None:
        """Record a value that follows from others and cannot be set."""
        self._derived[name] = Setting(name, _text(value), why)

    def refuse_unknown(self, picker: str) -> None:
        """Refuse settings that the picker does not have.

        Raises
        ------
        BadInput
            If one was given.
        """
        if unknown := sorted(set(self._by_hand) - set(self._derived)):
            raise BadInput(picker, f"has no setting {', '.join(unknown)}.", f"It has: {', '.join(self._derived)}.")

    @property
    def derived(self) -> tuple[Setting, ...]:
        """Return all settings so far, in the order in which they were derived."""
        return tuple(self._derived.values())

    @property
    def values(self) -> dict[str, str]:
        """Return name -> value as text, as in `settings.tsv`; the writers read nothing else."""
        return {setting.name: setting.value for setting in self.derived}

    def table(self) -> pd.DataFrame:
        """Return name, value and reason, the columns of `settings.tsv`."""
        import pandas as pd

        return pd.DataFrame(
            [(s.name, s.value, s.why) for s in self.derived], columns=["setting", "value", "why"], dtype=object
        )


def _parsed(name: str, given: object, derived: T) -> T:
    text = str(given).strip()
    try:
        if isinstance(derived, bool):
            if text.lower() not in ("1", "0", "yes", "no", "true", "false", "on", "off"):
                raise ValueError
            return text.lower() in ("1", "yes", "true", "on")
        value = type(derived)(text)
        if isinstance(derived, int | float) and not (math.isfinite(value) and (value >= 0 or derived < 0)):
            raise ValueError
        return value
    except ValueError:
        kind = {bool: "yes or no", int: "a whole number", float: "a number"}[type(derived)]
        kind += ", not below 0" if not isinstance(derived, bool | str) and derived >= 0 else ""
        raise BadInput(name, f"is set to {text!r}; it must be {kind}.") from None


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
