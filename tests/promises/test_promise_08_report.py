"""Promise 8: the report of a run shows what projects are called, and runs none of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from promise_tools import DIAMETER_A, make_entry

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.pickers.training_sets.export import export
from cryoflow.picks import Kind

HOSTILE = "<script>document.title='ran'</script><img src=x onerror=alert(1)>\"'><svg/onload=alert(2)>$\\frac$"
"""Scripts, and a formula that is none, which figures would try to set."""
NO_TEXT = HOSTILE + "\udcff"
"""With a byte at its end that is no UTF-8, as old disks have them in names."""


class _Page(HTMLParser):
    """The tags of a page with their attributes, as a browser would see them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))


def test_the_report_of_a_database_of_hostile_names_is_only_text(tmp_path: Path) -> None:
    """Projects, jobs, notes, micrographs and folders with scripts in their names; clean picks with pictures, too."""
    database = Database(tmp_path / "DB")
    entry = make_entry(tmp_path / "p", names=[f"mics/{NO_TEXT}.mrc", "mics/b.mrc"])
    who = replace(entry.provenance, project_name=NO_TEXT, title=NO_TEXT, job_type=NO_TEXT)
    before = database.add(replace(entry, provenance=who, notes=(NO_TEXT,)))
    clean = replace(who, kind=Kind.UNPICKED, program="cryoflow", output_group=before.name.partition("/")[2])
    database.add(replace(entry, provenance=clean, picks=entry.picks.iloc[::2].reset_index(drop=True)))
    named = make_entry(tmp_path / "q", names=[f"mics/{HOSTILE}.mrc", "mics/b.mrc"])
    folder = export("topaz", [named], tmp_path / "<b>set", diameter_A=DIAMETER_A, force=True).folder
    page = tmp_path / "report.html"
    words = ["--database", str(database.root), "--output", str(page), "--training-set", str(folder), "--title", HOSTILE]
    assert launch(["report", *words]) == 0
    text = page.read_bytes().decode(errors="surrogateescape")
    page_read = _Page()
    page_read.feed(text)
    assert not {tag for tag, _ in page_read.seen} & {"script", "svg", "iframe", "object", "embed", "link", "b", "form"}
    attributes = [attribute for _, given in page_read.seen for attribute in given]
    assert [name for name, _ in attributes if name.startswith("on")] == []
    assert all(str(value).startswith("data:image/") for name, value in attributes if name == "src")
    assert text.count("&lt;script&gt;") >= 3
    assert "default-src 'none'" in text


STEERING = "a\x1b]0;owned\x07\x1b[2Jb\x9bc\u202ed\x7f"
"""Sets a terminal's title, clears it, begins a sequence in one byte, and turns the direction of writing."""


@pytest.mark.parametrize("name", [STEERING, "old\udcff", "two\nlines\tand\rmore"])
def test_a_terminal_shows_names_and_is_not_steered_by_them(name: str, finished_projects: Path, tmp_path: Path) -> None:
    """In a UTF-8 locale, where Python refuses to print what is no UTF-8; tables, records, JSON and errors."""
    root = tmp_path / "root"
    shutil.copytree(finished_projects / "relion", root / name, symlinks=True)
    script = (
        "import sys; from cryoflow.cli.main import launch\n"
        "root, db = sys.argv[1:]\n"
        "codes = [launch(['crawl', root]), launch(['ingest', root, '--database', db, '--no-check-orientation'])]\n"
        "from cryoflow.database import Database\n"
        "entry = Database(db).entries()[0].name\n"
        "codes += [launch(['database', 'show', entry, '--database', db, *json]) for json in ([], ['--json'])]\n"
        "codes += [launch(['-v', 'ingest', root + '/absent', '--database', db])]\n"
        "print(list(map(int, codes)))\n"
    )
    env = dict(os.environ) | {"PYTHONIOENCODING": "utf-8:strict"}
    argv = [sys.executable, "-c", script, str(root / name), str(tmp_path / "DB")]
    done = subprocess.run(argv, capture_output=True, check=False, env=env, timeout=200)
    said = done.stdout.decode() + done.stderr.decode()
    assert "[0, 0, 0, 0, 1]" in said
    assert "defect" not in said
    assert not set(said) & set("\x1b\x07\x9b\u202e\x7f\r")
    if name == STEERING:
        assert "a\\x1b]0;owned\\x07\\x1b[2Jb\\x9bc\\u202ed\\x7f" in said
    record = json.loads(done.stdout[done.stdout.index(b"\n{") :].partition(b"\n}")[0] + b"\n}")
    assert record["project_path"] == str(root / name)
