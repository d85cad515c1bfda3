"""An export in shards, the adapter of `cryoflow.shards`: the files of some micrographs at a time.

Split, names and settings are derived over the whole set. A shard is first a file with everything needed to write its
micrographs' files, except the pixels, and later a folder of those files beside it. Both lie in a hidden folder beside
the export. Their names contain a fingerprint, so that shards of other picks, other settings or changed micrographs are
never used. Shards can be written at the same time on several machines, and a second run writes only missing ones.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

import cryoflow
from cryoflow import shards
from cryoflow.errors import BadInput, NotWritten
from cryoflow.pickers.base import Picker
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets.each_micrograph import several
from cryoflow.pickers.training_sets.manifest import refuse_paths
from cryoflow.pickers.training_sets.training_set import OF_SHARDS, TrainingSet
from cryoflow.shards import Shard
from cryoflow.storage import inputs
from cryoflow.storage.files import is_file, remove, write_atomically
from cryoflow.storage.fingerprints import state_of
from cryoflow.storage.folders import remove_folder, replacing_folder, take_over
from cryoflow.storage.parsing import parse_record
from cryoflow.system.threads import on_each_file

Content = dict[str, npt.NDArray[np.generic]]
_SUFFIX = ".npz"
_ENDING = ".cryoflow-parts"


def plan_of(shard: Shard) -> Path:
    """Return the file with the plan of a shard; its result is a folder beside this file."""
    return shard.result.with_name(f"{shard.result.name}{_SUFFIX}")


def shard_of(file: Path) -> Shard:
    """Return the shard of such a file.

    Raises
    ------
    BadInput
        Where its name is not that of a shard.
    """
    known = shards.range_of(file.name.removesuffix(_SUFFIX)) if file.name.endswith(_SUFFIX) else None
    if known is None:
        raise BadInput(file, "is no shard of an export.", "Run the export again: it cuts itself.")
    return Shard(*known, file.with_suffix(""))


def output_name(shard: Shard) -> str:
    """Return the name of the folder that the export goes to."""
    return shard.result.parent.name.removeprefix(".").removesuffix(_ENDING)


def folder_of_shards(output: Path) -> Path:
    """Return the folder of an export's shards: on the same disk as the export will be."""
    output = Path(os.path.realpath(output)) if output.is_symlink() else output
    return output.with_name(f".{output.name}{_ENDING}")


def shards_in(output: Path) -> list[Shard]:
    """Return the shards that an export was cut into, in the order of their micrographs, of whatever content."""
    return [shard_of(file) for file in shards.in_folder(folder_of_shards(output), _SUFFIX)]


def cut(target: Picker, training: TrainingSet, output: Path, settings: Mapping[str, str], n: int) -> tuple[Shard, ...]:
    """Cut an export into shards of `n` micrographs and write the file of each; those that are there stay.

    Shards of another content are removed. Nothing is cut if one shard is enough.
    """
    total = len(training.micrographs)
    found: list[Shard] = []
    folder = folder_of_shards(output)
    if target.writes_micrographs and total > n:
        for first, last in shards.cut(total, n):
            content = _content(target, training.shard(first, last), settings)
            shard = _shard(first, last, folder, content)
            if not is_file(plan_of(shard)):
                archive = io.BytesIO()
                np.savez(archive, **content)  # type: ignore[arg-type]  # of its own keyword
                write_atomically(plan_of(shard), archive.getvalue())
            found.append(shard)
    for old in shards_in(output):
        if old not in found:
            remove_folder(old.result)
            remove(plan_of(old))
    return tuple(found)


def write_shard(shard: Shard) -> None:
    """Write the files of one shard, unless they are there.

    Raises
    ------
    BadInput
        Where its file cannot be read, or files of micrographs cannot be made: the shard is absent then.
    """
    if shard.is_done:
        return
    plan = plan_of(shard)
    made = _read(plan)
    try:
        _complete(shard, *made)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        # A picker raises `BadInput` for its micrographs: this is a plan whose values are not those of an export.
        raise BadInput(plan, f"is no shard of an export ({str(error)[:200]}).", _HINT) from error


def write_all(target: Picker, training: TrainingSet, output: Path, folder: Path, settings: Mapping[str, str]) -> None:
    """Write the files of all micrographs of an export into `folder`, or take over those of its shards that are done.

    Shards that are not done are written first, each complete or absent.

    Raises
    ------
    BadInput
        Where files of micrographs cannot be made. Shards that are done then stay, for the next run.
    """
    if not target.writes_micrographs:
        return
    current = list(_current(target, training, output, settings))
    failed = shards.run(current, lambda s: _complete(s, target, training.shard(s.first, s.last), settings))
    if failed:
        raise failed[0] if len(failed) == 1 else several(failed, f"{len(failed)} of {len(current)} shards")
    covered = 0
    for shard in current:
        take_over(shard.result, folder)
        _write_rows(target, training, covered, shard.first, folder, settings)
        covered = shard.last
    _write_rows(target, training, covered, len(training.micrographs), folder, settings)


def remove_shards(output: Path) -> None:
    """Remove the shards of an export, once it stands."""
    remove_folder(folder_of_shards(output))


def _complete(shard: Shard, target: Picker, some: TrainingSet, settings: Mapping[str, str]) -> None:
    with replacing_folder(shard.result) as hidden:
        target.write_micrographs(some, hidden, settings)


def _write_rows(
    target: Picker, training: TrainingSet, first: int, last: int, folder: Path, settings: Mapping[str, str]
) -> None:
    """Write the files of some rows, shard by shard."""
    failed: list[BadInput] = []
    for some in training.in_shards(first, last):
        try:
            target.write_micrographs(some, folder, settings)
        except NotWritten:
            raise
        except BadInput as error:
            failed.append(error)
    if failed:
        raise failed[0] if len(failed) == 1 else several(failed, "micrographs")


def _current(target: Picker, training: TrainingSet, output: Path, settings: Mapping[str, str]) -> Iterator[Shard]:
    """Return the shards on disk with the content of this export; none overlaps another."""
    covered = 0
    for shard in shards_in(output):
        if shard.first >= covered and shard.last <= len(training.micrographs):
            content = _content(target, training.shard(shard.first, shard.last), settings)
            if shard == _shard(shard.first, shard.last, shard.result.parent, content):
                covered = shard.last
                yield shard


def _content(target: Picker, some: TrainingSet, settings: Mapping[str, str]) -> Content:
    """Return everything needed to write the files of some micrographs, except the pixels."""
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


def _shard(first: int, last: int, folder: Path, content: Content) -> Shard:
    described: list[object] = []
    for name, values in sorted(content.items()):
        described += [(name, str(values.dtype), len(values)), np.ascontiguousarray(values).tobytes()]
    described += on_each_file(state_of, content["micrographs path"].tolist())
    return shards.shard(first, last, folder, "", described)


_HINT = "Run the same again."


def _read(file: Path) -> tuple[Picker, TrainingSet, dict[str, str]]:
    """Return the picker, the micrographs and the settings that the file of a shard contains."""
    try:
        content = inputs.read_npz(file)
        if any(values.dtype.kind not in "Ubiuf" for values in content.values()):
            raise TypeError("an array of neither text nor numbers")
        _, name, settings = parse_record(file, str(content["made"][0]), tuple[str, str, dict[str, str]], _HINT)
        tables = {
            which: pd.DataFrame(
                {key.partition(" ")[2]: values for key, values in content.items() if key.startswith(f"{which} ")}
            )
            for which in ("micrographs", "picks", "not_positive")
        }
        with np.errstate(invalid="raise"):  # a number that its type cannot hold
            micrographs = tables["micrographs"].astype(OF_SHARDS)
        for which in ("picks", "not_positive"):
            rows = tables[which]["micrograph"].astype(np.int64)
            if not rows.is_monotonic_increasing or not rows.between(0, len(micrographs) - 1).all():
                raise ValueError("a pick of no micrograph")
            tables[which] = tables[which].astype(dict.fromkeys(("x_px", "y_px"), np.float64))
    except (OSError, ValueError, KeyError, TypeError, IndexError, ArithmeticError) as error:
        raise BadInput(file, f"is no shard of an export ({str(error)[:200]}).", _HINT) from error
    refuse_paths(file, micrographs["stem"])
    return (
        picker(name),
        TrainingSet(micrographs, tables["picks"], (), (), not_positive=tables["not_positive"]),
        settings,
    )
