"""Promise 5: a small file that asks for much costs one clear error, within the time and memory of its size."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bombs import YAML_ALIASES

HERE = Path(__file__).parent
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: memory in use is not known")


@needs_proc
@pytest.mark.parametrize(("which", "least"), [("readers", 600), ("registry", 500)])
def test_a_bomb_costs_one_error_within_the_budget_of_its_size(which: str, least: int, tmp_path: Path) -> None:
    """`readers`: every kind of bomb through every reader. `registry`: each format's own bombs through its reader."""
    argv = [sys.executable, str(HERE / "bombs.py"), which, str(tmp_path)]
    env = dict(os.environ) | {"PYTHONPATH": str(HERE.parents[1])}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=590, cwd=tmp_path, env=env)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("ESCAPED")] == []
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(lines[-1].split()[1]) >= least


def test_the_time_of_a_file_is_over_when_clock_and_processor_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded machine or a slow network makes no file a bomb."""
    from cryoflow.errors import OverBudget
    from cryoflow.storage import budgets

    clock, cpu = [0.0], [0.0]
    monkeypatch.setattr(budgets.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(budgets.time, "process_time", lambda: cpu[0])
    deadline = budgets.Deadline("a.star", 1_000_000)
    clock[0] = 10 * deadline.seconds
    deadline.check()
    cpu[0] = deadline.seconds + 1
    with pytest.raises(OverBudget, match=r"a\.star: reading it takes more than the 22 s"):
        deadline.check()
    clock[0] = 0.0
    deadline.check()


def test_blank_lines_at_the_head_of_a_table_are_looked_at_once_each(tmp_path: Path) -> None:
    """A pattern that goes on over line ends looks at them again from each line: 64 kB then take seconds, not 1 ms."""
    from cryoflow.formats.pick_tables.declaration import Head

    file = tmp_path / "picks.txt"
    file.write_bytes(b"\n" * (1 << 16))
    head = Head.of(file)
    begun = time.process_time()
    assert not head.is_star
    assert time.process_time() - begun < 0.5


def test_two_hundred_thousand_missing_micrographs_are_looked_for_without_a_look_at_each_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a folder of its own, ten levels deep: 20 places may be meant by each name."""
    from cryoflow.micrographs import find_micrographs

    calls = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda *a, **k: calls.append(1) or stat(*a, **k))
    finder = find_micrographs.Finder(tmp_path)
    for i in range(2000):
        assert finder.find(f"/a/b/c/d/e/f/g/h/x{i}/mic_{i}.mrc") is None
    assert len(calls) < 3 * 2000


def test_a_bomb_in_a_project_costs_its_job_alone(
    finished_projects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A group file of aliases beside sound ones: the crawl finds the rest, and names the file."""
    from cryoflow.cli.main import launch

    root = tmp_path / "projects"
    shutil.copytree(finished_projects, root, symlinks=True)
    assert launch(["crawl", str(root)]) == 0
    sound = capsys.readouterr().out
    (next((root / "CS-demo").glob("J*/")) / "bomb.csg").write_bytes(YAML_ALIASES)
    job = root / "CS-demo" / "J900"
    job.mkdir()
    (job / "J900_particles.csg").write_bytes(YAML_ALIASES)
    assert launch(["crawl", str(root)]) in (0, 3)
    captured = capsys.readouterr()
    assert set(sound.splitlines()) <= set(captured.out.splitlines())
    assert "J900_particles.csg: its aliases repeat" in captured.err + captured.out
