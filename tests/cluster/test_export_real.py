"""A large export on a real SLURM: cut by one job, written by some at once, gathered by one; one is cancelled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from real_site import RealSite, has_ended
from test_picking_real import BareSite

from cryoflow.database import Database
from cryoflow.pickers.running.train_and_pick import best_entries, load_entries
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.manifest import made_with

pytestmark = [pytest.mark.slurm]
N_MICROGRAPHS, PART = 6, 2


@pytest.fixture(scope="module")
def bare(site: RealSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareSite]:
    bare = BareSite(site, tmp_path_factory.mktemp("bare"))
    small = "[site.resources.small]\ncpus = 1\nmemory_gb = 1\ntime_minutes = 10\npartition = 'cpu,gpu'\n"
    bare.file.write_text(bare.file.read_text() + small)
    try:
        bare.start()
        yield bare
    finally:
        bare.stop()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    from cryosparc_projects import write_cryosparc_project

    from cryoflow.ingest import ingest
    from cryoflow.simulate import simulate_dataset

    folder = tmp_path_factory.mktemp("exported")
    shape = {"n_micrographs": N_MICROGRAPHS, "shape_yx": (360, 480), "pixel_size_A": 4.0}
    write_cryosparc_project(
        folder / "projects" / "CS-barrel",
        simulate_dataset(folder / "micrographs", specimen="barrel", seed=3, **shape),
    )
    database = Database(folder / "database")
    ingest(folder / "projects", database)
    return database


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_parts_written_on_several_nodes_and_one_that_is_cancelled_give_the_export_of_one_piece(
    bare: BareSite, database: Database, tmp_path: Path
) -> None:
    output = tmp_path / "sets" / "warp"
    wanted = {"picker": "warp", "database": str(database.root), "output": str(output), "shard_micrographs": PART}
    with bare.site.client() as client:
        deployment = client.read_deployment_by_name("export/export (slurm-bare)")
        parameters = {"parameters": {**wanted, "diameter_A": 160.0}}
        parent = UUID(str(client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id))
    cancelled = bare.first_submitted("write shard")
    subprocess.run(["scancel", cancelled.infrastructure_pid], check=True)
    bare.site.until(cancelled.id, has_ended)
    ended = bare.site.until(parent, lambda run: run.state.is_final(), within_s=180)
    assert ended.state.name == "Completed", bare.site.messages(parent, "")

    (cut,), parts, (gathering,) = (bare.runs_of(stage) for stage in ("cut export", "write shard", "write training set"))
    assert (cut.state.name, gathering.state.name) == ("Completed", "Completed")
    assert sorted(run.state.name for run in parts) == ["Completed", "Completed", "Crashed"]
    assert len({run.infrastructure_pid for run in (cut, *parts, gathering)}) == 5
    assert [path.name for path in output.parent.iterdir()] == ["warp"]
    in_parts, manifest = files(output), made_with(output)
    output.rename(tmp_path / "in parts")
    export("warp", load_entries(database, best_entries(database)), output, diameter_A=160.0)
    assert files(output) == in_parts
    assert made_with(output) == manifest
