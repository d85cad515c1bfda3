"""The profile `docker` on a real Docker Engine: the project's own deployments, each run in a container of its own."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator

import pytest
from real_site import RealSite

from cryoflow.database import Database
from cryoflow.profiles import ProfileName, deployment_name
from cryoflow.settings import load_settings

pytestmark = pytest.mark.docker

HOSTILE = 'It\'s a "project", 50%: $(touch pwned) é'
USER = 12345
"""Neither root nor the image's own user."""


class DockerSite(RealSite):
    def start_worker(self, **options: object) -> None:
        pool = f"cryoflow-{ProfileName.DOCKER}"
        self.worker = self._start("worker", "worker", "start", "--pool", pool, "--name", "d", "--type", "docker")

    def run(self, flow: str, parameters: dict[str, object]):
        """Start a deployment as its form would, and wait for its end."""
        with self.client() as client:
            deployment = client.read_deployment_by_name(f"{flow}/{deployment_name(flow, ProfileName.DOCKER)}")
            run = client.create_flow_run_from_deployment(deployment.id, parameters={"parameters": parameters})
        return self.until(run.id, lambda r: r.state.is_final(), within_s=240)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, docker_image: str) -> Iterator[DockerSite]:
    from cryoflow.simulate import simulate_dataset
    from cryoflow.simulate.relion_project import write_relion_project

    folder = tmp_path_factory.mktemp("site in containers")
    projects, results = folder / HOSTILE.replace(":", ""), folder / "re 'sul' ts"
    data = simulate_dataset(
        projects / "micrographs", specimen="barrel", n_micrographs=5, shape_yx=(360, 480), pixel_size_A=4.0, seed=2
    )
    write_relion_project(projects / "relion", data)
    results.mkdir()
    os.chown(results, USER, USER)
    site = DockerSite(folder)
    values = {
        "server": f"http://127.0.0.1:{site.port}",
        "cpu_image": docker_image,
        "read_only": [str(projects)],
        "read_write": [str(results)],
    }
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    (folder / "cryoflow.toml").write_text("\n".join(['profile = "docker"', "[site]", *lines]))
    try:
        site.start_server()
        with pytest.MonkeyPatch.context() as patch, site.client():
            patch.setenv("CRYOFLOW_CONFIG", str(folder / "cryoflow.toml"))
            from cryoflow.cluster.deployments import deployments, make_pools

            settings = load_settings().settings
            make_pools(ProfileName.DOCKER)
            patch.setattr(os, "getuid", lambda: USER)  # whoever deploys is who containers run as
            patch.setattr(os, "getgid", lambda: USER)
            wanted = list(deployments(settings, ProfileName.DOCKER))
            patch.undo()
            for deployment in wanted:
                deployment.apply()
        site.start_worker()
        yield site
    finally:
        site.close()


def test_projects_are_read_in_a_container_and_what_it_writes_belongs_to_who_deployed(site: DockerSite) -> None:
    projects, results = site.folder / HOSTILE.replace(":", ""), site.folder / "re 'sul' ts"
    before = sorted(p for p in projects.rglob("*"))
    run = site.run("ingest", {"roots": [str(projects)], "database": str(results / "pi cks")})
    assert run.state.name == "Completed", site.messages(run.id, "")
    entries = Database(results / "pi cks").entries()
    assert {entry.project for entry in entries} == {"relion"}
    assert sum(entry.n_picks for entry in entries) > 0
    owners = {p.lstat().st_uid for p in results.rglob("*")}
    assert owners == {USER}
    assert sorted(p for p in projects.rglob("*")) == before
    assert not (site.folder / "pwned").exists()
    assert "ingest: " in site.messages(run.id, "ingest: ")  # its log reached the server, by the address of the settings


def test_a_container_cannot_write_to_projects_and_the_run_says_so(site: DockerSite) -> None:
    projects = site.folder / HOSTILE.replace(":", "")
    run = site.run("ingest", {"roots": [str(projects)], "database": str(projects / "picks")})
    assert run.state.name == "Failed"
    assert "Read-only file system" in run.state.message
    assert not (projects / "picks").exists()
    mine = ["docker", "ps", "--all", "--quiet", "--filter", f"label=io.prefect.flow-run-id={run.id}"]
    end = time.monotonic() + 30
    while subprocess.run(mine, capture_output=True, check=True).stdout:  # it goes a moment after its run has ended
        assert time.monotonic() < end
        time.sleep(0.5)
