"""HTML reports that the viewer serves: which there are, and their content."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from fastapi.exceptions import HTTPException

from cryoflow.storage import inputs
from cryoflow.view.addresses import is_served

MOST_REPORTS = 500
MOST_FOLDERS = 5000
LARGEST_REPORT_BYTES = 200 << 20


@dataclass(frozen=True)
class ServedReport:
    """A report that is served."""

    path: str
    address: str
    written: str


def find_reports(folders: Sequence[Path]) -> tuple[list[ServedReport], bool]:
    """Return the HTML pages in some folders, the newest first, and whether there are more."""
    found: list[tuple[float, Path]] = []
    seen = 0
    cut = False
    for folder in folders:
        for where, inner, names in os.walk(folder):
            seen += 1
            inner[:] = sorted(n for n in inner if not n.startswith("."))
            if seen > MOST_FOLDERS or Path(where).relative_to(folder).parts[4:]:
                inner.clear()
            for name in names:
                if name.endswith(".html"):
                    path = Path(where, name)
                    found.append((_mtime(path), path))
            if len(found) > MOST_REPORTS:
                cut = True
                break
    found.sort(key=lambda pair: (-pair[0], str(pair[1])))
    rows = [
        ServedReport(
            str(path).encode(errors="replace").decode(),
            quote(os.fsencode(path)),
            datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M") if time else "",
        )
        for time, path in found[:MOST_REPORTS]
    ]
    return rows, cut


def read_report(path: Path, folders: Sequence[Path]) -> bytes:
    """Return a report's content; what does not lie in the folders, by its name and its real path, is not there."""
    if "\0" in str(path):
        raise HTTPException(404, "there is no such report")
    real = Path(os.path.realpath(path))
    roots = [Path(os.path.realpath(folder)) for folder in folders]
    if ".." in path.parts or not is_served(path, folders) or not is_served(real, roots):
        raise HTTPException(404, "there is no such report")
    try:
        return inputs.read_bytes(real, at_most=LARGEST_REPORT_BYTES)
    except OSError as error:
        raise HTTPException(404, f"this report cannot be read: {error.strerror or error}") from None


def _mtime(path: Path) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0
