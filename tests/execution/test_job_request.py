"""How a job asks SLURM: options that sites differ in, and the scripts as golden files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Executor, Step, WorkFolder, write_script
from cryoflow.execution.quoting import directive
from cryoflow.execution.resources import GpuOption, JobRequest, MemoryOption, Resources

GOLDEN = Path(__file__).parent / "data"
JOB = JobRequest("a", cpus=4, memory_mb=8000, gpus=2, gpu_types=("a100",))


def options(request: JobRequest) -> list[str]:
    return list(request.sbatch_options())


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (MemoryOption.PER_NODE, ["--cpus-per-task=4", "--mem=16000M"]),
        (MemoryOption.PER_CPU, ["--cpus-per-task=4", "--mem-per-cpu=4000M"]),
        (MemoryOption.PER_GPU, ["--cpus-per-task=4", "--mem-per-gpu=8000M"]),
        (MemoryOption.NONE, ["--cpus-per-task=8"]),
    ],
)
def test_memory_grows_in_the_option_that_the_site_accepts(mode: MemoryOption, expected: list[str]) -> None:
    asked = options(replace(JOB, memory_option=mode, memory_factor=2.0))
    assert [o for o in asked if "mem" in o or "cpus" in o] == expected


def test_a_job_without_gpus_asks_for_memory_per_node_where_others_ask_per_gpu() -> None:
    assert "--mem=8000M" in options(replace(JOB, gpus=0, memory_option=MemoryOption.PER_GPU))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["--gres=gpu:a100:2"]),
        ({"gpu_option": GpuOption.GPUS}, ["--gpus=a100:2"]),
        ({"gpu_types": ()}, ["--gres=gpu:2"]),
        ({"gpu_types": ("h100", "a100")}, ["--constraint=h100|a100", "--gres=gpu:2"]),
        ({"gpu_types": ("h100", "a100"), "constraint": "nvme"}, ["--constraint=(nvme)&(h100|a100)", "--gres=gpu:2"]),
        ({"gpus": 0, "gpu_types": ("h100", "a100")}, []),
    ],
)
def test_gpus_are_asked_for_as_the_site_spells_them(changes: dict[str, object], expected: list[str]) -> None:
    asked = options(replace(JOB, **changes))  # type: ignore[arg-type]
    assert [o for o in asked if "gpu" in o or "constraint" in o] == expected


def test_options_that_a_cluster_refuses_are_left_out_and_others_stay() -> None:
    asked = options(replace(JOB, folder="/x", comment="c", leave_out=("chdir", "mem", "gres"), extra=("--mem=0",)))
    assert asked == ["--job-name=a", "--comment=c", "--cpus-per-task=4", "--mem=0"]


def test_nodes_to_avoid_are_named() -> None:
    assert "--exclude=gpu1,gpu7" in options(replace(JOB, exclude=("gpu1", "gpu7")))


def test_a_line_break_is_refused_in_every_directive() -> None:
    with pytest.raises(BadInput, match="line break"):
        directive("--comment=a\n#SBATCH --uid=0")


def test_the_script_of_a_picker_is_the_golden_one(tmp_path: Path) -> None:
    home = tmp_path / "a 'set' of, 50%"
    home.mkdir()
    (home / "manifest.tsv").write_text("# cryoflow training set 7f3a; $(touch hacked)\nrest\n")
    step = Step("Train Topaz", ("topaz", "train", "-d", "0", "--name", "a $b"), ("models/m.sav",), wants_gpu=True)
    executor = Executor(
        "apptainer", "/images/topaz.sif", sbatch_options=("--partition=gpu",), resources=Resources((0, 1), 8)
    )
    script = write_script([step], executor, WorkFolder(home, "manifest.tsv", ("/data/P12",)), "train", "train.log")
    text = script.read_text().replace(str(tmp_path), "/tmp/pytest").replace("singularity exec", "apptainer exec")
    if os.environ.get("WRITE_GOLDEN"):
        (GOLDEN / "picker.sbatch").write_text(text)
    assert text == (GOLDEN / "picker.sbatch").read_text()
