"""The whole pipeline as users meet it: `cryoflow up`, the API and the page, real SLURM, the project's own image."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import browser
from prefect.workers.base import BaseJobConfiguration
from real_site import RealSite, postgres

from cryoflow.report.execution import TraceRow, read_trace

pytestmark = [pytest.mark.slurm, pytest.mark.apptainer]

N_MICROGRAPHS = 6
TOML = """
profile = "slurm"

[site]
server = "http://127.0.0.1:{port}"
server_database = "{postgres}"
read_only = ["{folder}/projects", "{folder}/micrographs", "{folder}/truth"]
read_write = ["{folder}/output"]
log_folder = "{folder}/logs"
cpu_image = "{image}"

[site.resources.small]
memory_gb = 1
time_minutes = 20
partition = "cpu"

[site.resources.large]
cpus = 1
memory_gb = 1.5
time_minutes = 20
partition = "cpu"

[site.resources.gpu]
cpus = 1
memory_gb = 2.5
time_minutes = 20
gpus = 1
partition = "gpu"
"""


class LivingSite(RealSite):
    """A site that `cryoflow up` keeps running."""

    def __init__(self, folder: Path, database: str, image: Path) -> None:
        super().__init__(folder)
        self.logs = folder / "logs"
        self.worker_log = folder / "services" / "worker-cryoflow-slurm.log"
        (folder / "output").mkdir()
        file = folder / "cryoflow.toml"
        file.write_text(TOML.format(port=self.port, postgres=database, folder=folder, image=image))
        self.environment |= {"CRYOFLOW_CONFIG": str(file), "CRYOFLOW_SLURM_POLL_SECONDS": "2"}

    def up(self) -> None:
        arguments = ("-m", "cryoflow", "up", "--profile", "slurm", "--logs", str(self.folder / "services"))
        with (self.folder / "up.log").open("wb") as log:
            self.server = subprocess.Popen(
                [sys.executable, *arguments], env=self.environment, stdout=log, stderr=log, start_new_session=True
            )
        for _ in range(360):
            said = (self.folder / "up.log").read_text()
            assert self.server.poll() is None, said
            if f"open http://127.0.0.1:{self.port} in a browser" in said:
                return
            time.sleep(0.5)
        raise AssertionError(said)

    def down(self) -> None:
        """As Ctrl-C does."""
        assert self.server is not None
        self.server.send_signal(signal.SIGINT)
        assert self.server.wait(60) == 0

    def run_to_its_end(self, deployment: str, parameters: dict[str, Any], *, within_s: float) -> Any:
        with self.client() as client:
            found = client.read_deployment_by_name(deployment)
            run = client.create_flow_run_from_deployment(found.id, parameters={"parameters": parameters})
        return self.until(run.id, lambda run: run.state.is_final(), within_s=within_s, every_s=2)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, cpu_image: Path) -> Iterator[LivingSite]:
    with postgres() as database:
        if database is None:
            pytest.skip("there is no PostgreSQL server to start")
        folder = tmp_path_factory.mktemp("site")
        simulate(folder)
        site = LivingSite(folder, database, cpu_image)
        try:
            site.up()
            yield site
            site.down()
        finally:
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(site.server.pid, signal.SIGKILL)  # type: ignore[union-attr]


def simulate(folder: Path) -> None:
    """The two projects of the demo, on smaller micrographs, and their truth."""
    from cryoflow.database import Database
    from cryoflow.simulate import simulate_dataset
    from flows.demo import PROJECTS, true_picks

    for name, (_, write_project) in PROJECTS.items():
        dataset = simulate_dataset(
            folder / "micrographs" / name, specimen="barrel", n_micrographs=N_MICROGRAPHS, shape_yx=(360, 480),
            pixel_size_A=4.0, seed=3,
        )  # fmt: skip
        write_project(folder / "projects" / name, dataset)
        Database(folder / "truth").add(true_picks(dataset, folder / "projects" / name))


@pytest.mark.browser
def test_the_fields_of_a_pools_form_come_in_the_order_of_their_declaration(site: LivingSite, tmp_path: Path) -> None:
    """PostgreSQL keeps no order of the form's fields: without positions, the page shows the shortest names first."""
    from cryoflow.cluster.job import SlurmJobConfiguration

    described = {name: str(field.description) for name, field in SlurmJobConfiguration.model_fields.items()}
    own = [described[name] for name in described if name not in BaseJobConfiguration.model_fields]
    with browser(tmp_path / "chromium") as page:
        page.open(f"http://127.0.0.1:{site.port}/work-pools/work-pool/cryoflow-slurm/edit", shows=own[0])
        text = page.text()
    assert all(text.count(description) == 1 for description in own)
    assert sorted(own, key=text.index) == own
    assert text.index(described["labels"]) > text.index(own[-1])


@pytest.fixture(scope="module")
def piped(site: LivingSite) -> Any:
    """The run of the pipeline, launched by the API, after its end."""
    return site.run_to_its_end(
        "pipeline/pipeline (slurm)",
        {
            "roots": [str(site.folder / "projects")],
            "output": str(site.folder / "output" / "run"),
            "reference_database": str(site.folder / "truth"),
            "diameter_A": 160.0,
            "epochs": 2,
            "test": 0.34,
            "chunk_micrographs": N_MICROGRAPHS,
            "shard_micrographs": N_MICROGRAPHS,
        },
        within_s=1300,
    )


@pytest.fixture(scope="module")
def rows(site: LivingSite, piped: Any) -> tuple[TraceRow, ...]:
    assert piped.state.name == "Completed", site.messages(piped.id, "")
    return read_trace(site.folder / "output" / "run" / "trace.tsv")


def test_the_pipeline_leaves_all_it_promises(site: LivingSite, rows: tuple[TraceRow, ...]) -> None:
    from cryoflow.database import Database

    output = site.folder / "output" / "run"
    entries = {entry.name for entry in Database(output / "database").entries()}
    assert {"CS-large/Unpicked_J4", "relion-barrel/Unpicked_job005"} <= entries
    for file in ("training/cryolo/manifest.tsv", "training/topaz/manifest.tsv", "unpicker/bundle.json"):
        assert (output / file).is_file()
    page = (output / "report.html").read_text()
    for text in ("CS-large/Unpicked_J4", "precision before", 'alt="timeline of the stages"', rows[0].nodes):
        assert text in page


def test_each_stage_and_shard_is_a_job_of_its_own_on_the_partition_of_its_class(rows: tuple[TraceRow, ...]) -> None:
    stages = [row.stage for row in rows]
    assert sorted(stages) == [
        *("cut export", "cut export", "evaluate", "ingest", "ingest", "ingest", "report", "score", "score"),
        *("train unpicker", "unpick", *["write shard"] * 4, "write training set", "write training set"),
    ]
    assert len({row.slurm_job for row in rows}) == len(rows)
    on_gpu = {row.stage for row in rows if row.partition == "gpu"}
    assert on_gpu == {"train unpicker", "score", "unpick"}
    assert {row.partition for row in rows} == {"cpu", "gpu"}


def test_the_trace_has_slurms_figures_of_each_job(site: LivingSite, piped: Any, rows: tuple[TraceRow, ...]) -> None:
    for row in rows:
        assert (row.status, row.slurm_state, row.exit) == ("Completed", "COMPLETED", "0:0")
        assert row.elapsed_s
        assert row.peak_mb
        assert row.cpu_percent
        assert row.nodes
    again = subprocess.run(
        [sys.executable, "-m", "cryoflow", "trace", str(piped.id), "--output", str(site.folder / "by-hand.tsv")],
        env=site.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert read_trace(site.folder / "by-hand.tsv") == rows
    assert all(str(row.slurm_job) in again.stdout for row in rows)


def test_every_job_ran_in_the_image_and_those_with_a_gpu_were_given_it(
    site: LivingSite, cpu_image: Path, rows: tuple[TraceRow, ...]
) -> None:
    for row in rows:
        (script,) = site.logs.glob(f"*.{row.flow_run}.sbatch")
        text = script.read_text()
        assert "apptainer exec --cleanenv" in text
        assert str(cpu_image) in text
        assert ("--nv" in text) == (row.partition == "gpu")
        assert f"--job-name={row.stage}".replace(" ", "\\ ") in text.replace(" ", "\\ ")


def test_what_a_stage_tells_reaches_its_page(site: LivingSite, rows: tuple[TraceRow, ...]) -> None:
    from uuid import UUID

    last = next(row for row in reversed(rows) if row.stage == "ingest")
    site.messages(UUID(last.flow_run), "jobs: ")
