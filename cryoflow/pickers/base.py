"""What a picker is to cryoflow.

A picker is one module of this package with a `PICKER` in it: everything that cryoflow knows of that program, both ways.
A new picker is a new module. What pickers share (names, links, manifest, split) is in `training_set.py`; where their
programs run is in `cryoflow.execution`, how settings are derived in `derived_settings.py`.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import importlib
import pkgutil
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Step
from cryoflow.execution.resources import Resources
from cryoflow.pickers.training_sets.derived_settings import Settings

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.training_set import TrainingSet


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
    """Reads one file of picks: see `cryoflow.pickers.importing.coordinates`."""

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

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """The commands that train, in order.

        Raises
        ------
        BadInput
            For a picker that is trained elsewhere.
        """
        raise BadInput(self.name, "is not trained from here.", " ".join(self.next_commands(home)))

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Write what picking needs beside the links (a configuration); `training` has micrographs and no picks."""

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
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
    """All pickers by name: the modules of `cryoflow.pickers.programs` that have a `PICKER`."""
    package = importlib.import_module("cryoflow.pickers.programs")
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"cryoflow.pickers.programs.{info.name}")
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
