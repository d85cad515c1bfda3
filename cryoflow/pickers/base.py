"""The interface of a picker: what one module of `cryoflow.pickers.programs`, or a plug-in, provides.

A picker is one module, or one small package, with a `PICKER` in it: an instance of a subclass of `Picker`. The class
attributes describe the program; the methods write its training sets, build its command lines and find its results.
`docs/pickers.md` has a complete example. Command line, forms, docs and tests iterate over `cryoflow.pickers.registry`.

The registry imports every picker for `--help`. So this module and the pickers import numpy, pandas and the modules that
need them inside functions.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Step
from cryoflow.execution.resources import Resources

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet


__all__ = ["Ability", "Needs", "Picker", "Resources", "RowsWriter", "Step", "rows_writer"]

Ability = Literal["export", "train", "pick"]


@dataclass(frozen=True)
class Needs:
    """MRC files that a picker reads without mistakes; other micrographs are converted to MRC mode 2.

    Attributes
    ----------
    modes
        MRC modes.
    ispg
        Whether a space group other than 0 in an image's header is harmless.
    """

    modes: frozenset[int] = frozenset({0, 1, 2, 6})
    ispg: bool = True


class Picker:
    """Base class of the pickers.

    An export takes three steps: `derive` sets all settings from the whole set; `write_micrographs` writes the files
    that belong to one micrograph each, for all micrographs or for a shard; `write_tables` writes the rest. A picker
    that cryoflow cannot run does not override `train_steps` and `pick_steps`.

    Attributes
    ----------
    name
        The name on the command line: `cryoflow export NAME`.
    title
        The name as the program's authors write it.
    help
        One line for `cryoflow export --help`: which files an export contains.
    formats
        The formats of its picks that cryoflow imports, in words, the richest first.
    suffixes
        Endings of the files with its picks, the richest format first.
    score_kind
        What its scores are; empty if its picks have none.
    default_threshold
        Picks of a lower score are left out on import; None keeps all.
    choices
        Allowed values of settings that have a fixed list of them.
    links_micrographs
        False for programs whose own project contains the micrographs already.
    makes_links
        False for programs that get pictures made from the micrographs only.
    model_settings
        Settings that picking must share with the training of its model.
    model_names
        Models that come with the program, by the names that it accepts.
    model_file
        The file that stands for a model that is a folder; empty where models are files.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    help: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()
    suffixes: ClassVar[tuple[str, ...]] = (".cbox", ".star", ".box", ".txt", ".csv")
    score_kind: ClassVar[str] = ""
    default_threshold: ClassVar[float | None] = None
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    needs: ClassVar[Needs] = Needs()
    links_micrographs: ClassVar[bool] = True
    makes_links: ClassVar[bool] = True
    model_settings: ClassVar[tuple[str, ...]] = ()
    model_names: ClassVar[tuple[str, ...]] = ()
    model_file: ClassVar[str] = ""

    @property
    def derives_threshold(self) -> bool:
        """Return whether its threshold follows from the scores of all micrographs together."""
        return type(self).threshold_of is not Picker.threshold_of

    @property
    def trains(self) -> bool:
        """Return whether cryoflow can train it."""
        return type(self).train_steps is not Picker.train_steps

    @property
    def picks(self) -> bool:
        """Return whether cryoflow can pick with it."""
        return type(self).pick_steps is not Picker.pick_steps

    @property
    def abilities(self) -> tuple[Ability, ...]:
        """Return what cryoflow can do with it."""
        return ("export", *(("train",) if self.trains else ()), *(("pick",) if self.picks else ()))

    @property
    def writes_micrographs(self) -> bool:
        """Return whether an export contains files that belong to one micrograph each."""
        return type(self).write_micrographs is not Picker.write_micrographs

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive all settings of an export from the whole set; nothing is written yet.

        Values that differ between micrographs become columns of `training.micrographs`. The column `convert` exists
        already for pickers that get the micrographs: why a file must be converted, empty if it is linked.

        Raises
        ------
        BadInput, MissingMetadata
            If a setting has an impossible value, or cannot be derived.
        """
        raise NotImplementedError  # every picker has settings

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write pictures, links and labels: all files that belong to one micrograph each.

        However a set is cut into shards, the files of all shards together are the same, byte for byte.

        Parameters
        ----------
        some
            The set, or a shard of it: micrographs have the columns `training_set.OF_SHARDS`, picks x and y only.
        folder
            Folder to write to.
        settings
            Values as `derive` left them.

        Raises
        ------
        BadInput
            If the files of some micrographs cannot be written; those of the others exist then.
        """

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write the files that concern the whole set: lists, tables and configuration.

        Parameters
        ----------
        folder
            Folder to write to, which contains the files of the micrographs; it is renamed to `home` when complete.
        settings
            Values as `derive` left them.
        """

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return what to do next: commands to type, or in brackets, steps in another program."""
        return ()

    def readme_lines(self, folder: Path, settings: Mapping[str, str]) -> tuple[str, ...]:
        """Return lines for the README of an export: how to use its files in this program.

        Parameters
        ----------
        folder
            Where the files are now; paths in the lines are relative to it.
        settings
            Values as `derive` left them.
        """
        return ()

    def train_command(self, home: Path, *options: str) -> str:
        """Return the cryoflow command that trains on a folder, quoted for a shell."""
        return shlex.join(["cryoflow", "picker", "train", self.name, str(home), *options])

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Return the commands that train, in order.

        Raises
        ------
        BadInput
            If cryoflow cannot train this picker.
        """
        raise BadInput(self.name, "is not trained from here.", " ".join(self.next_commands(home)))

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: DerivedSettings) -> None:
        """Write the links and the configuration that picking needs; `training` has micrographs and no picks."""

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """Return the commands that pick the micrographs of a folder that `prepare_picking` has filled.

        Raises
        ------
        BadInput
            If cryoflow cannot pick with this picker.
        """
        raise BadInput(self.name, "is not run from here.")

    def threshold_of(self, scores: npt.NDArray[np.float64]) -> float | None:
        """Return the least score of picks to keep, where none is given; None keeps all.

        Parameters
        ----------
        scores : (n,) float
        """
        return self.default_threshold

    def not_picked(self, folder: Path) -> Mapping[str, str]:
        """Return the stems of micrographs that a run in a folder could not pick, with the reasons."""
        return {}

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Return what the program would fail on in an exported folder; checked before the program runs."""
        return []

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return the model that training left, the best one if there are several.

        The caller checks that the file exists and is not empty: else the training failed, whatever its exit status.

        Raises
        ------
        BadInput
            If there is none, or the training was stopped before its end.
        """
        raise BadInput(home, f"holds no model of {self.name}.")

    def training_curve(self, home: Path) -> pd.DataFrame:
        """Return columns `epoch`, `split` (train or validation), `metric`, `value`; empty if nothing was logged."""
        import pandas as pd

        return pd.DataFrame({"epoch": [], "split": [], "metric": [], "value": []})

    def pick_files(self, folder: Path) -> list[Path]:
        """Return the files of picks that the program wrote below a folder, sorted; only the richest of its formats."""
        files = sorted(p for p in folder.rglob("*") if p.name.endswith(self.suffixes) and p.is_file())
        return next((kept for s in self.suffixes if (kept := [p for p in files if p.name.endswith(s)])), [])


class RowsWriter(Protocol):
    """Formats rows `start:stop`, each with some text before and after it."""

    def __call__(self, start: int, stop: int, before: str = "", after: str = "") -> bytes:
        """Return the rows as text."""


def rows_writer(pattern: str, columns: Sequence[object]) -> RowsWriter:
    """Return a function that formats rows of some columns, each by `pattern`, as text.

    Formatting a thousand rows with one `%` is five times faster than a thousand times one row.
    """
    import numpy as np

    table = np.column_stack([np.asarray(c, np.float64) for c in columns])

    def write(start: int, stop: int, before: str = "", after: str = "") -> bytes:
        row = f"{before.replace('%', '%%')}{pattern}{after.replace('%', '%%')}"
        return ((row * (stop - start)) % tuple(table[start:stop].ravel().tolist())).encode()

    return write
