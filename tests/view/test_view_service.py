"""The viewer that `cryoflow up` starts: its address, its tokens, and links of reports that lead to it."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from ports import free_port
from view_fixtures import OTHER, SCORED, UNPICKED, links_of, make_database, write_mask

from cryoflow.cli.cluster import start_viewer
from cryoflow.cluster import services
from cryoflow.cluster.supervisor import Running
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.site import Site
from cryoflow.view.addresses import report_address


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def settings_of(database: Path, viewer: str | None) -> Settings:
    return Settings(database=database, site=Site(viewer=viewer))


def test_the_viewer_of_up_answers_at_the_sites_address_and_its_log_holds_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    database = make_database(tmp_path)
    write_mask(tmp_path / "masks")
    monkeypatch.setenv("CRYOFLOW_SITE", json.dumps({"masks": [str(tmp_path / "masks")]}))
    settings = settings_of(database.root, f"http://127.0.0.1:{free_port()}")
    with Running(tmp_path / "logs") as running:
        assert start_viewer(running, settings)
        token = services.viewer_tokens().read_text().split()[1]
        running.wait_for("the viewer", lambda: services.is_taken(services.viewer_port(settings)))
        request = urllib.request.Request(f"{settings.site.viewer}/", headers={"authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert "P1" in answer.read().decode()
        request.full_url += f"api/micrograph?{urlencode({'entry': SCORED, 'micrograph': 1})}"
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["mask"] is True  # of the site's folder
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{settings.site.viewer}/", timeout=60)
        log = (tmp_path / "logs" / "viewer.log").read_text()
        assert token not in log
        assert str(services.viewer_tokens()) in log
        assert start_viewer(running, settings)
        assert len(running) == 1
    assert stat.S_IMODE(services.viewer_tokens().stat().st_mode) == 0o600
    told = capsys.readouterr().err
    assert f"{settings.site.viewer}/?token={token}" in told
    assert "is taken: no other viewer is started" in told


def test_patterns_open_the_entries_that_they_match_and_one_that_matches_nothing_ends_the_viewer(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "cryoflow", "view", "--database", str(make_database(tmp_path).root), "--port", "0"]
    with subprocess.Popen([*command, "--json", "*/Unp*", "P1/*"], stdout=subprocess.PIPE, text=True) as viewer:
        link = links_of(viewer)["read"]
        viewer.terminate()
    opened = parse_qs(urlsplit(link).query)
    assert opened["entry"] == [UNPICKED]
    assert opened["with"] == [SCORED, OTHER]
    done = subprocess.run([*command, "P2/*"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "nothing matches 'P2/*'" in done.stderr


def test_there_is_no_viewer_before_the_first_ingest(tmp_path: Path) -> None:
    with Running(tmp_path / "logs") as running:
        assert not start_viewer(running, settings_of(tmp_path / "DB", None))
        assert not start_viewer(running, Settings(database=None))
        assert not len(running)


def test_behind_a_proxy_the_viewer_listens_on_loopback_and_takes_requests_of_the_proxys_name(tmp_path: Path) -> None:
    database = make_database(tmp_path)
    service = services.viewer(settings_of(database.root, "https://picks.example.org/picks"))
    assert service
    argv = service.argv
    assert argv[argv.index("--host-name") + 1] == "picks.example.org"
    assert argv[argv.index("--port") + 1] == str(services.VIEWER_PORT)


def test_runs_of_a_local_worker_link_their_reports_to_the_viewer_that_up_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The site names no viewer; what else a variable says of the site stays."""
    monkeypatch.setenv("CRYOFLOW_SITE", json.dumps({"read_write": [str(tmp_path)]}))
    settings = services.with_viewer(Settings(database=tmp_path / "DB", site=Site(read_write=(tmp_path,))))
    (worker,) = services.workers(settings, ProfileName.LOCAL)
    code = "from cryoflow.settings.load import load_settings; print(load_settings().settings.site.model_dump_json())"
    environment = {**worker.environment, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    site = Site.model_validate_json(done.stdout)
    page = tmp_path / "report.html"
    assert report_address(page, site) == f"http://127.0.0.1:{services.VIEWER_PORT}/reports{page}"


def test_a_viewer_that_the_site_names_stays(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, "https://picks.example.org/picks")
    assert services.with_viewer(settings) == settings
    assert services.with_viewer(Settings(database=None)).site.viewer is None
