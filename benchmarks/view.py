"""How long a person waits for the viewer: 1,000 micrographs with 1,000 picks each, in headless Chromium.

    python benchmarks/view.py FOLDER [--micrographs 1000] [--picks 1000] [--size 4096]

The micrographs' files are 16 different ones under many names, so that each next micrograph is read anew. Times are the
page's own (`performance.now()`): the first picture from the start of the navigation, the next one and a toggle from the
key. "shown" is when the circle has changed, "kept" when the server has confirmed that the action is on the disk. The
CPU time of the viewer and of the browser tells what a machine that is busy with other work would need by itself.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from chromium import Page, browser

from cryoflow.database import Database
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

ENTRY, FILES = "Big/AutoPick_job005", 16


def make(folder: Path, n: int, per_micrograph: int, size: int) -> Database:
    rng = np.random.default_rng(1)
    (folder / "Big").mkdir(parents=True, exist_ok=True)
    paths = [folder / "Big" / f"file_{i}.mrc" for i in range(FILES)]
    for path in paths:
        if not path.exists():
            write_mrc(path, rng.normal(size=(size, size)).astype(np.float32), 1.0)
    database = Database(folder / "DB")
    if database.exists:
        return database
    names = [f"mic_{i:05d}.mrc" for i in range(n)]
    where = [str(paths[i % FILES]) for i in range(n)]
    columns = {"name": names, "path": where, "status": ["found"] * n, "ny": [size] * n, "nx": [size] * n}
    table = micrograph_table({**columns, "pixel_size_A": [1.0] * n})
    total = n * per_micrograph
    picks = pd.DataFrame(
        {
            "micrograph": np.repeat(np.arange(n), per_micrograph),
            "x_px": rng.uniform(0, size - 1, total),
            "y_px": rng.uniform(0, size - 1, total),
            "score": rng.random(total),
        }
    )
    who = Provenance("relion", folder / "Big", "Big", "job005", Kind.AUTO_PICK)
    database.add(PickSet.build(who, table, picks, diameter_A=120.0, score_kind="cryoflow/probability"))
    return database


class CpuClock:
    """CPU time of the viewer and of the browser, in milliseconds."""

    def __init__(self, viewer: int) -> None:
        self.viewer = viewer
        self.last = self.read()

    def read(self) -> tuple[float, float]:
        parents: dict[int, int] = {}
        ticks: dict[int, float] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            parents[int(stat.parent.name)] = int(fields[1])
            ticks[int(stat.parent.name)] = float(fields[11]) + float(fields[12])
        mine = {os.getpid()}
        for _ in range(5):
            mine |= {pid for pid, parent in parents.items() if parent in mine}
        ms = 1000 / os.sysconf("SC_CLK_TCK")
        browser_ticks = sum(ticks[pid] for pid in mine - {os.getpid(), self.viewer} if pid in ticks)
        return ticks[self.viewer] * ms, browser_ticks * ms

    def lap(self) -> str:
        """Return what both used since the last call."""
        before, self.last = self.last, self.read()
        viewer, browser_ms = (b - a for a, b in zip(before, self.last, strict=True))
        return f"CPU: viewer {viewer:.0f} ms, browser {browser_ms:.0f} ms"


def until(page: Page, expression: str) -> None:
    end = time.monotonic() + 120
    while not page.js(expression):
        assert time.monotonic() < end, expression
        time.sleep(0.01)


def first_picture(page: Page, link: str) -> float:
    """Open a link, and return the milliseconds from there to the first micrograph's whole picture."""
    page.call("Page.navigate", url=link)
    until(page, "performance.getEntriesByName('picture 0').length")
    return float(page.js("performance.getEntriesByName('picture 0')[0].startTime"))


def decide_in_montage(page: Page, n: int, database: Database) -> float:
    """Accept and remove patches of the montage with one key each, and return the seconds until all are on the disk.

    Each key is pressed when the page shows the decision on the patch before, and the picture of the patch in focus.
    """
    waits = """(async n => {
      const pictures = new Map();
      const pictured = async patch => {
        const url = patch.querySelector('.image').style.backgroundImage.slice(5, -2);
        if (!pictures.has(url)) {
          const image = new Image();
          image.src = url;
          pictures.set(url, image.decode());
        }
        await pictures.get(url);
      };
      const frame = () => new Promise(requestAnimationFrame);
      const focus = () => document.activeElement.classList.contains('patch') ? document.activeElement : null;
      while (!focus()) await frame();
      for (let i = 0; i < n; i++) {
        const patch = focus();
        await pictured(patch);
        patch.dispatchEvent(new KeyboardEvent('keydown', {key: i % 3 ? 'a' : 'r', bubbles: true, cancelable: true}));
        while (!focus() || focus() === patch) await frame();
      }
    })"""
    before, began = n_actions(database), time.monotonic()
    page.js("document.dispatchEvent(new KeyboardEvent('keydown', {key: 'm', bubbles: true}))")
    page.js(f"window.decided = 0; {waits}({n}).then(() => (window.decided = 1)); 0")
    until(page, "window.decided")
    while n_actions(database) < before + n:
        time.sleep(0.05)
        assert time.monotonic() - began < 600, "decisions are missing"
    return time.monotonic() - began


def n_actions(database: Database) -> int:
    """Return how many actions the journal of the review holds."""
    (journal,) = (database.root / ".reviews").glob("*.jsonl")
    return len(journal.read_text().splitlines()) - 1


def waited_ms(page: Page, key: str, condition: str) -> float:
    """Press a key within the page, and wait for a condition frame by frame."""
    return float(
        page.js(
            f"""new Promise(done => {{
              const began = performance.now();
              const look = () => {condition} ? done(performance.now() - began) : requestAnimationFrame(look);
              document.dispatchEvent(new KeyboardEvent('keydown', {{key: {json.dumps(key)}, bubbles: true}}));
              look();
            }})"""
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--micrographs", type=int, default=1000)
    parser.add_argument("--picks", type=int, default=1000)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--patches", type=int, default=1000)
    options = parser.parse_args()
    database = make(options.folder, options.micrographs, options.picks, options.size)
    command = [sys.executable, "-m", "cryoflow", "view", ENTRY, "--database", str(database.root), "--write", "--json"]
    process = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    text = ""
    while "}" not in text:
        text += process.stdout.readline()
    time.sleep(8)  # the entry is loaded meanwhile, as while a person opens the link
    links = json.loads(text)
    try:
        with tempfile.TemporaryDirectory() as profile, browser(Path(profile), width=1400, height=900) as page:
            clock = CpuClock(process.pid)
            print(f"load of the machine {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores")
            first = first_picture(page, links["write"])
            print("first picture, browser just started,", clock.lap())
            page.call("Page.navigate", url=links["write"].replace("/look?", "/compare?"))
            time.sleep(2)
            clock.lap()
            again = first_picture(page, links["write"])
            print("first picture, browser open,", clock.lap())
            until(page, "document.getElementById('all').textContent.includes(' of ')")
            time.sleep(3)
            clock.lap()
            following, shown, kept = [], [], []
            for i in range(1, options.rounds + 1):
                done = f"document.getElementById('stage').dataset.pictured === '{i}'"
                following.append(waited_ms(page, "n", done))
                time.sleep(1.5)  # a person looks; the micrograph beside it is fetched meanwhile
            print(f"{options.rounds} times next, {clock.lap()}")
            page.js("document.dispatchEvent(new KeyboardEvent('keydown', {key: '.'}))")
            revision = "window.revision = Number(document.getElementById('stage').dataset.revision || 0)"
            for _ in range(options.rounds):
                page.js(revision)
                page.js("window.before = document.getElementById('here').textContent")
                shown.append(waited_ms(page, " ", "document.getElementById('here').textContent !== window.before"))
                until(page, "Number(document.getElementById('stage').dataset.revision) > window.revision")
                page.js(revision)
                confirmed = "Number(document.getElementById('stage').dataset.revision) > window.revision"
                kept.append(waited_ms(page, " ", confirmed))
                time.sleep(0.5)
            print(f"{2 * options.rounds} toggles, {clock.lap()}")
            one_by_one = decide_in_montage(page, options.patches, database)
            print(f"{options.patches} patches, {clock.lap()}")
    finally:
        process.terminate()
        process.wait(30)
    print(f"micrographs {options.micrographs}  picks {options.picks} each  {options.size} x {options.size} pixels")
    print(f"first picture      {first:8.0f} ms in a browser that was just started, {again:.0f} ms in one that is open")
    for name, times in (("next picture", following), ("toggle, shown", shown), ("toggle, kept", kept)):
        print(f"{name:16s}   {statistics.median(times):8.0f} ms (median of {len(times)}), {max(times):.0f} at most")
    print(
        f"montage            {one_by_one:8.1f} s for {options.patches} patches, one key each, until all are on the disk"
    )


if __name__ == "__main__":
    main()
