"""Promise 7: stems in the tables of an export, which a node or a colleague may send, are names and never paths.

Shards of an export are files of arrays; each array is exchanged in turn.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from promise_tools import make_entry, tree

from cryoflow.cli.main import launch
from cryoflow.errors import BadInput, ExitCode, UnsafePath
from cryoflow.micrographs.image import write_mrc
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import cut_export, export
from cryoflow.pickers.training_sets.export_shards import plan_of, shard_of, write_shard
from cryoflow.preparation.model_folder import npz_bytes
from cryoflow.storage import inputs

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The file of one shard of an export."""
    first, _ = cut_export("cryolo", [make_entry(tmp_path, n=4)], tmp_path / "out/set", 2)
    return plan_of(first)


@pytest.mark.parametrize("stem", ["../../escaped", "{outside}/escaped", "", "..", "a\nb", "a/b"])
def test_a_stem_of_a_manifest_that_is_a_path_is_refused_before_anything_is_written(
    stem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    folder = export("cryoflow", [make_entry(tmp_path, n=3)], tmp_path / "set").folder
    table = manifest.read_manifest(folder)
    named = stem.format(outside=outside)
    (folder / manifest.NAME).write_text(
        manifest.manifest_text(table, "x").replace(f"\n{table['stem'][0]}\t", f"\n{named}\t", 1)
    )
    write_mrc(outside / "escaped.mrc", np.eye(90, 120, dtype=np.float32), 4.0)
    before = tree(tmp_path)
    assert launch(["detector", "pick-exported", str(folder)]) == ExitCode.FAILED
    assert tree(tmp_path) == before
    assert manifest.NAME in capsys.readouterr().err


@pytest.mark.parametrize("stem", ["../../../escaped", "/{folder}/escaped", "..", "a\0b"])
def test_a_stem_of_a_shard_that_is_a_path_is_refused(stem: str, plan: Path, tmp_path: Path) -> None:
    arrays = dict(inputs.read_npz(plan))
    stems = arrays["micrographs stem"].astype(object)
    stems[0] = stem.format(folder=tmp_path)
    plan.write_bytes(npz_bytes(arrays | {"micrographs stem": stems.astype(str)}))
    before = tree(tmp_path)
    with pytest.raises(BadInput, match=plan.name):
        write_shard(shard_of(plan))
    assert tree(tmp_path) == before


CHANGES: dict[str, Callable[[Array], Array]] = {
    "shorter": lambda a: a[:-1],
    "longer": lambda a: np.concatenate([a, a]),
    "empty": lambda a: a[:0],
    "a scalar": lambda a: np.array(7),
    "two dimensions": lambda a: np.stack([a, a]),
    "text": lambda a: np.array(["\udcff nested " * 9] * len(a)),
    "not numbers": lambda a: np.full(len(a), np.nan),
    "infinite": lambda a: np.full(len(a), np.inf),
    "huge": lambda a: np.full(len(a), 1e300),
    "negative": lambda a: np.full(len(a), -(2**62)),
    "complex": lambda a: np.full(len(a), 1j),
    "dates": lambda a: np.full(len(a), np.datetime64("2020-01-01")),
    "records": lambda a: np.zeros(len(a), [("x", "f8")]),
    "nested deeply": lambda a: np.array(["[" * 100_000] * max(1, len(a))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_with_an_array_exchanged_is_written_or_is_one_clear_error(change: str, plan: Path) -> None:
    arrays = dict(inputs.read_npz(plan))
    outcomes = {}
    for name in arrays:
        plan.write_bytes(npz_bytes(arrays | {name: CHANGES[change](arrays[name])}))
        try:
            write_shard(shard_of(plan))
            shutil.rmtree(shard_of(plan).result)
            outcomes[name] = ""
        except BadInput as error:
            outcomes[name] = str(error)
    assert plan.name in outcomes["micrographs path"] + outcomes["picks micrograph"]
    assert all(len(text) < 2000 for text in outcomes.values())


@pytest.mark.parametrize("name", ["made", "micrographs stem", "micrographs path", "picks micrograph", "picks x_px"])
def test_a_shard_without_an_array_is_one_clear_error(name: str, plan: Path) -> None:
    arrays = dict(inputs.read_npz(plan))
    del arrays[name]
    plan.write_bytes(npz_bytes(arrays))
    with pytest.raises(BadInput, match=plan.name):
        write_shard(shard_of(plan))


def test_names_of_files_are_not_paths(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath, match="cannot be the name of a file"):
        manifest.refuse_paths(tmp_path, ["a", "../a"])
