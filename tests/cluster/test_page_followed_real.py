"""docs/cluster.md followed to the letter on a real SLURM, as three accounts, to a report in the browser.

Root runs the blocks of the page that are root's, an account without rights those of `cryoflow`, and a third one owns
the projects and launches the pipeline from the page. No systemd runs here: the test starts what the units start.
"""

from __future__ import annotations

import base64
import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from chromium import Page, browser, shown
from ports import free_port
from real_site import postgres

from cryoflow.cluster.services import answers, page_problem

pytestmark = [pytest.mark.slurm, pytest.mark.browser, pytest.mark.apptainer]

ROOT = Path(__file__).resolve().parents[2]
SERVES, LAUNCHES = "games", "nobody"
"""Accounts that any Linux has, for `cryoflow` and for a user."""
AS_SERVER = ["runuser", "-u", SERVES, "--"]
POOLS = ("cryoflow-slurm-bare", "cryoflow-service")
LIGHT = Path(__file__).with_name("light_environment.py")
IMAGE = Path(__file__).with_name("linked_image.py")
FILE = re.compile(r"^`(/etc/\S+?)`.*?^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
"""A file that the page names at the start of a paragraph, and its content."""
BLOCK = re.compile(r"^```\n# (root|cryoflow)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
STATE = re.compile(r"^(?:cd|export) .*|(?<=&& )cd .*", re.MULTILINE)
"""What a line leaves in the shell of an account: the blocks that follow run in the same shell."""


class FollowedSite:
    """What the page sets up, below `folder` in place of the root folder."""

    def __init__(self, folder: Path, database: str) -> None:
        self.folder, self.port, self.viewer_port = folder, free_port(), free_port()
        self.database_host, self.database_port = re.fullmatch(r".*@(.*):(\d+)/.*", database).groups()  # type: ignore[union-attr]
        socket = f"cryoflow-postgres-*/.s.PGSQL.{self.database_port}"
        self.sockets = next(Path(tempfile.gettempdir()).glob(socket)).parent
        self.blocks = {"root": [], "cryoflow": []}  # type: dict[str, list[str]]
        page = (ROOT / "docs" / "cluster.md").read_text()
        for account, block in BLOCK.findall(page):
            self.blocks[account].append(self.of_this_site(block))
        self.files = {Path(self.of_this_site(name)): self.of_this_site(text) for name, text in FILE.findall(page)}
        self.config = folder / "opt/cryoflow/site/cryoflow.toml"
        self.source = folder / "opt/cryoflow/src"
        self.log = folder / "up.log"

    def of_this_site(self, text: str) -> str:
        """Put this site's folders, names and secrets in place of those of the page."""
        for theirs, ours in {
            "<this repository>": shlex.quote(str(ROOT)),
            "/opt/cryoflow": f"{self.folder}/opt/cryoflow",
            "/data/": f"{self.folder}/data/",
            "User=cryoflow": f"User={SERVES}",
            "/etc/cryoflow": f"{self.folder}/etc/cryoflow",
            "/etc/systemd": f"{self.folder}/etc/systemd",
            "/var/lib/": f"{self.folder}/var/lib/",
            "login1.example.org:4200": f"127.0.0.1:{self.port}",
            "--port 4200": f"--port {self.port}",
            "systemctl ": "true systemctl ",  # no systemd runs here
            "containers/build ": f"{shlex.quote(sys.executable)} {IMAGE} ",
            "10.1.0.1": "127.0.0.1",
            "-o cryoflow": f"-o {SERVES}",
            "useradd --create-home cryoflow": f"id -u {SERVES}",  # an account that is there
            "make env ": f"{shlex.quote(sys.executable)} {LIGHT} ",  # the real one takes minutes
            "SECRET": "a-secret",
            "PASSWORD": "p%40ss%20word",
            "@localhost/": f"@{self.database_host}:{self.database_port}/",
        }.items():
            text = text.replace(theirs, ours)
        return text

    def run(self, account: str, number: int, *, until: str = "", typed: str = "") -> subprocess.Popen[str]:
        """Start a block of the page in the shell of its account; wait for its end, or for a text that it prints."""
        before = "\n".join(line for block in self.blocks[account][:number] for line in STATE.findall(block))
        environment = {name: os.environ[name] for name in ("PATH", "SLURM_CONF") if name in os.environ}
        environment |= {"TMPDIR": f"{self.folder}/tmp", "LANG": "C.UTF-8"}
        environment |= {"PGHOST": str(self.sockets), "PGPORT": self.database_port, "DO_NOT_TRACK": "1"}
        as_other = [] if account == "root" else AS_SERVER
        home = f"HOME={self.folder}/home/{account}"  # runuser sets its own
        argv = [*as_other, "env", home, "bash", "-ec", f"{before}\n{self.blocks[account][number]}"]
        with self.log.open("a") as log:
            process = subprocess.Popen(
                argv, env=environment, cwd=self.folder, stdin=subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True, text=True,
            )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(typed)
        process.stdin.close()
        end = time.monotonic() + 600
        while process.poll() is None and not (until and until in self.log.read_text()):
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.5)
        assert process.poll() in (None, 0), self.log.read_text()
        return process

    def write_files(self) -> None:
        """Write the files that the page shows, for root's eyes."""
        for path, text in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)

    @contextlib.contextmanager
    def unit(self, name: str, instance: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """Start what a unit starts, as its account and in its environment, as systemd would; stop it with SIGTERM."""
        unit = configparser.RawConfigParser()
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        (file,) = [path for path in self.files if path.name == name]
        unit.read_string(file.read_text().replace("%i", instance).replace("%H", socket.gethostname()))
        service = unit["Service"]
        assert (service["User"], service["PrivateTmp"]) == (SERVES, "yes")
        private = Path(tempfile.mkdtemp(dir=self.folder / "tmp"))
        state = self.folder / "var/lib" / service.get("StateDirectory", "cryoflow")
        state.mkdir(parents=True, exist_ok=True)
        for folder in (private, state):
            shutil.chown(folder, SERVES)
        environment = [line for line in Path(service["EnvironmentFile"]).read_text().splitlines() if line]
        environment += [f"TMPDIR={private}", f"HOME={self.folder}/home/cryoflow", "PATH=/usr/local/bin:/usr/bin:/bin"]
        environment += [f"SLURM_CONF={os.environ['SLURM_CONF']}"] if "SLURM_CONF" in os.environ else []
        start = [*AS_SERVER, "env", "-i", *environment]
        with self.log.open("ab") as log:
            if before := service.get("ExecStartPre"):
                subprocess.run([*start, *shlex.split(before)], cwd="/", stdout=log, stderr=log, check=True)
            process = subprocess.Popen(
                [*start, *shlex.split(service["ExecStart"])], cwd="/", stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(60)

    def api(self, path: str, values: Any = None) -> Any:
        """Ask the server, with the secret of the page."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/api/{quote(path)}")
        request.add_header("Authorization", f"Basic {base64.b64encode(b'cryoflow:a-secret').decode()}")
        if values is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(values).encode()
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def change_the_settings(self) -> None:
        """Change the lines marked CHANGE, as the page says, and the sizes of jobs: the test bed is small."""
        text = self.of_this_site(self.config.read_text())
        text = re.sub(r'^server = ".*?"', f'server = "http://127.0.0.1:{self.port}"', text, flags=re.MULTILINE)
        text = text.replace("[site]\n", f'[site]\nviewer = "http://127.0.0.1:{self.viewer_port}"\n')
        text = re.sub(r"^memory_gb = \d+", "memory_gb = 2", text, flags=re.MULTILINE)
        self.config.write_text(re.sub(r"^cpus = \d+", "cpus = 1", text, flags=re.MULTILINE))


@pytest.fixture
def site() -> Iterator[FollowedSite]:
    if os.getuid() != 0:
        pytest.skip("only root can act as three accounts")
    python = shutil.which(f"python{sys.version_info[0]}.{sys.version_info[1]}", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no other account can run the Python of this environment")
    with postgres(superuser="postgres", auth="scram-sha-256") as database, tempfile.TemporaryDirectory() as name:
        if database is None:
            pytest.skip("there is no PostgreSQL server to start")
        folder = Path(name)
        folder.chmod(0o755)
        owners = {"home/root": "root", "home/cryoflow": SERVES, "data/projects": LAUNCHES, "opt": "root"}
        for each, owner in owners.items():
            (folder / each).mkdir(parents=True)
            shutil.chown(folder / each, owner)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        simulate(folder / "data" / "projects")
        yield FollowedSite(folder, database)


def simulate(folder: Path) -> None:
    """Write a finished project of the user who launches."""
    from cryoflow.simulate import simulate_dataset
    from flows.demo import PROJECTS

    name, (_, write_project) = next(iter(PROJECTS.items()))
    dataset = simulate_dataset(
        folder / "micrographs", specimen="barrel", n_micrographs=6, shape_yx=(360, 480), pixel_size_A=4.0, seed=3
    )
    write_project(folder / name, dataset)
    subprocess.run(["chown", "-R", LAUNCHES, str(folder)], check=True)


def test_the_page_leads_three_accounts_from_an_empty_folder_to_a_report_in_the_browser(
    site: FollowedSite, tmp_path: Path
) -> None:
    install, images, postgresql, units = range(len(site.blocks["root"]))
    settings, check_image, start = range(len(site.blocks["cryoflow"]))
    site.run("root", install)
    site.run("root", images)
    site.run("cryoflow", settings)
    site.change_the_settings()
    with fuse_for_all_accounts():
        site.run("cryoflow", check_image)
    said = site.log.read_text()
    assert re.search(r"imports\s+ok", said), said
    site.run("root", postgresql, typed="p@ss word\np@ss word\n")
    up = site.run("cryoflow", start, until=f"open http://127.0.0.1:{site.port} in a browser")
    pictures = Path(os.environ.get("TEST_PICTURES", tmp_path))
    try:
        with browser(tmp_path / "chromium") as page:
            launch(page, site, pictures)
            open_the_report(page, site, pictures)
        scripts = list((site.folder / "data/cryoflow/logs").glob("*.sbatch"))
        assert len(scripts) > 5
        assert {script.owner() for script in scripts} == {SERVES}
    finally:
        os.killpg(up.pid, signal.SIGINT)
        up.wait(60)
    site.write_files()
    site.run("root", units)
    a_stage_runs_on_the_units(site)


def a_stage_runs_on_the_units(site: FollowedSite) -> None:
    """Start the server and both workers as their units do, and run a stage of the database that the pipeline made."""
    address = f"http://127.0.0.1:{site.port}"
    with contextlib.ExitStack() as units:
        units.enter_context(site.unit("cryoflow-server.service"))
        until(lambda: answers(address), site)
        assert page_problem(address) == ""
        assert {page.owner() for page in (site.folder / "var/lib/cryoflow/pages").rglob("index.html")} == {SERVES}
        for pool in POOLS:
            units.enter_context(site.unit("cryoflow-worker@.service", pool))
        report = site.api("deployments/name/report/report (slurm-bare)")
        values = {**report["parameters"]["parameters"], "output": f"{site.folder}/data/cryoflow/by-unit.html"}
        run = site.api(f"deployments/{report['id']}/create_flow_run", {"parameters": {"parameters": values}})
        until(lambda: site.api(f"flow_runs/{run['id']}")["state"]["type"] in FINAL, site)
        assert site.api(f"flow_runs/{run['id']}")["state"]["type"] == "COMPLETED", site.log.read_text()
        for pool in POOLS:
            workers = site.api(f"work_pools/{pool}/workers/filter", {"workers": {"status": {"any_": ["ONLINE"]}}})
            # Those of `up`, which ended just before, count as online for a while.
            assert f"{pool}-{socket.gethostname()}" in {worker["name"] for worker in workers}
    assert (site.folder / "data/cryoflow/by-unit.html").owner() == SERVES


@contextlib.contextmanager
def fuse_for_all_accounts() -> Iterator[None]:
    """Let all accounts mount images, as nodes of clusters do; small virtual machines keep the device to root."""
    device = Path("/dev/fuse")
    mode = device.stat().st_mode
    device.chmod(mode | 0o666)
    try:
        yield
    finally:
        device.chmod(mode)


def until(condition: Callable[[], bool], site: FollowedSite, *, within_s: float = 600) -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, site.log.read_text()
        time.sleep(0.5)


def launch(page: Page, site: FollowedSite, pictures: Path) -> None:
    """Launch the pipeline from its form as the page's step 7 tells, and wait for its end."""
    page.open(f"http://127.0.0.1:{site.port}", shows="Login")
    page.type_into("document.querySelector('input')", "cryoflow:a-secret")
    page.picture(pictures / "1-secret.jpg")
    page.click(button("Login"))
    name = "pipeline (slurm-bare)"
    page.click(shown("Deployments"))
    page.wait_for(f"document.body.innerText.includes({name!r})")
    page.picture(pictures / "2-deployments.jpg")
    advertises_nothing(page)
    page.click(shown(name))
    page.wait_for("location.href.includes('/deployments/deployment/')")
    page.click(button("Run"))
    page.click(shown("Custom run"))
    page.wait_for("document.body.innerText.includes('Folders below which finished projects lie')")
    page.type_into(field("Output"), f"{site.folder}/data/cryoflow/run")
    page.type_into(field("Diameter A"), "160")
    page.type_into(field("Epochs"), "2")
    page.picture(pictures / "3-form.jpg")
    page.click(shown("Submit"))
    run = "e => e.href.includes('/runs/flow-run/') && e.innerText.trim() !== 'View run'"  # that one vanishes
    page.click(f"[...document.querySelectorAll('a')].find({run})")
    page.wait_for("location.href.includes('/flow-run/')")
    head = "document.body.innerText.split('\\nDeployment\\n')[0]"
    page.wait_for(f"/\\n(Completed|Failed|Crashed)\\n/.test({head})", within_s=1200)
    page.picture(pictures / "4-run.jpg")
    assert "\nCompleted\n" in page.js(head), page.text()
    advertises_nothing(page)


def field(label: str) -> str:
    """Return the element that holds the value of a form's field."""
    whole = f"[...document.querySelectorAll('label')].find(e => e.innerText.startsWith({label!r}))"
    return f"document.getElementById({whole}.htmlFor)"


def button(text: str) -> str:
    return f"[...document.querySelectorAll('button')].find(e => e.innerText.trim() === {text!r})"


def advertises_nothing(page: Page) -> None:
    """Prefect's hosted product is nowhere on the page, and neither is an error."""
    assert not re.search("cloud|upgrade|community|oops|failed", page.text(), re.IGNORECASE), page.text()


def open_the_report(page: Page, site: FollowedSite, pictures: Path) -> None:
    """Open the viewer by the link that `up` printed, then the link to the report among the run's artifacts."""
    run = page.js("location.href")
    viewer = re.search(rf"open (http://127.0.0.1:{site.viewer_port}/\S+) to look at picks", site.log.read_text())
    assert viewer, site.log.read_text()
    page.open(viewer[1], shows="picks")
    page.open(run, shows="Artifacts")
    report = "[...document.querySelectorAll('a')].find(e => e.href.endsWith('/artifacts/key/report'))"
    page.click_until(shown("Artifacts"), f"!!({report})")
    page.click(report)
    page.click("[...document.querySelectorAll('a')].find(e => e.href.includes('/artifacts/artifact/'))")
    link = "[...document.querySelectorAll('a')].find(e => e.href.includes('/reports/'))"
    page.wait_for(f"!!({link})")
    page.picture(pictures / "5-artifact.jpg")
    address = page.js(f"({link}).href")
    assert address.endswith(f"{site.folder}/data/cryoflow/run/report.html")
    page.open(address, shows="What to do next")
    page.picture(pictures / "6-report.jpg")
