"""A training that the page of a saved review starts: Prefect's server, a worker, the flow and the network are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from chromium import Page
from ports import free_port
from view_browser import Viewer, open_entry, shown

pytestmark = pytest.mark.browser


@dataclass
class Site:
    """A site that `cryoflow up` runs."""

    server: str
    models: Path

    def state_of(self, run: str) -> str:
        with urllib.request.urlopen(f"{self.server}/api/flow_runs/{run}", timeout=30) as answer:
            return str(json.load(answer)["state_type"])


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    site = Site(f"http://127.0.0.1:{free_port()}", tmp_path / "models")
    site.models.mkdir()
    for name in [n for n in os.environ if n.startswith("PREFECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "prefect" / "profiles.toml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folders = {"models": str(site.models), "read_write": [str(tmp_path)]}
    monkeypatch.setenv("CRYOFLOW_SITE", json.dumps({"server": site.server, **folders}))
    command = [sys.executable, "-m", "cryoflow", "up", "--profile", "local", "--no-viewer", "--logs", "logs"]
    log = tmp_path / "up.log"
    with log.open("w") as opened:
        environment = {**os.environ, "TMPDIR": str(tmp_path)}  # not the browser's: the names of its sockets are short
        up = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=opened, stderr=opened)
    try:
        end = time.monotonic() + 300
        while "in a browser; logs are in" not in log.read_text():
            assert up.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.5)
        yield site
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(60)


@pytest.mark.parametrize("database", [30], indirect=True)
def test_use_for_training_trains_on_the_server_and_the_page_shows_how_far_it_is(
    site: Site, start: Callable[..., Viewer], page: Page
) -> None:
    viewer = start()
    open_entry(page, viewer.write)
    page.js("(e => { e.value = 0.5; e.dispatchEvent(new Event('change')) })(document.getElementById('threshold'))")
    for number in range(1, 5):
        page.press("f")
        page.wait_for(f"document.querySelectorAll('#list .mark.finished').length === {number}")
    page.press("s")
    page.press("Enter", code=13)
    page.wait_for("document.getElementById('saved-entry').textContent !== ''")
    page.js(
        "window.told = []; new MutationObserver(() => told.push(document.getElementById('trainings').innerText))"
        ".observe(document.getElementById('trainings'), { childList: true, subtree: true, characterData: true })"
    )
    page.click("document.getElementById('train')")
    address = str(page.wait_for("document.querySelector('#trainings a')?.href"))
    assert address.startswith(f"{site.server}/runs/flow-run/")
    page.wait_for("told.some(text => text.includes('running'))", within_s=300)
    page.wait_for("/completed|failed|crashed/.test(told.at(-1))", within_s=300)
    told = page.js("told")
    assert "completed" in told[-1], told
    assert any(" %" in text for text in told), told
    assert site.state_of(address.rpartition("/")[2]) == "COMPLETED"
    model = site.models / "P1_AutoPick_job005_reviewed"
    assert str(model) in told[-1]
    assert shown(page, "saved-entry") == "P1/AutoPick_job005_reviewed"
    page.open(viewer.read.split("/look")[0] + "/models", shows=model.name)
    assert page.js("document.querySelectorAll('polyline.validation').length") > 0
    assert "validation f1" in page.text()
