"""Promise 13: files follow the umask; nothing that is written carries the environment or a token."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from killed import in_child
from promise_tools import DIAMETER_A, make_entry
from test_promise_02_kill_anywhere import SMALL, small_bundle

from cryoflow.database import Database
from cryoflow.ingest.state import JobState, write_states
from cryoflow.pickers.registry import pickers
from cryoflow.pickers.training_sets.export import export
from cryoflow.preparation.picked_micrograph import picked_micrographs
from cryoflow.preparation.tensorboard import Scalars
from cryoflow.report.page import write_report
from cryoflow.unpicker.patch_cache import prepare

pytestmark = pytest.mark.forks

TOKEN = "tok-5ebd97c1f0"


def write_everything(out: Path, projects: Path) -> None:
    entry = make_entry(projects)
    database = Database(out / "DB")
    database.add(entry)
    database.mark("P1/Homo_J5", "stale", "x")
    write_states(database, projects / "P1", {"J5": JobState("k", "read", "", (), 1, 1)})
    for name in pickers():
        export(name, [entry], out / name, diameter_A=DIAMETER_A, force=True)
    small_bundle().save(out / "model")
    prepare(SMALL, picked_micrographs(entry)[0], out / "cache", workers=1)
    Scalars(out / "logs").add(1, {"loss": 1.0})
    write_report(out / "report.html", "t", [])


@pytest.mark.parametrize("umask", [0o077, 0o027, 0o002])
def test_every_file_and_folder_follows_the_umask(umask: int, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def work() -> None:
        os.umask(umask)
        out.mkdir()
        write_everything(out, tmp_path)

    assert in_child(work) == 0
    paths = [p for p in out.rglob("*") if not p.is_symlink()]
    assert len(paths) > 60
    for path in paths:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


SCRIPT = """
import sys
from pathlib import Path
from cryoflow.cli.main import launch
root, out = sys.argv[1:]
lines = [
    ["ingest", root, "--database", f"{out}/DB", "--no-check-orientation"],
    ["-v", "ingest", f"{root}/absent", "--database", f"{out}/DB"],
    ["--debug", "database", "show", "nothing", "--database", f"{out}/DB"],
    ["export", "topaz", "CS-demo/NonUniform_J11", "--db", f"{out}/DB", "-o", f"{out}/topaz", "--diameter", "150"],
    ["picker", "train", "topaz", f"{out}/topaz", "--script-only"],
    ["picker", "train", "topaz", f"{out}/topaz", "--programs", f"{out}/tools"],
    ["report", "--database", f"{out}/DB", "--output", f"{out}/report.html"],
    ["settings"],
]
for line in lines:
    print(line[:3], launch(line), flush=True)
"""


def test_no_output_carries_what_is_in_the_environment(finished_projects: Path, tmp_path: Path) -> None:
    """A token under names that real ones have, and everything that the commands print and write searched for it."""
    out = tmp_path / "out"
    (out / "tools").mkdir(parents=True)
    (out / "tools" / "topaz").write_text("#!/bin/sh\necho failing >&2; exit 3\n")
    (out / "tools" / "topaz").chmod(0o755)
    names = ("PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "DB_PASSWORD")
    env = dict(os.environ) | {name: TOKEN for name in names}
    env |= {
        "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://me:{TOKEN}@host/db",
        "PREFECT_HOME": str(out / "ph"),
    }
    argv = [sys.executable, "-c", SCRIPT, str(finished_projects), str(out)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, cwd=out, timeout=300)
    assert "'ingest'" in done.stdout
    codes = dict(line.rsplit(" ", 1) for line in done.stdout.splitlines() if line.startswith("["))
    assert sum(code == "0" for code in codes.values()) >= 4, done.stderr[-2000:]
    assert TOKEN not in done.stdout
    assert TOKEN not in done.stderr
    found = [p for p in out.rglob("*") if p.is_file() and TOKEN.encode() in p.read_bytes()]
    assert found == []
    assert (out / "topaz" / "train.sbatch").is_file()
    assert (out / "topaz" / "train.log").is_file()
