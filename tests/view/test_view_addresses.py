"""Addresses of reports on the site's viewer."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow.settings.site import Site
from cryoflow.view.addresses import report_address


def test_a_report_in_a_folder_of_results_has_an_address_on_the_viewer() -> None:
    site = Site(viewer="http://login1:8765/", read_write=(Path("/data/runs"),))
    assert report_address(Path("/data/runs/a b/50%/report.html"), site) == (
        "http://login1:8765/reports/data/runs/a%20b/50%25/report.html"
    )


def test_the_setting_reports_takes_the_place_of_the_folders_of_results() -> None:
    site = Site(viewer="http://v", read_write=(Path("/data/runs"),), reports=(Path("/data/pages"),))
    assert report_address(Path("/data/runs/report.html"), site) is None
    assert report_address(Path("/data/pages/report.html"), site) == "http://v/reports/data/pages/report.html"


@pytest.mark.parametrize(
    "page", ["/data/runs/../secret/report.html", "/data/runs/picks.star", "/data/runs2/report.html"]
)
def test_what_the_viewer_does_not_serve_has_no_address(page: str) -> None:
    assert report_address(Path(page), Site(viewer="http://v", read_write=(Path("/data/runs"),))) is None


def test_without_a_viewer_there_is_no_address() -> None:
    assert report_address(Path("/data/runs/report.html"), Site(read_write=(Path("/data/runs"),))) is None
