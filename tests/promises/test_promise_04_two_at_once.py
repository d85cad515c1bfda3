"""Promise 4: two at once are safe: ingests over the same and other roots, some of them killed, and exports.

The lock itself is attacked in tests/database/test_database_lock.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from killed import fork
from promise_tools import DIAMETER_A, has_times, leftovers, make_entry, tree

from cryoflow.cli.main import launch
from cryoflow.database import Database, verify
from cryoflow.errors import BadInput, DatabaseBusy, ExitCode, NotWritten
from cryoflow.ingest import ingest
from cryoflow.pickers.training_sets.export import export

pytestmark = pytest.mark.forks


def started(work: Callable[[], int]) -> int:
    """A forked child that does some work; its number. Its exit status is what the work returns."""
    pid = fork()
    if pid == 0:
        status = 99
        try:
            status = work()
        finally:
            os._exit(status)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_while_it_holds(lock: Path, pid: int, *, within_s: float = 60.0) -> None:
    """SIGKILL to a process at a moment when the lock is its own: it is stopped first, then the lock is read."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        os.kill(pid, signal.SIGSTOP)
        try:
            if json.loads(lock.read_text())["pid"] == pid:
                os.kill(pid, signal.SIGKILL)
                return
        except (OSError, ValueError):
            pass
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("it never held the lock")


def test_eight_ingests_one_killed_while_it_holds_the_lock_end_at_the_same_bytes(
    finished_projects: Path, tmp_path: Path
) -> None:
    """Over the same roots and over others; the killed one's lock is taken over, and what it left is mended."""
    roots = [finished_projects, finished_projects / "relion", finished_projects / "CS-demo", finished_projects]

    def work(i: int, db: str) -> int:
        return ingest(roots[i % 4], tmp_path / db, check_orientation=False).exit_code

    running = [started(lambda i=i: work(i, "DB")) for i in range(8)]  # type: ignore[misc]
    victim = running.pop()
    killed_while_it_holds(tmp_path / "DB/.lock", victim)
    assert ended(victim) == -signal.SIGKILL
    assert [ended(pid) for pid in running] == [ExitCode.OK] * 7
    assert verify(tmp_path / "DB") == []
    assert leftovers(tmp_path / "DB") == []
    assert not (tmp_path / "DB/.lock").exists()
    assert work(0, "alone") == ExitCode.OK
    assert tree(tmp_path / "DB", ignore=has_times) == tree(tmp_path / "alone", ignore=has_times)


def test_the_lock_of_a_job_that_died_on_another_machine_is_not_stolen_and_there_is_a_way_out(
    finished_projects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the command line: a clear error that names the machine and the command that helps, which then helps."""
    root = tmp_path / "DB"
    line = ["ingest", str(finished_projects / "relion"), "--database", str(root), "--no-check-orientation"]
    more = ["ingest", str(finished_projects / "CS-demo"), *line[2:]]
    assert launch(line) == ExitCode.OK
    with Database(root).writing():
        owner = json.loads((root / ".lock").read_text())
    (root / ".lock").write_text(json.dumps(owner | {"host": "node17", "slurm_job": "4711"}))
    before = tree(root)
    monkeypatch.setitem(Database.__init__.__kwdefaults__, "lock_timeout_s", 0.3)
    capsys.readouterr()
    assert launch(more) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert "node17" in said
    assert f"cryoflow database unlock --database {root}" in said
    assert "Traceback" not in said
    assert tree(root) == before
    assert launch(["database", "list", "--database", str(root)]) == ExitCode.OK, "reading needs no lock"
    assert launch(["database", "unlock", "--database", str(root)]) == ExitCode.FAILED
    assert launch(["database", "unlock", "--database", str(root), "--force"]) == ExitCode.OK
    assert launch(more) == ExitCode.OK


def test_a_command_that_is_told_to_end_lets_go_of_the_lock_first(finished_projects: Path, tmp_path: Path) -> None:
    """What `scancel`, `timeout`, and systemd send; another machine could not take the lock over."""
    script = (
        "import sys, time\n"
        "from cryoflow.storage import fault_points\n"
        "from cryoflow.cli import main\n"
        "wait = lambda name: name == 'folder.written' and (print('in', flush=True), time.sleep(60))\n"
        "fault_points.on_fault_point = wait\n"
        "main.main()\n"
    )
    argv = [sys.executable, "-c", script, "ingest", str(finished_projects), "--database", str(tmp_path / "DB")]
    with subprocess.Popen([*argv, "--no-check-orientation"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"in\n"
        assert (tmp_path / "DB/.lock").exists()
        process.terminate()
        said = process.stderr.read().decode()
    assert process.returncode == 130, said
    assert "run the same command again" in said
    assert not (tmp_path / "DB/.lock").exists()
    assert leftovers(tmp_path / "DB") == []


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc: a process's children are not known")
def test_an_ingest_that_is_killed_leaves_no_process_behind(finished_projects: Path, tmp_path: Path) -> None:
    """Its workers would wait for the next job for ever, each with its memory."""
    argv = [sys.executable, "-m", "cryoflow", "ingest", str(finished_projects), "--database", str(tmp_path / "DB")]
    with subprocess.Popen([*argv, "--workers", "2"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        children: list[str] = []
        end = time.monotonic() + 60
        while len(children) < 3 and time.monotonic() < end:  # two workers, and Python's own tracker
            time.sleep(0.02)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 3
        process.kill()
    end = time.monotonic() + 60
    while (left := [pid for pid in children if _runs(pid)]) and time.monotonic() < end:
        time.sleep(0.1)
    for pid in left:
        os.kill(int(pid), signal.SIGKILL)
    assert left == []


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_exports_into_one_folder_at_once_leave_one_whole_set(tmp_path: Path) -> None:
    """One may be told that another was there first; what stands in the end is whole, and nothing is left beside it."""
    entries = [make_entry(tmp_path, f"P{i}", n=2, seed=i) for i in range(2)]
    where = tmp_path / "sets"

    def work(i: int, name: str, turns: int = 1) -> int:
        code = 0
        for _ in range(turns):
            try:
                export("topaz", [entries[i]], where / name, diameter_A=DIAMETER_A, force=True, overwrite=True)
            except NotWritten:
                code = 1
        return code

    assert [work(i, f"alone{i}") for i in range(2)] == [0, 0]
    whole = [tree(where / f"alone{i}") for i in range(2)]
    assert whole[0] != whole[1]
    running = [started(lambda i=i: work(i % 2, "set", 3)) for i in range(6)]  # type: ignore[misc]
    codes = [ended(pid) for pid in running]
    assert set(codes) <= {0, 1}
    assert tree(where / "set") in whole
    assert work(0, "set") == 0
    assert sorted(p.name for p in where.iterdir()) == ["alone0", "alone1", "set"]


def test_a_set_that_is_moved_aside_while_it_is_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another export is between its two renames just then: what stands there is still cryoflow's."""
    from cryoflow.pickers.training_sets import contents

    entries = [make_entry(tmp_path, f"P{i}", n=2, seed=i) for i in range(2)]
    output, kept = tmp_path / "set", tmp_path / "kept.tsv"
    export("topaz", entries[:1], output, diameter_A=DIAMETER_A)
    read_contents = contents.read_contents
    looks = []

    def looked(folder: Path) -> contents.Contents | None:
        looks.append(folder)
        if len(looks) > 1:
            if kept.exists():
                kept.rename(output / "manifest.tsv")
            return read_contents(folder)
        output.rename(tmp_path / "aside")
        (tmp_path / "aside" / "manifest.tsv").rename(kept)
        seen = read_contents(folder)
        (tmp_path / "aside").rename(output)
        return seen

    monkeypatch.setattr(contents, "read_contents", looked)
    export("topaz", entries[1:], output, diameter_A=DIAMETER_A, overwrite=True)
    assert len(looks) >= 2
    (output / "manifest.tsv").unlink()
    (output / contents.NAME).unlink()
    with pytest.raises(BadInput, match="cryoflow did not write it"):
        export("topaz", entries[1:], output, diameter_A=DIAMETER_A, overwrite=True)


def test_one_database_in_two_threads_is_one_writer_at_a_time(tmp_path: Path) -> None:
    """As tasks of one flow use it; and a second `Database` of the same folder waits as another process would."""
    from concurrent.futures import ThreadPoolExecutor

    entries = [make_entry(tmp_path, n=1, job=f"J{i}", seed=i) for i in range(4)]
    shared = Database(tmp_path / "DB")
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            list(pool.map(lambda entry: (shared.add(entry), Database(tmp_path / "DB").add(entry)), entries))
    assert len(shared.entries()) == 4
    assert verify(shared) == []
    with shared.writing(), pytest.raises(DatabaseBusy):
        Database(tmp_path / "DB", lock_timeout_s=0.2).mark("P1/Homo_J1", "stale", "x")
