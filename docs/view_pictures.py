"""Makes docs/view*.jpg in headless Chromium: python docs/view_pictures.py [FOLDER], one that `cryoflow demo` made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess  # noqa: TID251  # the viewer is started as users start it
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from chromium import Page, browser

DOCS = Path(__file__).parent
ENTRY, REFERENCE = "relion-barrel/Unpicked_job005", "relion-barrel/Select2D_job008"


def main() -> None:
    """Start a viewer of a copy of the demo's database, and take the pictures."""
    demo = Path(sys.argv[1] if len(sys.argv) > 1 else "demo")
    cryoflow = [sys.executable, "-m", "cryoflow"]
    if not (demo / "database").is_dir():
        subprocess.run([*cryoflow, "demo", "--output", str(demo)], check=True)
    with tempfile.TemporaryDirectory(dir=demo) as copy, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(demo / "database", copy, symlinks=True, dirs_exist_ok=True)  # beside it: its links are relative
        command = [*cryoflow, "view", ENTRY, "--database", copy, "--write", "--json"]
        command += ["--port", "0", "--models", str(demo / "unpicker"), "--model", str(demo / "unpicker")]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(folder / "state")}
        viewer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            link = link_of(viewer)
            with browser(folder / "chromium", width=1400, height=900) as page:
                take_pictures(page, link)
        finally:
            viewer.terminate()
            viewer.wait(60)


def link_of(viewer: subprocess.Popen[str]) -> str:
    """Return the link for writing that a viewer with --json prints."""
    assert viewer.stdout
    text = ""
    while "}" not in text:
        text += viewer.stdout.readline()
    return str(json.loads(text)["write"])


def take_pictures(page: Page, link: str) -> None:
    """Take the pictures of an entry, of the montage, and of the models."""
    page.call("Page.navigate", url=link)
    page.wait_for("document.querySelectorAll('#list .row').length > 0")
    page.wait_for("document.getElementById('recall').textContent.endsWith('%')", within_s=200)  # the model has scored
    choose = "(e => {{ e.value = '{}'; e.dispatchEvent(new Event('change')) }})(document.getElementById('reference'))"
    page.js(choose.format(REFERENCE))
    page.press("f")
    page.wait_for("document.querySelectorAll('#list .mark.finished').length === 1")
    missed = "[...document.querySelectorAll('.layer')].some(e => /Missed\\s*[1-9]/.test(e.innerText))"
    while not page.js(missed):
        page.press("n")
        page.wait_for("new Promise(done => setTimeout(() => done(true), 500))")
    page.press(".")  # the most doubtful pick
    page.press(" ")
    page.press("0")
    page.wait_for("new Promise(done => setTimeout(() => done(true), 1500))")
    page.picture(DOCS / "view.jpg", quality=88)
    page.press("m")
    page.wait_for("document.querySelectorAll('.patch').length > 0")
    page.wait_for("new Promise(done => setTimeout(() => done(true), 2500))")
    page.picture(DOCS / "view-montage.jpg", quality=88)
    page.open(link.split("/look")[0] + "/models", shows="unpicker")
    page.picture(DOCS / "view-models.jpg", quality=88)


if __name__ == "__main__":
    main()
