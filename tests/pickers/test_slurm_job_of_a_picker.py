"""Pickers as jobs of a real SLURM; the picker is a stand-in, all the rest is not."""

import subprocess
from pathlib import Path

import pytest
from test_running import BROKEN, TOPAZ, exported, program  # noqa: F401  # fixtures

from cryoflow.cli.main import launch
from cryoflow.errors import ToolFailed
from cryoflow.execution.executor import Executor
from cryoflow.execution.resources import Resources
from cryoflow.pickers.running.run_picker import pick, train
from cryoflow.pickers.training_sets.export import export

pytestmark = pytest.mark.slurm

JOB = Executor(slurm=True, resources=Resources((), 1, allocated=True), timeout_s=300)


def test_train_and_pick_as_jobs(make_entry, program, tmp_path):  # noqa: F811
    program("topaz", TOPAZ)
    entry = make_entry(n=4)
    folder = export("topaz", [entry], tmp_path / "a %j set", settings={"downsampling": 1}).folder
    lines: list[str] = []
    trained = train("topaz", folder, JOB, on_line=lines.append)
    assert trained.model is not None
    assert trained.model.name == "topaz_epoch2.sav"
    assert lines[-1] == "topaz train"
    (picks,) = pick("topaz", trained.model, [entry], tmp_path / "picked", JOB).picksets
    assert picks.centers_xy_px.tolist() == [[10, 20]] * 4


def test_a_job_that_fails_shows_the_end_of_its_log(exported, program):  # noqa: F811
    program("topaz", BROKEN)
    with pytest.raises(ToolFailed, match="CUDA out of memory"):
        train("topaz", exported, JOB)


def test_who_stops_waiting_stops_the_job(exported, program, tmp_path):  # noqa: F811
    program("topaz", f"#!/bin/sh\necho $SLURM_JOB_ID > '{tmp_path}/number'\nsleep 600\n")
    executor = Executor(slurm=True, resources=Resources((), 1, allocated=True), timeout_s=60)
    with pytest.raises(ToolFailed, match="longer than 60 s"):
        train("topaz", exported, executor)
    number = (tmp_path / "number").read_text().strip()
    shown = subprocess.run(["scontrol", "show", "job", number], capture_output=True, text=True, check=True).stdout
    assert "JobState=CANCELLED" in shown or "JobState=COMPLETING" in shown


@pytest.mark.parametrize("name", ["plain", "a %j 'b' \"c\" $HOME;ü"])
def test_a_written_script_is_submitted_from_another_folder(make_entry, program, tmp_path, name):  # noqa: F811
    program("topaz", TOPAZ)
    folder = export("topaz", [make_entry(n=4)], tmp_path / name, settings={"downsampling": 4}).folder
    argv = ["picker", "train", "topaz", str(folder), "--script-only", "--gpus", "none", "--cpus", "1"]
    assert launch(argv) == 0
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    submit(folder / "train.sbatch", elsewhere)
    assert (folder / "models" / "topaz_epoch3.sav").exists()
    assert (folder / "train.log").read_text().endswith("topaz train\n")
    assert (elsewhere / "train.log").read_text() == f"the log is {folder}/train.log\n"
    moved = folder.rename(tmp_path / "moved")
    (moved / "models" / "topaz_epoch3.sav").unlink()
    submit(moved / "train.sbatch", moved)
    assert (moved / "models" / "topaz_epoch3.sav").exists()


def submit(script: Path, cwd: Path) -> None:
    subprocess.run(["sbatch", "--wait", script], cwd=cwd, check=True, timeout=300)
