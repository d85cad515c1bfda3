"""The viewer where the kernel refuses every write: projects on a read-only mount, and a read-only database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from view_fixtures import SCORED, contents, entry_files, links_of

from cryoflow.database import Database

MOUNT = 'for f in "$0"; do mount --bind "$f" "$f" && mount -o remount,ro,bind "$f" || exit 99; done; exec "$@"'
UNSHARE = ("unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT)


class Server:
    """A running `cryoflow view`, and requests of somebody who may write."""

    def __init__(self, link: str) -> None:
        self.base, _, query = link.partition("/?")
        self.token = query.partition("=")[2]

    def __call__(self, place: str, record: dict[str, object] | None = None, **query: object) -> tuple[int, bytes]:
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json", "origin": self.base}
        body = None if record is None else json.dumps(record).encode()
        request = urllib.request.Request(f"{self.base}/api/{place}?{urlencode(query)}", body, headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def label(self, pick: int, revision: int) -> Any:
        action = {"do": "label", "label": -1, "picks": {"0": [pick]}}
        return self("act", {**self.record(revision), "action": action})

    @staticmethod
    def record(revision: int) -> dict[str, object]:
        return {"entry": SCORED, "window": "w", "revision": revision, "by": "ada", "threshold": 0.5}


@pytest.fixture
def serve(database: Database, tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    """Start viewers in a name space of their own, in which a folder is mounted read-only."""
    started: list[subprocess.Popen[str]] = []

    def run(folder: Path) -> Server:
        probe = [*UNSHARE, str(folder), "sh", "-c", f"! touch {folder}/probe"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            pytest.skip("this machine lets no test mount a folder read-only (unshare --map-root-user --mount)")
        command = [sys.executable, "-m", "cryoflow", "view", "--database", str(database.root), "--write", "--json"]
        process = subprocess.Popen(
            [*UNSHARE, str(folder), *command, "--port", "0"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "XDG_STATE_HOME": str(tmp_path / "state")},
        )
        started.append(process)
        return Server(links_of(process)["write"])

    yield run
    for process in started:
        process.terminate()
        process.wait(30)


def test_projects_on_a_read_only_mount_are_shown_and_cleaned(
    serve: Callable[[Path], Server], database: Database, tmp_path: Path
) -> None:
    before = contents(tmp_path / "projects")
    ask = serve(tmp_path / "projects")
    assert ask("tile", entry=SCORED, micrograph=0, level=0, row=0, column=0)[0] == 200
    assert ask("patches", entry=SCORED, picks="0.1,1.2")[0] == 200
    assert ask.label(3, 0)[0] == 200
    status, saved = ask("save", {**ask.record(1), "others": "threshold"})
    assert (status, json.loads(saved)["removed"] > 0) == (200, True)
    assert database.load(f"{SCORED}_reviewed").picks["label"].iloc[3] == -1
    assert contents(tmp_path / "projects") == before


def test_a_read_only_database_keeps_decisions_with_the_user_and_says_that_it_cannot_save(
    serve: Callable[[Path], Server], database: Database, tmp_path: Path
) -> None:
    before = entry_files(database.root)
    ask = serve(database.root)
    assert ask.label(3, 0)[0] == 200
    status, answer = ask("save", {**ask.record(1), "others": "threshold"})
    assert status == 507
    assert str(database.root) in json.loads(answer)["detail"]
    changes = json.loads(ask("changes", entry=SCORED, since=0, window="another")[1])
    assert changes["micrographs"]["0"]["decided"] == [[3, -1]]
    (journal,) = (tmp_path / "state" / "cryoflow" / "reviews").rglob("*.jsonl")
    assert '"label":-1' in journal.read_text()
    assert entry_files(database.root) == before
