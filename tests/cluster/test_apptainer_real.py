"""A stage in a real Apptainer image as a real SLURM job: what it sees, and what it may write to."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_site import FLOWS, RealSite, has_ended, postgres

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer]

HOSTILE = 'It\'s a "project", 50%: $(touch pwned) é\\'


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cpu_image: Path) -> Iterator[RealSite]:
    with postgres() as database:
        folder = tmp_path_factory.mktemp("site in images")
        site = RealSite(folder, database=database)
        try:
            site.start_server()
            values = {"image": str(cpu_image), "read_only": [str(FLOWS)], "env": {"PYTHONPATH": str(FLOWS)}}
            site.set_up(memory_gb=1.5, **values)
            site.start_worker()
            yield site
        finally:
            site.close()


def test_a_stage_in_an_image_reads_a_hostile_project_cannot_write_to_it_and_writes_its_output(
    site: RealSite, tmp_path: Path
) -> None:
    project, output = tmp_path / HOSTILE, tmp_path / f"out {HOSTILE}"
    project.mkdir()
    output.mkdir()
    (project / "picks.star").write_text("data_picks")
    variables = {"read_only": [str(FLOWS), str(project)], "read_write": [str(output)]}
    run = site.until(
        site.launch(variables, read=str(project / "picks.star"), write=str(output / "result")), has_ended, within_s=180
    )
    assert run.state.name == "Completed", site.messages(run.id, "")
    messages = site.messages(run.id, "data_picks")
    assert "cannot write: Read-only file system" in messages
    assert f"'SLURM_JOB_ID': '{run.infrastructure_pid}'" in messages
    assert "'APPTAINER_CONTAINER': " in messages
    assert (output / "result").read_text() == "written"
    assert sorted(p.name for p in project.iterdir()) == ["picks.star"]
    assert not (tmp_path / "pwned").exists()


def test_a_gpu_job_hands_its_gpu_into_the_image(site: RealSite) -> None:
    run = site.until(site.launch({"partition": "gpu", "gpus": 1}), has_ended, within_s=180)
    assert run.state.name == "Completed"
    assert "'CUDA_VISIBLE_DEVICES': '0'" in site.messages(run.id, "CUDA_VISIBLE_DEVICES")


def test_an_image_that_is_not_there_crashes_the_run_and_the_log_says_so(site: RealSite) -> None:
    run = site.until(site.launch({"image": "/nowhere/cryoflow.sif"}), has_ended)
    assert run.state.type == "CRASHED"
    assert "/nowhere/cryoflow.sif" in site.messages(run.id, "could not open image")


def test_memory_that_ran_out_in_an_image_is_slurms_reason_too(site: RealSite) -> None:
    run = site.until(site.launch({"memory_gb": 0.6}, eat_mb=1500, wait_s=30), has_ended, within_s=180)
    assert run.labels["slurm.end"] == "memory"


def test_the_image_is_labeled_with_version_and_commit(cpu_image: Path) -> None:
    import cryoflow

    labels = subprocess.run(
        ["apptainer", "inspect", "--labels", str(cpu_image)], capture_output=True, text=True, check=True
    ).stdout
    assert f"org.opencontainers.image.version: {cryoflow.__version__}" in labels
    assert "org.opencontainers.image.revision: " in labels
