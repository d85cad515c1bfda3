"""Settings of a picker: each is derived with a reason, or given by hand, or that of the training of a model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pandas as pd

from cryoflow.errors import BadInput

T = TypeVar("T", bool, int, float, str)


@dataclass(frozen=True)
class Setting:
    """One setting of a picker: its value, why it is that, and whether a person chose it."""

    name: str
    value: str
    why: str
    by_hand: bool = False


class Settings:
    """The settings of one export: each is derived with a reason, unless it is given by hand.

    Parameters
    ----------
    by_hand
        Name -> value, from the command line (text) or from Python.
    as_trained
        Name -> value of the training, for picking with its model; what is given by hand comes before.
    """

    def __init__(
        self, by_hand: Mapping[str, object] | None = None, as_trained: Mapping[str, str] | None = None
    ) -> None:
        self._by_hand = {name.replace("-", "_"): value for name, value in (by_hand or {}).items()}
        self._as_trained = dict(as_trained or {})
        self._chosen: dict[str, Setting] = {}

    def choose(self, name: str, derived: T, why: str) -> T:
        """The value given by hand, else the derived one; it is remembered with its reason.

        Raises
        ------
        BadInput
            Where what was given by hand is not of the derived value's type.
        """
        by_hand = name in self._by_hand
        if name in self._as_trained:
            derived, why = _parsed(name, self._as_trained[name], derived), "as in the model's training"
        value = _parsed(name, self._by_hand[name], derived) if by_hand else derived
        self._chosen[name] = Setting(name, _text(value), "given by hand" if by_hand else why, by_hand)
        return value

    def choose_path(self, name: str, why: str) -> str:
        """A file or folder given by hand, absolute, as programs run in another folder than ours; empty where none is.

        Raises
        ------
        BadInput
            Where it is not there: some programs go on without it and say nothing.
        """
        given = self.choose(name, "", why)
        if not given:
            return ""
        path = Path(given).expanduser().absolute()
        if not path.exists():
            raise BadInput(given, f"is not there, and was given for {name}.", "Name a file that exists.")
        self._chosen[name] = replace(self._chosen[name], value=str(path))
        return str(path)

    def note(self, name: str, value: object, why: str) -> None:
        """Show a value that follows from others and cannot be set."""
        self._chosen[name] = Setting(name, _text(value), why)

    def refuse_unknown(self, picker: str) -> None:
        """Raise BadInput where a setting was given that the picker does not have."""
        if unknown := sorted(set(self._by_hand) - set(self._chosen)):
            raise BadInput(picker, f"has no setting {', '.join(unknown)}.", f"It has: {', '.join(self._chosen)}.")

    @property
    def chosen(self) -> tuple[Setting, ...]:
        """All settings so far, in the order in which they were chosen."""
        return tuple(self._chosen.values())

    @property
    def values(self) -> dict[str, str]:
        """Name -> value as text: what `settings.tsv` keeps, and all that writing goes by."""
        return {setting.name: setting.value for setting in self.chosen}

    def table(self) -> pd.DataFrame:
        """Name, value and reason, as `settings.tsv` has them."""
        return pd.DataFrame(
            [(s.name, s.value, s.why) for s in self.chosen], columns=["setting", "value", "why"], dtype=object
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
