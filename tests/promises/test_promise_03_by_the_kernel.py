"""Promise 3, with failures that the kernel makes: disks that fail in the middle of a write, and too little memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryoflow.database import Database, verify

HERE = Path(__file__).parent
EVERY = int(os.environ.get("CRYOFLOW_TEST_EVERY", "25"))
"""Of the fault points, how many are passed over to the next that is tried."""


def _mounts(*argv: str) -> bool:
    done = subprocess.run(["unshare", "--mount", *argv], capture_output=True, check=False)
    return done.returncode == 0


@pytest.mark.parametrize("kind", ["full", "shrunk", "quota", "read-only", "journal aborted"])
def test_a_disk_that_fails_in_the_middle_of_a_write_loses_nothing_and_the_next_run_ends_it(
    kind: str, tmp_path: Path
) -> None:
    """Filled, shrunk to what is used, over quota, remounted read-only; and a journal that the kernel gives up.

    The last is the nearest to a loss of power: all that was not synced is gone when the disk is mounted again.
    """
    if not _mounts("mount", "-t", "tmpfs", "none", str(tmp_path)):
        pytest.skip("mounting needs root (unshare --mount)")
    if kind == "quota" and not _mounts("mount", "-t", "tmpfs", "-o", "usrquota", "none", str(tmp_path)):
        pytest.skip("this kernel has no quota of memory file systems")
    folder = tmp_path / "attack"
    folder.mkdir()
    for path in (tmp_path, *tmp_path.parents[:2]):
        path.chmod(0o755)  # a user of the quota goes through
    argv = ["unshare", "--mount", sys.executable, str(HERE / "disks.py"), kind, str(folder), "0", str(EVERY)]
    env = dict(os.environ) | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=500, env=env)
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(rows) >= 4
    assert [row for row in rows if row[3:] != ["same", "clear"] or row[2] not in ("0", "1")] == [], done.stderr[-3000:]
    assert "1" in {row[2] for row in rows}, "no disk failed"


LIMITED = """
import resource, sys
from pathlib import Path
import cryoflow.ingest, cryoflow.pickers.training_sets.export
from cryoflow.cli.main import launch
in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
limit = in_use + (int(sys.argv[1]) << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(launch(sys.argv[2:]))
"""
LIMITS_MB = (1, 100, 700, 4000)
NO_THREAD = """
import multiprocessing.queues, sys
from cryoflow.cli.main import launch

def start(queue):
    raise RuntimeError("can't start new thread")

if __name__ == "__main__":
    multiprocessing.queues.Queue._start_thread = start
    sys.exit(launch(sys.argv[1:]))
"""
"""The executor's own thread then ends, and its futures are never done."""


def test_an_executor_that_cannot_start_a_thread_ends_the_command(finished_projects: Path, tmp_path: Path) -> None:
    script = tmp_path / "no_thread.py"
    script.write_text(NO_THREAD)
    argv = [sys.executable, str(script), "ingest", str(finished_projects), "--database", str(tmp_path / "DB")]
    done = subprocess.run([*argv, "--workers", "2"], capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1].startswith("cryoflow: there is not enough memory")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: memory in use is not known")
@pytest.mark.parametrize("command", ["ingest", "export"])
def test_too_little_memory_is_one_clear_error_and_leaves_nothing_half_written(
    command: str, finished_projects: Path, tmp_path: Path
) -> None:
    """RLIMIT_AS, from nearly nothing to enough."""
    database, folder = tmp_path / "DB", tmp_path / "set"
    db = ["--database", str(database)]
    ingest = ["ingest", str(finished_projects), *db, "--workers", "2"]
    export = ["export", "topaz", "CS-demo/NonUniform_J11", *db, "--output", str(folder), "--diameter", "150"]
    if command == "export":
        assert subprocess.run([sys.executable, "-c", LIMITED, "4000", *ingest], check=False).returncode == 0
    codes = []
    for megabytes in LIMITS_MB:
        argv = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            LIMITED,
            str(megabytes),
            *(ingest if command == "ingest" else export),
        ]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=200)
        codes.append(done.returncode)
        if done.returncode == 130:  # OpenBLAS interrupts its process when it cannot start a thread
            assert "pthread_create failed" in done.stderr
            continue
        assert done.returncode in (0, 1, 3), (megabytes, done.stderr[-2000:])
        assert "defect" not in done.stdout + done.stderr, megabytes
        if done.returncode:
            assert "memory" in done.stdout + done.stderr, (megabytes, done.stdout, done.stderr)
        if database.exists() and Database(database).exists:
            assert [f for f in verify(database) if f.severity == "damage"] == []
        assert not folder.exists() or (folder / "manifest.tsv").exists()
    assert codes[0] == 1
    assert codes[-1] == 0
