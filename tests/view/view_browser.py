"""A running viewer and a browser that looks at it: what the tests with a real browser share."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import dataclass

import numpy as np
from chromium import Page
from view_fixtures import DIAMETER_A, PIXEL_SIZE_A, SCORED, SHAPE_YX

from cryoflow.database import Database


@dataclass
class Viewer:
    """A running `cryoflow view`."""

    process: subprocess.Popen[str]
    read: str
    write: str

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(20)


def open_entry(page: Page, address: str) -> None:
    page.load(address, "document.getElementById('all')?.textContent.includes(' of ')", script="/api/")
    page.wait_for("document.querySelectorAll('#list .row').length > 0")


def shown(page: Page, element: str) -> str:
    return str(page.js(f"document.getElementById('{element}').textContent"))


def place_of(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a position of the fitted micrograph is in the window."""
    box = page.js("(r => [r.x, r.y, r.width, r.height])(document.getElementById('stage').getBoundingClientRect())")
    ny, nx = SHAPE_YX
    scale = min(box[2] / nx, box[3] / ny) * 0.985
    return box[0] + box[2] / 2 + (x - (nx - 1) / 2) * scale, box[1] + box[3] / 2 + (y - (ny - 1) / 2) * scale


def lonely_pick(database: Database) -> tuple[int, float, float, float]:
    """A pick of the first micrograph that no other overlaps: number, x, y, score."""
    picks = database.load(SCORED)
    xy = picks.centers_xy_px[: picks.offsets[1]]
    apart = np.array([np.delete(np.hypot(*(xy - p).T), i).min() for i, p in enumerate(xy)])
    i = int(np.argmax(apart))
    assert apart[i] > DIAMETER_A / PIXEL_SIZE_A / 2
    return i, float(xy[i, 0]), float(xy[i, 1]), float(picks.picks["score"].iloc[i])


def journal(database: Database) -> str:
    return "".join(p.read_text() for p in (database.root / ".reviews").glob("*.jsonl"))
