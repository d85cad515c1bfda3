"""An export in shards: the files of some micrographs at a time, each shard complete or absent on disk.

Split, names and settings are derived over the whole set. A shard is first a file with everything needed to write its
micrographs' files, except the pixels, and later a folder of those files beside it. Both lie in a hidden folder beside
the export. Their names contain a fingerprint, so that shards of other picks, other settings or changed micrographs are
never used. Shards can be written at the same time on several machines, and a second run writes only missing ones.
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
from cryoflow.errors import BadInput, NotWritten
from cryoflow.pickers.base import Picker
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets.side_by_side import several
from cryoflow.pickers.training_sets.training_set import OF_SHARDS, TrainingSet
from cryoflow.shards import cut as cut_ranges
from cryoflow.storage import inputs
from cryoflow.storage.files import is_file, remove, remove_folder, replacing_folder, take_over, write_atomically
from cryoflow.storage.fingerprints import Fingerprint, state_of

Content = dict[str, npt.NDArray[np.generic]]
_NAME = re.compile(r"(?P<first>\d{7,})-(?P<last>\d{7,})-[0-9a-f]{16}\.npz", re.ASCII)
_ENDING = ".cryoflow-parts"


@dataclass(frozen=True)
class Shard:
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


def shard_of(file: Path) -> Shard:
    """The shard that a file stands for.

    Raises
    ------
    BadInput
        Where its name is not that of a shard.
    """
    if (match := _NAME.fullmatch(file.name)) is None:
        raise BadInput(file, "is no shard of an export.", "Run the export again: it cuts itself.")
    return Shard(int(match["first"]), int(match["last"]), file)


def folder_of_shards(output: Path) -> Path:
    """Where the shards of an export lie: on the same disk as the export will."""
    output = Path(os.path.realpath(output)) if output.is_symlink() else output
    return output.with_name(f".{output.name}{_ENDING}")


def shards_in(output: Path) -> list[Shard]:
    """The shards that an export was cut into, in the order of their micrographs, whether they still hold or not."""
    folder = folder_of_shards(output)
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [shard_of(folder / name) for name in names if _NAME.fullmatch(name)]


def cut(target: Picker, training: TrainingSet, output: Path, settings: Mapping[str, str], n: int) -> tuple[Shard, ...]:
    """Cut an export into shards of `n` micrographs and write the file of each; those that are there stay.

    Shards of another content are removed. Nothing is cut if one shard is enough.
    """
    total = len(training.micrographs)
    found: list[Shard] = []
    folder = folder_of_shards(output)
    if target.writes_micrographs and total > n:
        for first, last in cut_ranges(total, n):
            content = _content(target, training.shard(first, last), settings)
            shard = Shard(first, last, folder / f"{_name(first, last, content)}.npz")
            if not is_file(shard.file):
                archive = io.BytesIO()
                np.savez(archive, **content)  # type: ignore[arg-type]  # of its own keyword
                write_atomically(shard.file, archive.getvalue())
            found.append(shard)
    known = {shard.file for shard in found}
    for old in shards_in(output):
        if old.file not in known:
            remove_folder(old.done)
            remove(old.file)
    return tuple(found)


def write_shard(shard: Shard) -> None:
    """Write the files of one shard, unless they are there.

    Raises
    ------
    BadInput
        Where its file cannot be read, or files of micrographs cannot be made: the shard is absent then.
    """
    if not shard.done.is_dir():
        _complete(shard, *_read(shard.file))


def write_all(target: Picker, training: TrainingSet, output: Path, folder: Path, settings: Mapping[str, str]) -> None:
    """Write the files of all micrographs of an export into `folder`, or take over those of its shards that are done.

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
    complete = list(_that_hold(target, training, output, settings))
    for shard in complete:
        rest += [(covered, shard.first)] if shard.first > covered else []
        covered = shard.last
        try:
            _complete(shard, target, training.shard(shard.first, shard.last), settings)
        except NotWritten:
            raise
        except BadInput as error:
            failed.append(error)
    if failed:
        raise failed[0] if len(failed) == 1 else several(failed, f"{len(failed)} of {len(complete)} shards")
    for shard in complete:
        take_over(shard.done, folder)
    for first, last in [*rest, (covered, len(training.micrographs))]:
        _write_rows(target, training, first, last, folder, settings)


def remove_shards(output: Path) -> None:
    """Remove the shards of an export, once it stands."""
    remove_folder(folder_of_shards(output))


def _complete(shard: Shard, target: Picker, some: TrainingSet, settings: Mapping[str, str]) -> None:
    if not shard.done.is_dir():
        with replacing_folder(shard.done) as hidden:
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


def _that_hold(target: Picker, training: TrainingSet, output: Path, settings: Mapping[str, str]) -> Iterator[Shard]:
    """Parts on disk that are of this very export, none over another."""
    covered = 0
    for shard in shards_in(output):
        if shard.first >= covered and shard.last <= len(training.micrographs):
            content = _content(target, training.shard(shard.first, shard.last), settings)
            if shard.file.stem == _name(shard.first, shard.last, content):
                covered = shard.last
                yield shard


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
    """A shard's file: the picker, the micrographs, and the settings."""
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
        raise BadInput(file, f"is no shard of an export ({error}).", "Run the same again.") from error
    return (
        picker(name),
        TrainingSet(micrographs, tables["picks"], (), (), not_positive=tables["not_positive"]),
        settings,
    )
