"""Pickers as jobs on a real SLURM: one trains, some pick shards at the same time, and one gathers.

With Topaz the parent is killed while the training runs, a new one is started, and the job of a shard is cancelled. The
picker of the project itself picks with the model that comes with it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from real_site import RealSite, has_ended, is_running

from cryoflow.cluster.trace import trace
from cryoflow.database import Database
from cryoflow.settings.profiles import ProfileName, deployment_name

pytestmark = [pytest.mark.slurm, pytest.mark.pickers]

N_MICROGRAPHS, PART = 6, 2
TOML = """
profile = "slurm-bare"
[site]
server = "http://127.0.0.1:{port}"
log_folder = "{folder}/logs"
[site.resources.gpu]
cpus = 2
memory_gb = 2
time_minutes = 10
gpus = 0
partition = "cpu,gpu"
"""
TOPAZ = """#!/bin/sh
# The real one. It says what it does and where, and waits for whoever holds it.
echo "$SLURM_JOB_ID $SLURMD_NODENAME $1" >> {folder}/called
while [ -e "{folder}/hold $1" ]; do sleep 0.2; done
exec {topaz} "$@"
"""
SMALL = {"epochs": "1", "epoch_size": "40", "minibatch_size": "32", "downsampling": "2"}


class BareSite:
    """The project's deployments of the profile slurm-bare on the server of another site, with two workers more."""

    def __init__(self, site: RealSite, folder: Path) -> None:
        self.site, self.folder = site, folder
        self.file = folder / "cryoflow.toml"
        self.file.write_text(TOML.format(port=site.port, folder=folder))
        self.environment = site.environment | {"CRYOFLOW_CONFIG": str(self.file), "CRYOFLOW_SLURM_POLL_SECONDS": "2"}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.since = datetime.datetime.now(datetime.UTC)

    def start(self) -> None:
        cryoflow = [sys.executable, "-m", "cryoflow", "deploy", "--profile", "slurm-bare"]
        subprocess.run(cryoflow, env=self.environment, check=True, capture_output=True)
        for pool, kind in (("cryoflow-slurm-bare", "cryoflow-slurm"), ("cryoflow-service", "process")):
            argv = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", kind, "--name", pool]
            with (self.folder / f"{pool}.log").open("wb") as log:
                self.workers.append(
                    subprocess.Popen(argv, env=self.environment, stdout=log, stderr=log, start_new_session=True)
                )

    def stop(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):  # of Prefect's own workers, where SIGINT is ignored
                worker.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)

    def launch(self, parameters: dict[str, Any], *, stage: str = "train and pick") -> UUID:
        with self.site.client() as client:
            found = client.read_deployment_by_name(f"{stage}/{deployment_name(stage, ProfileName.SLURM_BARE)}")
            run = client.create_flow_run_from_deployment(found.id, parameters={"parameters": parameters})
            return UUID(str(run.id))

    def runs_of(self, stage: str) -> list[Any]:
        """The runs of a stage since this site began: the server may have those of another test."""
        from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterName

        only = DeploymentFilter(name=DeploymentFilterName(any_=[deployment_name(stage, ProfileName.SLURM_BARE)]))
        with self.site.client() as client:
            runs = [run for run in client.read_flow_runs(deployment_filter=only) if run.created >= self.since]
        return sorted(runs, key=lambda run: run.created)

    def first_running(self, stage: str) -> Any:
        return self._first(stage, is_running, "came to run")

    def first_submitted(self, stage: str) -> Any:
        """A run whose job is queued, starts or runs: what is done in no time is seen all the same."""
        return self._first(stage, lambda run: run.infrastructure_pid and not run.state.is_final(), "was submitted")

    def _first(self, stage: str, wanted: Callable[[Any], object], what: str) -> Any:
        end = time.monotonic() + 300
        while time.monotonic() < end:
            if found := [run for run in self.runs_of(stage) if wanted(run)]:
                return found[0]
            time.sleep(0.5)
        raise AssertionError(f"no run of {stage} {what}: {[(r.name, r.state_name) for r in self.runs_of(stage)]}")


class Call(NamedTuple):
    """One call of the picker's program: by which job, on which node, and what it was to do."""

    job: str
    node: str
    what: str


class Interrupted(NamedTuple):
    """Training and picking of which the parent was killed and one shard was cancelled."""

    bare: BareSite
    parameters: dict[str, Any]
    training: Any
    """The run that trained, while its first parent was killed."""
    parent: Any
    """The second parent's run, after its end."""
    cancelled_job: str
    programs: Path


@pytest.fixture(scope="module")
def bare(site: RealSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BareSite]:
    bare = BareSite(site, tmp_path_factory.mktemp("bare"))
    try:
        bare.start()
        yield bare
    finally:
        bare.stop()


@pytest.fixture(scope="module")
def interrupted(bare: BareSite) -> Interrupted:
    parameters = prepare(bare.folder)
    programs = Path(parameters["programs"])
    (programs / "hold train").touch()
    killed = bare.launch(parameters)
    training = bare.first_running("train picker")
    kill(bare, killed)
    parent = bare.launch(parameters)
    bare.site.messages(parent, "is at work already", within_s=90)

    (programs / "hold extract").touch()
    (programs / "hold train").unlink()
    end = time.monotonic() + 900  # Topaz trains first: over 300 s where other tests compute beside it
    while len(picking := [call for call in calls(programs) if call.what == "extract"]) < N_MICROGRAPHS // PART:
        assert time.monotonic() < end, calls(programs)
        time.sleep(0.5)
    subprocess.run(["scancel", picking[0].job], check=True)
    (part,) = [run for run in bare.runs_of("pick") if run.infrastructure_pid == picking[0].job]
    bare.site.until(part.id, has_ended)
    (programs / "hold extract").unlink()
    ended = bare.site.until(parent, lambda run: run.state.is_final(), within_s=240)
    return Interrupted(bare, parameters, training, ended, picking[0].job, programs)


def prepare(folder: Path) -> dict[str, Any]:
    """A project, its database, and what to train on and to pick."""
    from cryosparc_projects import write_cryosparc_project

    from cryoflow.ingest import ingest
    from cryoflow.simulate import simulate_dataset

    shape = {"n_micrographs": N_MICROGRAPHS, "shape_yx": (360, 480), "pixel_size_A": 4.0}
    dataset = simulate_dataset(folder / "micrographs", specimen="barrel", seed=3, **shape)
    write_cryosparc_project(folder / "projects" / "CS-barrel", dataset)
    database = Database(folder / "database")
    ingest(folder / "projects", database)
    programs = folder / "programs"
    programs.mkdir()
    real = Path(os.environ.get("PICKERS_DIR", "/var/tmp/testbed-pickers")) / "bin" / "topaz"
    (programs / "topaz").write_text(TOPAZ.format(folder=programs, topaz=real))
    (programs / "topaz").chmod(stat.S_IRWXU)
    entry = next(e.name for e in database.entries() if e.kind.value == "NonUniform")
    folders = {"database": str(database.root), "output": str(folder / "run"), "programs": str(programs)}
    machine = {"gpus": 0, "cpus": 1, "shard_micrographs": PART}
    picking = {"picker": "topaz", "to_pick": [entry], "diameter_A": 160.0, "settings": SMALL, "threshold": -5.0}
    return folders | machine | picking


def kill(bare: BareSite, run_id: UUID) -> None:
    """SIGKILL for a parent's process; its worker, which lives on, calls its run Crashed."""
    with bare.site.client() as client:
        pid = int(client.read_flow_run(run_id).infrastructure_pid)
    os.kill(pid, signal.SIGKILL)
    bare.site.until(run_id, lambda run: run.state.is_final())


def calls(programs: Path) -> list[Call]:
    return [Call(*line.split()) for line in (programs / "called").read_text().splitlines()]


def gathered(interrupted: Interrupted) -> str:
    (entry,) = [e for e in Database(interrupted.parameters["database"]).entries() if e.job == "topaz"]
    return entry.name


def test_a_training_whose_parent_was_killed_is_waited_for_by_the_next_and_not_started_twice(
    interrupted: Interrupted,
) -> None:
    assert interrupted.parent.state.name == "Completed", interrupted.bare.site.messages(interrupted.parent.id, "")
    (run,) = interrupted.bare.runs_of("train picker")
    assert (run.id, run.state.name, run.run_count) == (interrupted.training.id, "Completed", 1)
    (training,) = [call for call in calls(interrupted.programs) if call.what == "train"]
    assert training.job == interrupted.training.infrastructure_pid


def test_parts_are_picked_at_the_same_time_on_several_nodes(interrupted: Interrupted) -> None:
    parts = [call for call in calls(interrupted.programs) if call.what == "extract"][: N_MICROGRAPHS // PART]
    assert len({call.job for call in parts}) == len(parts)  # all of them had begun before any could end
    assert len({call.node for call in parts}) == len(parts)


def test_the_part_whose_job_was_cancelled_is_picked_by_the_job_that_gathers(interrupted: Interrupted) -> None:
    runs = {run.infrastructure_pid: run for run in interrupted.bare.runs_of("pick")}
    assert (runs[interrupted.cancelled_job].state.name, len(runs)) == ("Crashed", N_MICROGRAPHS // PART + 1)
    *parts, last = [call for call in calls(interrupted.programs) if call.what == "extract"]
    assert last.job not in {call.job for call in parts}
    assert {runs[call.job].state.name for call in (*parts[1:], last)} == {"Completed"}
    picks = Database(interrupted.parameters["database"]).load(gathered(interrupted))
    assert len(picks.micrographs) == N_MICROGRAPHS
    assert set(picks.picks["micrograph"]) == set(range(N_MICROGRAPHS))


def test_the_trace_of_the_second_parent_has_the_training_that_the_first_had_started(interrupted: Interrupted) -> None:
    with interrupted.bare.site.client():
        rows = trace(interrupted.parent.id)
    runs = [*interrupted.bare.runs_of("train picker"), *interrupted.bare.runs_of("pick")[: N_MICROGRAPHS // PART + 1]]
    assert {row.flow_run for row in rows} == {str(run.id) for run in runs}
    assert (rows[0].stage, rows[0].slurm_state) == ("train picker", "COMPLETED")
    assert rows[0].peak_mb
    assert {row.slurm_state for row in rows if str(row.slurm_job) == interrupted.cancelled_job} == {"CANCELLED"}


def test_the_same_again_trains_and_picks_nothing_and_needs_no_job_for_a_part(interrupted: Interrupted) -> None:
    def left() -> dict[Path, int]:
        folders = (Path(interrupted.parameters["output"]), Path(interrupted.parameters["database"]))
        return {f: f.stat().st_mtime_ns for folder in folders for f in folder.rglob("*") if f.is_file()}

    before, called, jobs = left(), calls(interrupted.programs), len(interrupted.bare.runs_of("pick"))
    again = interrupted.bare.site.until(
        interrupted.bare.launch(interrupted.parameters), lambda run: run.state.is_final(), within_s=180
    )
    assert again.state.name == "Completed"
    assert calls(interrupted.programs) == called
    changed = {f.name for f, time in left().items() if before.get(f) != time}
    assert changed <= {"training_curve.tsv", "training_curve.png"}  # they are made again of the training's log
    assert len(interrupted.bare.runs_of("pick")) == jobs + 1


def test_shards_of_the_projects_own_picker_are_jobs_whose_picks_are_gathered_on_the_particles(
    bare: BareSite, tmp_path: Path
) -> None:
    from cryoflow.micrographs.boxes import cut_boxes
    from cryoflow.micrographs.image import read_micrograph
    from cryoflow.simulate import simulate_dataset

    dataset = simulate_dataset(
        tmp_path / "micrographs", specimen="barrel", n_micrographs=4, shape_yx=(360, 480), pixel_size_A=4.0, seed=3
    )
    files = [str(micrograph.path) for micrograph in dataset.micrographs]
    database = Database(tmp_path / "database")
    parameters = {
        "picker": "cryoflow", "model": "general", "database": str(database.root), "output": str(tmp_path / "run"),
        "micrographs": files, "diameter_A": 160.0, "gpus": 0, "cpus": 1, "shard_micrographs": PART,
    }  # fmt: skip
    shards = [
        bare.launch(parameters | {"entry": "", "first": first, "last": first + PART}, stage="pick")
        for first in range(0, len(files), PART)
    ]
    ended = [bare.site.until(run, has_ended, within_s=300) for run in shards]
    assert [run.state.name for run in ended] == ["Completed"] * len(shards), bare.site.messages(shards[0], "")
    assert len({run.infrastructure_pid for run in ended}) == len(shards)
    assert not database.exists
    gathering = bare.site.until(bare.launch(parameters, stage="pick"), has_ended, within_s=300)
    assert gathering.state.name == "Completed", bare.site.messages(gathering.id, "")
    (entry,) = database.entries()
    picks = database.load(entry.name)
    assert sorted(picks.micrographs["name"]) == sorted(Path(file).name for file in files)
    contrast = []
    for micrograph in dataset.micrographs:
        xy = picks[micrograph.path.name][["x_px", "y_px"]].to_numpy()
        assert len(xy) > 3
        boxes = cut_boxes(read_micrograph(micrograph.path), xy, 61)
        contrast.extend(boxes[:, 20:41, 20:41].mean(axis=(1, 2)) < boxes.mean(axis=(1, 2)))
    assert sum(contrast) > 0.9 * len(contrast)  # particles are darker than what is around them
