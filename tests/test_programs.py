"""External programs: argument lists, their output, their failures, their end."""

from __future__ import annotations

import pickle
import sys
import time
from pathlib import Path

import pytest

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.system.processes import some_runs
from cryoflow.system.programs import run

HOSTILE = 'a b\'; touch hacked "$(touch hacked)" `touch hacked` \n && touch hacked'


def test_arguments_reach_the_program_as_they_are_and_no_shell_reads_them(tmp_path: Path):
    output = run([sys.executable, "-c", "import sys; print(repr(sys.argv[1]))", HOSTILE], cwd=tmp_path)
    assert output.strip() == repr(HOSTILE)
    assert not (tmp_path / "hacked").exists()


def test_a_failure_carries_the_command_the_status_and_the_end_of_the_output():
    code = "print('\\n'.join(f'line {i}' for i in range(100))); raise SystemExit(7)"
    with pytest.raises(ToolFailed) as caught:
        run([sys.executable, "-c", code], tail_lines=3)
    assert caught.value.returncode == 7
    assert caught.value.tail == "line 97\nline 98\nline 99"
    assert sys.executable in str(caught.value)


def test_a_program_that_is_not_there_is_a_tool_failure_too():
    with pytest.raises(ToolFailed, match="could not be started"):
        run(["/no/such/program"])


def test_output_is_followed_line_by_line_and_kept_in_the_log(tmp_path: Path):
    lines: list[str] = []
    run([sys.executable, "-c", "print(1); print(2)"], on_line=lines.append, log_file=tmp_path / "log.txt")
    assert lines == ["1", "2"]
    assert (tmp_path / "log.txt").read_text() == "1\n2\n"


def test_a_program_out_of_time_is_ended_with_its_children(tmp_path: Path):
    pid_file = tmp_path / "child.pid"
    code = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pid_file)!r}, "w").write(str(child.pid))
time.sleep(60)
"""
    with pytest.raises(ToolFailed, match="ran longer than 15 s"):
        run([sys.executable, "-c", code], timeout_s=15)
    child = int(pid_file.read_text())
    end = time.monotonic() + 60
    while some_runs(child):
        assert time.monotonic() < end, "the child of the program is still running"
        time.sleep(0.1)


def test_errors_cross_process_borders_whole():
    for error in (BadInput("/a", "is bad.", "Mend it."), ToolFailed(["x", "y"], 3, "tail")):
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is type(error)
        assert str(copy) == str(error)
