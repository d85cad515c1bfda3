"""What a picker is to cryoflow, and the settings that are derived for it.

A picker is one module of this package with a `PICKER` in it: everything that cryoflow knows of that program, both ways.
A new picker is a new module. What pickers share (names, links, manifest, split) is in `training_set.py`; where their
programs run is in `execution.py`.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import importlib
import math
import pkgutil
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import pandas as pd

from cryoflow.errors import BadInput

if TYPE_CHECKING:
    from cryoflow.pickers.training_set import TrainingSet

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


@dataclass(frozen=True)
class Step:
    """One command of a picker, run in the folder that cryoflow wrote for it. `argv[0]` is the program's usual name."""

    title: str
    argv: tuple[str, ...]
    makes: tuple[str, ...] = ()
    """Files, relative to the folder, that must be there and not empty when it is done."""
    wants_gpu: bool = False


@dataclass(frozen=True)
class Hardware:
    """What a command may use. No GPU at all is `gpus=()`."""

    gpus: tuple[int, ...] = (0,)
    cpus: int = 4
    allocated: bool = False
    """A scheduler has chosen the GPUs and says so in CUDA_VISIBLE_DEVICES; they count from 0."""


@dataclass(frozen=True)
class Needs:
    """What a picker reads without mistakes; other micrographs are converted to MRC mode 2.

    Attributes
    ----------
    modes
        MRC modes.
    ispg
        Whether a space group other than 0 in an image's header is harmless.
    """

    modes: frozenset[int] = frozenset({0, 1, 2, 6})
    ispg: bool = True


class Reader(Protocol):
    """Reads one file of picks: see `cryoflow.pickers.coordinates`."""

    def __call__(self, path: Path) -> pd.DataFrame:
        """Columns `name`, `x_px`, `y_px`, and `score`, `box_px` where the file has them."""


class Picker:
    """Base of the pickers. A picker that cannot be run from here leaves `train_steps` and `pick_steps` as they are.

    An export is made in three steps: `choose` decides, over the whole set; `write_micrographs` writes the files that
    belong to one micrograph each, of all or of some, so that it can be cut into parts; `write_tables` writes the rest.

    Attributes
    ----------
    name
        As in `cryoflow export NAME`.
    title
        As its authors write it.
    score_kind
        What its scores are.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    score_kind: ClassVar[str] = ""
    needs: ClassVar[Needs] = Needs()
    links_micrographs: ClassVar[bool] = True
    """False for programs whose own project has the micrographs already."""
    default_threshold: ClassVar[float | None] = None
    model_settings: ClassVar[tuple[str, ...]] = ()
    """Settings that picking must share with the training of its model."""
    model_names: ClassVar[tuple[str, ...]] = ()
    """Models that the program brings along, and knows by these names."""

    @property
    def trains(self) -> bool:
        """Whether it can be trained from here."""
        return type(self).train_steps is not Picker.train_steps

    @property
    def picks(self) -> bool:
        """Whether it can be run from here."""
        return type(self).pick_steps is not Picker.pick_steps

    @property
    def writes_micrographs(self) -> bool:
        """Whether it gets files that belong to one micrograph each."""
        return type(self).write_micrographs is not Picker.write_micrographs

    def choose(self, training: TrainingSet, settings: Settings) -> None:
        """Choose all settings of an export, over the whole set; nothing is written yet.

        What differs from micrograph to micrograph becomes columns of `training.micrographs`. The column `convert` is
        there already, for pickers that get the micrographs: why a file must be converted, empty where it is linked.

        Raises
        ------
        BadInput, MissingMetadata
            Where a setting cannot be what it is, or what it follows from is not known.
        """
        raise NotImplementedError  # every picker has settings

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write pictures, links and labels: all files of which each belongs to one micrograph.

        The files of a set are those of its parts together, whatever they are cut into, byte for byte.

        Parameters
        ----------
        some
            The set, or a part of it: of micrographs the columns `training_set.OF_PARTS`, picks as x and y only.
        folder
            Where to write to.
        settings
            Values as `choose` left them.

        Raises
        ------
        BadInput
            Where files of micrographs cannot be made; those of the others were made then.
        """

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write what speaks of the whole set: lists, tables and configuration.

        Parameters
        ----------
        folder
            Where to write to, beside the files of the micrographs; it becomes `home` when all is written.
        settings
            Values as `choose` left them.
        """

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """What to do next: a command to type, or where that is in another program, words in brackets."""
        return ()

    def train_command(self, home: Path, *options: str) -> str:
        """Our command that trains on a folder, as a shell takes it."""
        return shlex.join(["cryoflow", "picker", "train", self.name, str(home), *options])

    def train_steps(self, home: Path, settings: Mapping[str, str], hardware: Hardware) -> tuple[Step, ...]:
        """The commands that train, in order.

        Raises
        ------
        BadInput
            For a picker that is trained elsewhere.
        """
        raise BadInput(self.name, "is not trained from here.", " ".join(self.next_commands(home)))

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Write what picking needs beside the links (a configuration); `training` has micrographs and no picks."""

    def pick_steps(self, home: Path, model: Path, settings: Mapping[str, str], hardware: Hardware) -> tuple[Step, ...]:
        """The commands that pick the micrographs of a folder that `prepare_picking` has filled."""
        raise BadInput(self.name, "is not run from here.")

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """What the program would stumble over in a folder that was exported for it; looked at before it is run."""
        return []

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """The model that training left, the best one where there are several.

        Raises
        ------
        BadInput
            Where there is none: the training did not succeed, whatever its exit status.
        """
        raise BadInput(home, f"holds no model of {self.name}.")

    def training_curve(self, home: Path) -> pd.DataFrame:
        """Columns `epoch`, `split` (train or validation), `metric`, `value`; empty where nothing was logged."""
        return pd.DataFrame({"epoch": [], "split": [], "metric": [], "value": []})

    def pick_files(self, folder: Path) -> list[Path]:
        """The files of picks below a folder that the program wrote, sorted; the richest of its formats only."""
        return sorted(
            p for p in folder.rglob("*") if p.is_file() and p.suffix in (".star", ".box", ".txt", ".cbox", ".csv")
        )


@cache
def pickers() -> Mapping[str, Picker]:
    """All pickers by name: the modules of this package that have a `PICKER`."""
    package = importlib.import_module("cryoflow.pickers")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"cryoflow.pickers.{info.name}")
        if isinstance(picker := getattr(module, "PICKER", None), Picker):
            found[picker.name] = picker
    return dict(sorted(found.items()))


def picker(name: str) -> Picker:
    """One picker by name.

    Raises
    ------
    BadInput
        Where there is none of that name.
    """
    known = pickers()
    if name not in known:
        raise BadInput(name, "is no picker that cryoflow knows.", f"It knows: {', '.join(known)}.")
    return known[name]


class RowsWriter(Protocol):
    """Formats rows `start:stop`, each with some text before and after it."""

    def __call__(self, start: int, stop: int, before: str = "", after: str = "") -> bytes:
        """The rows as text."""


def rows_writer(pattern: str, columns: Sequence[object]) -> RowsWriter:
    """A function that formats rows of some columns, each by `pattern`, as text in one go.

    Formatting a thousand rows with one `%` is five times faster than a thousand times one row.
    """
    import numpy as np

    table = np.column_stack([np.asarray(c, np.float64) for c in columns])

    def write(start: int, stop: int, before: str = "", after: str = "") -> bytes:
        row = f"{before.replace('%', '%%')}{pattern}{after.replace('%', '%%')}"
        return ((row * (stop - start)) % tuple(table[start:stop].ravel().tolist())).encode()

    return write
