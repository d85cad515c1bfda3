"""An export in parts: the files of some micrographs at a time, each part complete or absent on disk.

Split, names and settings are decided over the whole set. Then a part is a file that holds all that its micrographs'
files follow from, and later a folder of those files beside it. Both lie in a hidden folder beside the export, and their
name holds a mark of what went in: parts of other picks, of other settings or of micrographs that have changed since are
never taken. So parts can be written at the same time on several machines, and a second run writes only what is missing.
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

import cryoflow
from cryoflow import shards
from cryoflow.errors import BadInput, NotWritten
from cryoflow.pickers.base import Picker
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets.side_by_side import several
from cryoflow.pickers.training_sets.training_set import OF_SHARDS, TrainingSet
from cryoflow.storage import inputs
from cryoflow.storage.files import is_file, remove, remove_folder, replacing_folder, take_over, write_atomically
from cryoflow.storage.fingerprints import Fingerprint, state_of

Content = dict[str, npt.NDArray[np.generic]]
_NAME = re.compile(r"(?P<first>\d{7,})-(?P<last>\d{7,})-[0-9a-f]{16}\.npz", re.ASCII)
_ENDING = ".cryoflow-parts"


@dataclass(frozen=True)
class Part:
    """Rows `first` to `last` (not included) of a training set, and the file that says how to write their files."""

    first: int
    last: int
    file: Path

    @property
    def done(self) -> Path:
        """The folder of what was written; it is there when all of it is."""
        return self.file.with_suffix("")

    @property
    def output_name(self) -> str:
        """Name of the folder that the export goes to."""
        return self.file.parent.name.removeprefix(".").removesuffix(_ENDING)


def part_of(file: Path) -> Part:
    """The part that a file stands for.

    Raises
    ------
    BadInput
        Where its name is not that of a part.
    """
    if (match := _NAME.fullmatch(file.name)) is None:
        raise BadInput(file, "is no part of an export.", "Run the export again: it cuts itself.")
    return Part(int(match["first"]), int(match["last"]), file)


def folder_of_parts(output: Path) -> Path:
    """Where the parts of an export lie: on the same disk as the export will."""
    output = Path(os.path.realpath(output)) if output.is_symlink() else output
    return output.with_name(f".{output.name}{_ENDING}")


def parts_in(output: Path) -> list[Part]:
    """The parts that an export was cut into, in the order of their micrographs, whether they still hold or not."""
    folder = folder_of_parts(output)
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [part_of(folder / name) for name in names if _NAME.fullmatch(name)]


def cut(target: Picker, training: TrainingSet, output: Path, settings: Mapping[str, str], n: int) -> tuple[Part, ...]:
    """Cut an export into parts of `n` micrographs and write the file of each; those that are there stay.

    Parts of another content are removed. Nothing is cut where one part is enough.
    """
    total = len(training.micrographs)
    parts: list[Part] = []
    folder = folder_of_parts(output)
    if target.writes_micrographs and total > n:
        for first, last in shards.cut(total, n):
            content = _content(target, training.shard(first, last), settings)
            part = Part(first, last, folder / f"{_name(first, last, content)}.npz")
            if not is_file(part.file):
                archive = io.BytesIO()
                np.savez(archive, **content)  # type: ignore[arg-type]  # of its own keyword
                write_atomically(part.file, archive.getvalue())
            parts.append(part)
    known = {part.file for part in parts}
    for old in parts_in(output):
        if old.file not in known:
            remove_folder(old.done)
            remove(old.file)
    return tuple(parts)


def write_part(part: Part) -> None:
    """Write the files of one part, unless they are there.

    Raises
    ------
    BadInput
        Where its file cannot be read, or files of micrographs cannot be made: the part is absent then.
    """
    if not part.done.is_dir():
        _complete(part, *_read(part.file))


def write_all(target: Picker, training: TrainingSet, output: Path, folder: Path, settings: Mapping[str, str]) -> None:
    """Write the files of all micrographs of an export into `folder`, or take over those of its parts that are done.

    Parts that are not done are written first, each complete or absent.

    Raises
    ------
    BadInput
        Where files of micrographs cannot be made. Parts that are done then stay, for the next run.
    """
    if not target.writes_micrographs:
        return
    failed: list[BadInput] = []
    covered = 0
    rest: list[tuple[int, int]] = []
    parts = list(_that_hold(target, training, output, settings))
    for part in parts:
        rest += [(covered, part.first)] if part.first > covered else []
        covered = part.last
        try:
            _complete(part, target, training.shard(part.first, part.last), settings)
        except NotWritten:
            raise
        except BadInput as error:
            failed.append(error)
    if failed:
        raise failed[0] if len(failed) == 1 else several(failed, f"{len(failed)} of {len(parts)} parts")
    for part in parts:
        take_over(part.done, folder)
    for first, last in [*rest, (covered, len(training.micrographs))]:
        _write_rows(target, training, first, last, folder, settings)


def remove_parts(output: Path) -> None:
    """Remove the parts of an export, once it stands."""
    remove_folder(folder_of_parts(output))


def _complete(part: Part, target: Picker, some: TrainingSet, settings: Mapping[str, str]) -> None:
    if not part.done.is_dir():
        with replacing_folder(part.done) as hidden:
            target.write_micrographs(some, hidden, settings)


def _write_rows(
    target: Picker, training: TrainingSet, first: int, last: int, folder: Path, settings: Mapping[str, str]
) -> None:
    """A thousand micrographs after the other, which bounds the memory."""
    failed: list[BadInput] = []
    for start in range(first, last, 1000):
        try:
            target.write_micrographs(training.shard(start, min(start + 1000, last)), folder, settings)
        except NotWritten:
            raise
        except BadInput as error:
            failed.append(error)
    if failed:
        raise failed[0] if len(failed) == 1 else several(failed, "micrographs")


def _that_hold(target: Picker, training: TrainingSet, output: Path, settings: Mapping[str, str]) -> Iterator[Part]:
    """Parts on disk that are of this very export, none over another."""
    covered = 0
    for part in parts_in(output):
        if part.first >= covered and part.last <= len(training.micrographs):
            content = _content(target, training.shard(part.first, part.last), settings)
            if part.file.stem == _name(part.first, part.last, content):
                covered = part.last
                yield part


def _content(target: Picker, some: TrainingSet, settings: Mapping[str, str]) -> Content:
    """All that the files of some micrographs follow from, but for the micrographs themselves."""
    content: Content = {"made": np.array([json.dumps([cryoflow.__version__, target.name, dict(settings)])])}
    for column, dtype in OF_SHARDS.items():
        values = some.micrographs[column]
        content[f"micrographs {column}"] = (
            np.array(values.tolist(), str)
            if dtype == "object"
            else np.asarray(values.to_numpy(np.float64, na_value=np.nan))
        )
    for name, table in (("picks", some.picks), ("not_positive", some.not_positive)):
        content |= {f"{name} {column}": table[column].to_numpy() for column in table.columns}
    return content


def _name(first: int, last: int, content: Content) -> str:
    found = Fingerprint(16)
    for name, values in sorted(content.items()):
        found.add(f"{name} {values.dtype} {len(values)}\n", np.ascontiguousarray(values).tobytes())
    with ThreadPoolExecutor(8) as pool:  # on a cluster's file system a look takes a while
        for state in pool.map(state_of, content["micrographs path"].tolist()):
            found.add(repr(state))
    return f"{first:07d}-{last:07d}-{found.digits}"


def _read(file: Path) -> tuple[Picker, TrainingSet, dict[str, str]]:
    """A part's file: the picker, the micrographs, and the settings."""
    try:
        content = inputs.read_npz(file)
        _, name, settings = json.loads(str(content["made"][0]))
        tables = {
            which: pd.DataFrame(
                {key.partition(" ")[2]: values for key, values in content.items() if key.startswith(f"{which} ")}
            )
            for which in ("micrographs", "picks", "not_positive")
        }
        micrographs = tables["micrographs"].astype(OF_SHARDS)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        raise BadInput(file, f"is no part of an export ({error}).", "Run the same again.") from error
    return (
        picker(name),
        TrainingSet(micrographs, tables["picks"], (), (), not_positive=tables["not_positive"]),
        settings,
    )
