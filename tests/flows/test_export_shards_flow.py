"""Exports where stages are jobs: cut, written in shards, gathered; a failed shard is named, the others are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from prefect import flow
from pydantic import BaseModel

from cryoflow.cluster.dispatch import Done, Work
from cryoflow.database import Database
from cryoflow.errors import BadInput
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.pickers.parameters import ExportParameters, TrainAndPickParameters
from cryoflow.pickers.training_sets.export_shards import folder_of_shards, shards_in
from flows.export import export, export_all, write_training_set
from flows.export_shards import ExportShard, cut_export, write_exports_in_shards, write_shard
from flows.ingest import ingest
from flows.picking_shards import training_set_of

ENTRY = "CS-barrel/NonUniform_J11"
STAGES = {"cut export": (cut_export, ExportParameters), "write shard": (write_shard, ExportShard)}


@pytest.fixture
def database(own_project: Path, tmp_path: Path) -> Database:
    ingest(IngestParameters(roots=(own_project.parent,), database=tmp_path / "DB"))
    return Database(tmp_path / "DB")


@pytest.fixture
def own_project(tmp_path: Path) -> Path:
    """A project whose micrographs the test may spoil."""
    from cryosparc_projects import write_cryosparc_project

    from cryoflow.simulate import simulate_dataset

    dataset = simulate_dataset(
        tmp_path / "micrographs", specimen="barrel", n_micrographs=6, shape_yx=(360, 480), pixel_size_A=4.0, seed=3
    )
    write_cryosparc_project(tmp_path / "projects" / "CS-barrel", dataset)
    return tmp_path / "projects" / "CS-barrel"


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the jobs: each runs here as it would there, from its parameters as JSON; one that raises has failed."""
    seen: list[str] = []

    def run_shards(stage: str, works: Sequence[Work], *, on_done: Callable[[Done], None]) -> tuple[Done, ...]:
        run, form = STAGES[stage]
        ended = []
        for work in works:
            seen.append(f"{stage}: {work.name}")
            state, message = "Completed", ""
            try:
                run(form.from_values(work.values))
            except BadInput as error:
                state, message = "Failed", str(error)
            ended.append(Done(work.name, state, message, 1, "id"))
            on_done(ended[-1])
        return tuple(ended)

    def run_stages(stage: object, parameters: Sequence[BaseModel]) -> None:
        for each in parameters:
            seen.append(str(stage.name))  # type: ignore[attr-defined]
            stage(type(each).from_values(json.loads(json.dumps(each.to_json()))))  # type: ignore[operator]

    for module in ("flows.export", "flows.export_shards"):
        monkeypatch.setattr(f"{module}.dispatches", lambda: True)
    monkeypatch.setattr("flows.shards.run_shards", run_shards)
    monkeypatch.setattr("flows.shards.dispatches", lambda: True)
    monkeypatch.setattr("flows.export.run_stages", run_stages)
    return seen


def wanted(database: Database, output: Path, name: str = "warp", **more: object) -> ExportParameters:
    known = {"picker": name, "database": database.root, "output": output, "diameter_A": 160.0, "shard_micrographs": 2}
    return ExportParameters.from_values({**known, **more})


def as_parent(work: Callable[[], object]) -> object:
    """Tables need a run to be shown on."""
    return flow(name="parent")(work)()


def files(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.is_file() and path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def test_two_exports_are_cut_written_and_gathered_to_what_one_piece_gives(
    database: Database, tmp_path: Path, jobs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exports = [wanted(database, tmp_path / "sets" / name, name) for name in ("cryolo", "warp", "relion")]
    as_parent(lambda: export_all(exports))
    shards = [f"write shard: {name} {i}-{i + 2}" for name in ("cryolo", "warp") for i in (0, 2, 4)]
    assert jobs == ["cut export: cut cryolo", "cut export: cut warp", *shards, *["write training set"] * 3]
    assert sorted(p.name for p in (tmp_path / "sets").iterdir()) == ["cryolo", "relion", "warp"]
    jobs.clear()
    as_parent(lambda: export_all(exports))
    assert jobs == ["write training set"] * 3  # which find that all is there
    in_shards = files(tmp_path / "sets")
    (tmp_path / "sets").rename(tmp_path / "in shards")
    monkeypatch.setattr("flows.export.dispatches", lambda: False)
    as_parent(lambda: export_all(exports))
    assert files(tmp_path / "sets") == in_shards


def test_shards_that_fail_are_named_and_a_run_after_them_writes_only_those(
    database: Database, tmp_path: Path, jobs: list[str]
) -> None:
    p = wanted(database, tmp_path / "sets" / "warp")
    damaged = [Path(database.load(ENTRY).micrographs["path"][i]) for i in (2, 4)]
    images = [read_micrograph(path) for path in damaged]
    for path, image in zip(damaged, images, strict=True):
        write_mrc(path, np.zeros_like(image), 4.0)
    with pytest.raises(BadInput, match=rf"{damaged[0].name}: has one gray value only"):
        export(p)
    assert jobs[-1] == "write training set"
    assert not p.output.exists()
    assert [shard.is_done for shard in shards_in(p.output)] == [True, False, False]
    jobs.clear()
    for path, image in zip(damaged, images, strict=True):
        write_mrc(path, image, 4.0)
    assert export(p) == p.output
    assert jobs == ["cut export: cut warp", "write shard: warp 2-4", "write shard: warp 4-6", "write training set"]
    assert not folder_of_shards(p.output).exists()
    assert len(list(p.output.glob("*/*.tif"))) == 6


def test_small_exports_and_those_of_tables_are_not_cut(database: Database, tmp_path: Path, jobs: list[str]) -> None:
    export(wanted(database, tmp_path / "a", shard_micrographs=6))
    export(wanted(database, tmp_path / "b", "cryosparc"))
    assert jobs == ["write training set"] * 2
    assert write_exports_in_shards([wanted(database, tmp_path / "a")]) == ()  # it is there


def test_an_export_that_cannot_be_is_told_by_the_export_itself(
    database: Database, tmp_path: Path, jobs: list[str]
) -> None:
    with pytest.raises(BadInput, match="no setting batchsize"):
        export(wanted(database, tmp_path / "sets" / "cryolo", "cryolo", settings={"batchsize": "2"}))
    assert jobs == ["cut export: cut cryolo", "write training set"]
    assert not (tmp_path / "sets").exists()


def test_the_training_set_of_train_and_pick_is_the_one_that_its_training_takes(
    database: Database, tmp_path: Path, jobs: list[str]
) -> None:
    from cryoflow.execution.executor import Executor
    from cryoflow.pickers.running.train_and_pick import best_entries, export_and_train, load_entries
    from cryoflow.pickers.training_sets.split import Fractions

    p = TrainAndPickParameters(
        picker="topaz", database=database.root, output=tmp_path / "run", seed=3, diameter_A=160.0, validation=0.3,
        settings={"epochs": "2"}, shard_micrographs=2, to_pick=("*",),
    )  # fmt: skip
    training_set = training_set_of(p)
    assert as_parent(lambda: len(write_exports_in_shards([training_set]))) == 3
    write_training_set(training_set)
    exported, _ = export_and_train(
        "topaz", load_entries(database, best_entries(database)), tmp_path / "run", Executor(), diameter_A=160.0, seed=3,
        split=Fractions(0.3), settings={"epochs": "2"}, script_only=True,
    )  # fmt: skip
    assert exported.reused
