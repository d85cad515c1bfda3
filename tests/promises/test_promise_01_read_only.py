"""Promise 1: nothing below a crawled folder is created, changed, renamed or touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from killed import in_child
from promise_tools import changes_of, on_each_change, snapshot

pytestmark = pytest.mark.forks

COMMANDS = [
    ["crawl", "{root}"],
    ["ingest", "{root}", "--database", "{out}/DB"],
    ["database", "list", "--database", "{out}/DB"],
    ["database", "select", "--database", "{out}/DB"],
    ["database", "verify", "--database", "{out}/DB", "--repair"],
    ["export", "cryolo", "CS-demo/NonUniform_J11", "--db", "{out}/DB", "-o", "{out}/cryolo", "--diameter", "150"],
    ["export", "topaz", "CS-demo/NonUniform_J11", "--db", "{out}/DB", "-o", "{out}/topaz", "--diameter", "150"],
    ["export", "relion", "relion/{refined}", "--db", "{out}/DB", "-o", "{out}/relion", "--diameter", "150"],
    ["export", "cryosparc", "CS-demo/NonUniform_J11", "--db", "{out}/DB", "-o", "{out}/cs", "--diameter", "150"],
    ["report", "--database", "{out}/DB", "--output", "{out}/report.html"],
]


def commands(root: Path, out: Path) -> list[list[str]]:
    refined = next(p.parent.name for p in (root / "relion/Refine3D").glob("job*/run_data.star"))
    names = {"root": str(root), "out": str(out), "refined": f"Refine3D_{refined}"}
    return [[word.format(**names) for word in line] for line in COMMANDS]


def run_all(root: Path, out: Path, lines: list[list[str]] | None = None) -> None:
    from cryoflow.cli.main import launch

    for line in lines or commands(root, out):
        code = launch(line)
        assert code == 0, f"{line}: {code}"


def train_and_unpick(root: Path, out: Path) -> None:
    """The long way: label the picks of a job, train on them, un-pick; all through the database's links."""
    from cryoflow.database import Database
    from cryoflow.preparation.two_channel import TwoChannelPreprocessing
    from cryoflow.unpicker.labeled import LabeledSet
    from cryoflow.unpicker.train import train
    from cryoflow.unpicker.train_options import TrainOptions
    from cryoflow.unpicker.unpick import unpick

    picks = Database(out / "DB").load("CS-demo/NonUniform_J11")
    table = picks.picks.assign(label=[1 if i % 2 else -1 for i in range(len(picks))])
    labeled = type(picks).build(picks.provenance, picks.micrographs, table, diameter_A=150.0)
    small = TrainOptions(
        preprocessing=TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1),
        widths=(8,),
        blocks=(1,),
        epochs=1,
        batch=16,
        least_steps=2,
        test=0.0,
        workers=2,
    )
    unpick(train(LabeledSet.from_picks(labeled), out / "model", small), picks)


def test_no_command_changes_or_tries_to_change_anything_below_the_root(finished_projects: Path, tmp_path: Path) -> None:
    """By Python's own audit events (opening for writing, renaming, linking, ...), and by what the disk says after."""
    before = snapshot(finished_projects)
    assert changes_of(lambda: run_all(finished_projects, tmp_path), finished_projects, tmp_path / "changes") == []
    assert snapshot(finished_projects) == before


def test_training_and_unpicking_make_no_such_call_either(finished_projects: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from promise_tools import on_each_change\n"
        "from test_promise_01_read_only import run_all, commands, train_and_unpick\n"
        "root, out = map(Path, sys.argv[1:])\n"
        "import os\n"
        "on_each_change(root, lambda event, path: os.write(1, f'CHANGE {event} {path}\\n'.encode()))\n"
        "run_all(root, out, [[*commands(root, out)[1], '--no-check-orientation']])\n"
        "train_and_unpick(root, out)\n"
    )
    argv = [sys.executable, "-c", script, str(finished_projects), str(tmp_path)]
    before = snapshot(finished_projects)
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [line for line in done.stdout.splitlines() if line.startswith("CHANGE")] == []
    assert snapshot(finished_projects) == before
    assert (tmp_path / "model/bundle.json").is_file()


def test_a_tree_that_cannot_be_written_is_read_all_the_same(finished_projects: Path, tmp_path: Path) -> None:
    """The projects on a read-only mount: a write would be refused by the kernel, and its error would be seen."""
    words = " && ".join(
        [
            'mount --bind "$0" "$0"',
            'mount -o remount,ro,bind "$0"',
            '! touch "$0/x" 2>/dev/null',
            'exec "$@"',
        ]
    )
    lines = commands(finished_projects, tmp_path)[:2]
    lines[1] += ["--workers", "2", "--no-check-orientation"]
    script = f"import sys; from cryoflow.cli.main import launch; sys.exit(max([launch(l) for l in {lines!r}]))"
    argv = ["unshare", "--map-root-user", "--mount", "sh", "-c", words, str(finished_projects)]
    if subprocess.run([*argv, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets no test mount a folder read-only (unshare --map-root-user --mount)")
    done = subprocess.run([*argv, sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "failed" not in done.stderr


def test_a_job_that_writes_would_be_seen(finished_projects: Path, tmp_path: Path) -> None:
    """The control of this file: one file beside a job's is found by the hook and by the snapshot."""
    root = tmp_path / "copy"
    (root / "P").mkdir(parents=True)
    before = snapshot(root)
    seen = changes_of(lambda: (root / "P/notes.txt").write_text("x"), root, tmp_path / "log")
    assert len(seen) == 1
    assert snapshot(root) != before
    os.utime(root / "P", (0, 0))
    assert in_child(lambda: on_each_change(root, lambda *_: os._exit(9)) or os.utime(root / "P", (1, 1))) == 9
