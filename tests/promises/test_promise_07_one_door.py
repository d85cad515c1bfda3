"""Promises 1, 5 and 7: users' files are opened, and files are changed, by `cryoflow.storage` alone.

Its guards hold for all that goes through it; what goes past it has none. Every open and every change is watched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import doors
import pytest
from killed import in_child
from test_promise_01_read_only import commands, run_all

from cryoflow.pickers.registry import names

pytestmark = pytest.mark.forks


def past_storage(work: Callable[[], object], users: Path, output: Path) -> list[str]:
    """What some work opens or changes without `cryoflow.storage`, `users` being what others wrote."""

    log = output.with_suffix(".past")

    def run() -> None:
        number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        doors.watch(users, output, lambda line: os.write(number, f"{line}\n".encode()) and None)
        work()

    assert in_child(run) == 0
    return log.read_text().splitlines()


def test_files_of_others_are_opened_and_files_are_changed_by_storage_alone(
    finished_projects: Path, tmp_path: Path
) -> None:
    """Crawl, ingest, database, all exports, copies, report, picks in files."""
    out = tmp_path / "out"
    out.mkdir()
    at = ["--db", str(out / "DB")]
    entry = "CS-demo/NonUniform_J11"
    more = [
        *(["export", n, entry, *at, "-o", str(out / f"set {n}"), "--diameter", "150"] for n in names()),
        ["export", "topaz", entry, *at, "-o", str(out / "copied"), "--diameter", "150", "--copy"],
        ["export", "verify", str(out / "copied")],
        ["database", "show", entry, *at],
        ["database", "remove", entry, "CS-demo/Homo_J10", *at],
        ["ingest", str(finished_projects), *at, "--again"],
    ]
    lines = [*commands(finished_projects, out), *more]
    assert past_storage(lambda: run_all(finished_projects, out, lines), finished_projects.parent, out) == []


def test_training_and_unpicking_too(finished_projects: Path, tmp_path: Path) -> None:
    """In a program of its own: TensorFlow does not work in a fork of a process that has loaded it."""
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import doors\n"
        "from test_promise_01_read_only import run_all, commands, train_and_unpick\n"
        "root, out = map(Path, sys.argv[1:])\n"
        "doors.watch(root.parent, out, lambda line: print('PAST', line, flush=True))\n"
        "run_all(root, out, [[*commands(root, out)[1], '--no-check-orientation']])\n"
        "train_and_unpick(root, out)\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    argv = [sys.executable, "-c", script, str(finished_projects), str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("PAST")] == []
    assert (out / "model/bundle.json").is_file()


WATCHED = """
import sys
from pathlib import Path

root, out, here, tests = map(Path, sys.argv[1:5])
sys.path[:0] = [str(here), str(tests / "view")]
import doors
from cryoflow.cli.main import launch

doors.watch(root.parent, out, lambda line: print("PAST", line, flush=True))
at = ["--database", str(out / "DB")]
entry = "CS-demo/NonUniform_J11"
assert launch(["ingest", str(root), *at, "--no-check-orientation"]) == 0
"""
"""Start of a program of its own: TensorFlow does not work in a fork of a process that has loaded it."""
PICK = 'assert launch(["pick", entry, *at, "--diameter", "150", "--output", str(out / "picked")]) == 0\n'
TRAIN = """
line = ["detector", "train", entry, *at, "--diameter", "150", "--rounds", "1", "--steps", "2"]
assert launch([*line, "--output", str(out / "detector")]) == 0
"""
VIEW = """
from view_client import TestClient
from cryoflow.database import Database
from cryoflow.view.access import Access
from cryoflow.view.app import make_app
from cryoflow.view.opened_entries import Library

database = Database(out / "DB")
headers = {"authorization": "Bearer " + "w" * 40, "origin": "http://127.0.0.1"}
app = make_app(Library(database), Access("r" * 40, "w" * 40), reports=(), models=())
with TestClient(app, base_url="http://127.0.0.1", headers=headers) as client:
    of = {"entry": entry, "micrograph": 0}
    for path, query in {
        "/": {},
        "/api/entry": {"entry": entry},
        "/api/micrograph": of,
        "/api/tile": {**of, "level": 0, "row": 0, "column": 0},
        "/api/list": {"entry": entry, "threshold": 0},
        "/api/montage": {"entry": entry, "threshold": 0},
        "/api/patches": {"entry": entry, "picks": "0.0,0.1"},
    }.items():
        answer = client.get(path, params=query)
        print("ANSWER", path, answer.status_code, flush=True)
"""


@pytest.mark.parametrize(("work", "written"), [(PICK, "picked"), (TRAIN, "detector/bundle.json"), (VIEW, "DB")])
def test_pick_detector_training_and_the_viewer_too(
    work: str, written: str, finished_projects: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    here = Path(__file__).parent
    argv = [sys.executable, "-c", WATCHED + work, *map(str, (finished_projects, out, here, here.parent))]
    env = dict(os.environ) | {"XDG_STATE_HOME": str(out / "state")}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=500, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("PAST")] == []
    assert (out / written).exists()
    for line in done.stdout.splitlines():
        assert not line.startswith("ANSWER") or line.endswith(" 200"), line


def test_what_goes_past_storage_would_be_seen(finished_projects: Path, tmp_path: Path) -> None:
    """The control of this file."""
    star = next(finished_projects.rglob("*.star"))

    def work() -> None:
        with star.open() as file:
            file.read()
        (tmp_path / "new.txt").write_text("x")
        (tmp_path / "new.txt").rename(tmp_path / "newer.txt")

    past = past_storage(work, finished_projects.parent, tmp_path)
    assert [line.split()[0] for line in past] == ["read", "open", "os.rename"]
