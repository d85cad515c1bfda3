"""A picker reads its micrographs from a job's scratch; its folder is as before afterwards, killed runs included."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution.executor import Executor
from cryoflow.execution.resources import Resources
from cryoflow.pickers.running.run_picker import pick
from cryoflow.pickers.running.work_folder import RECORD, mend
from cryoflow.pickers.training_sets.links import links

TOPAZ = """#!/usr/bin/env python3
import os, pathlib, shutil, sys
what, args = sys.argv[1], sys.argv[2:]
if what == "preprocess":
    pathlib.Path("proc").mkdir(exist_ok=True)
    with open(os.environ["SEEN"], "w") as seen:
        for name in args:
            if name.startswith("raw_"):
                print(os.path.realpath(name), file=seen)
                shutil.copyfile(name, "proc/" + name.split("/")[1])
    sys.exit(int(os.environ.get("FAIL", 0)))
elif what == "extract":
    rows = ["image_name\\tx_coord\\ty_coord\\tscore"]
    rows += [f"{pathlib.Path(name).stem}\\t10\\t20\\t1.5" for name in args if name.startswith("proc/")]
    pathlib.Path(args[args.index("-o") + 1]).write_text("\\n".join(rows) + "\\n")
"""
CPU = Executor(resources=Resources((), 2))


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "topaz").write_text(TOPAZ)
    (folder / "topaz").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("SEEN", str(tmp_path / "seen"))
    (tmp_path / "m.sav").write_text("model")
    scratch = tmp_path / "scra tch"
    scratch.mkdir()
    monkeypatch.setenv("CRYOFLOW_SCRATCH", str(scratch))
    return scratch


def where_links_lead(folder: Path) -> set[Path]:
    return {Path(os.path.realpath(name)).parent for name in links(folder)}


def seen(tmp_path: Path) -> set[Path]:
    return {Path(line).parent for line in (tmp_path / "seen").read_text().splitlines()}


def test_the_picker_sees_copies_and_the_folder_keeps_its_links(make_entry, scratch: Path, tmp_path: Path) -> None:
    (picks,) = pick("topaz", tmp_path / "m.sav", [make_entry(n=3)], tmp_path / "picked", CPU, diameter_A=100).picksets
    assert len(picks) == 3
    assert seen(tmp_path) == {scratch}
    assert where_links_lead(tmp_path / "picked") == {tmp_path / "projects" / "P12" / "mics"}
    assert list(scratch.iterdir()) == []
    assert not (tmp_path / "picked" / RECORD).exists()


def test_a_picker_that_fails_leaves_the_links_as_they_were(
    make_entry, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL", "3")
    with pytest.raises(ToolFailed):
        pick("topaz", tmp_path / "m.sav", [make_entry(n=3)], tmp_path / "picked", CPU, diameter_A=100)
    assert seen(tmp_path) == {scratch}
    assert where_links_lead(tmp_path / "picked") == {tmp_path / "projects" / "P12" / "mics"}
    assert list(scratch.iterdir()) == []


def test_what_a_killed_run_left_is_mended_by_the_next(
    make_entry, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, picked = make_entry(n=3), tmp_path / "picked"
    program = (
        "import sys, time; from pathlib import Path\n"
        "from cryoflow.pickers.running.work_folder import through_scratch\n"
        "with through_scratch(Path(sys.argv[1])) as n:\n"
        "    print(n, flush=True); time.sleep(60)\n"
    )
    pick("topaz", tmp_path / "m.sav", [entry], picked, CPU, diameter_A=100)
    killed = subprocess.Popen([sys.executable, "-c", program, str(picked)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "3\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert where_links_lead(picked) == {scratch}
    for copy in scratch.iterdir():  # as the next job on that machine does
        copy.unlink()
    (picks,) = pick("topaz", tmp_path / "m.sav", [entry], picked, CPU, diameter_A=100).picksets
    assert len(picks) == 3
    assert where_links_lead(picked) == {tmp_path / "projects" / "P12" / "mics"}


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text("[")
    with pytest.raises(BadInput, match="is no record of links"):
        mend(tmp_path)
