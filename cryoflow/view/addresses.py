"""Addresses of pages on the site's viewer, for links that open in a user's browser.

The path of a file on a server is of no use there. A report at `/data/run/report.html` has the address
`<viewer>/reports/data/run/report.html` on the server that `cryoflow view` starts (`cryoflow.view.reports` serves it).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from cryoflow.settings.site import Site

REPORTS = "reports"
"""First part of the path of every report's address."""


def report_address(page: Path, site: Site) -> str | None:
    """Return the http address of a report, None where the site has no viewer or the viewer does not serve the file.

    Parameters
    ----------
    page
        The HTML file that `cryoflow.report.page.write_report` wrote.
    """
    page = Path(os.path.abspath(page))  # noqa: PTH100 keeps links: the address is that of the name people know
    if not site.viewer or not is_served(page, report_folders(site)):
        return None
    return f"{site.viewer.rstrip('/')}/{REPORTS}{quote(os.fsencode(page))}"


def report_folders(site: Site) -> tuple[Path, ...]:
    """Return the folders whose reports the viewer serves: the setting `reports`, by default the folders of results."""
    return site.reports or site.read_write


def is_served(page: Path, folders: Sequence[Path]) -> bool:
    """Return whether a file is an HTML page inside one of the folders, by its name."""
    return page.suffix == ".html" and any(page.is_relative_to(folder) for folder in folders)
