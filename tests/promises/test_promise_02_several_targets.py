"""Promise 2: a command with several targets, killed after the first, is finished by the same command.

Once more, after that, it changes no file, and says so. The cases are checked against the table of commands: a new
command with several targets fails here until it has one.

Commands that work for long are killed, and repeated after success, in the tests of their stages:

| command | killed in | repeated in |
|---|---|---|
| `run` | test_promise_12_long_work.py: in each stage, and at random moments | flows/test_flows.py |
| `ingest`, `export`, `database remove` | test_promise_02_kill_anywhere.py, database/test_database_faults.py | here |
| `pick`, `detector pick`, `unpicker unpick` | here; shards: unpicker/test_unpicker_shards.py | here |
| `picker train-and-pick`, `train`, `pick` | pickers/test_running.py | pickers/test_running.py |
| `detector train` | detector/test_fit.py | detector/test_labels_and_training.py |
| `unpicker train` | test_promise_12_long_work.py | unpicker/test_unpicker_training.py |
| `improve` | learning/test_improve.py, test_improve_stage.py | learning/test_improve_stage.py |
| `detector update`, `unpicker update` | learning/test_update.py | learning/test_update.py |
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cyclopts import App
from promise_tools import has_times, leftovers, make_entry, tree
from written_files import written_files

from cryoflow.cli.main import COMMANDS, app, launch
from cryoflow.database import Database, verify
from cryoflow.errors import ExitCode
from cryoflow.micrographs.image import write_mrc

TARGETS = ("P1/Homo_J5", "P2/Homo_J6")
AT = "--database {out}/DB --diameter 120"
CASES = {
    "database remove": "{targets} --database {out}/DB",
    "export": "topaz {targets} " + AT + " --output {out}/set --force --overwrite",
    "picker consensus": "{targets} {only} " + AT,
    "picker exclude": "{targets} --database {out}/DB --masks {out}/masks",
    "evaluate": "{targets} --reference P1/Homo_J5 " + AT + " --output {out}/evaluation",
    "pick": "{targets} " + AT + " --output {out}/picked",
    "detector pick": "{targets} " + AT + " --output {out}/picked",
    "unpicker unpick": "general {targets} " + AT + " --output {out}/clean",
    "ingest": "{roots} --database {out}/DB2",
}
"""Command -> how it is called. `{only}`: options of the call with one target, where they differ."""
NOTHING_TO_DO = {
    "database remove": "was removed before",
    "export": "was there already, with the same content",
    "evaluate": "unchanged: ",
}
"""Command -> what it says where it has nothing to do; the others: unchanged."""
NEWS = {"export": 1, "picker consensus": 1}
"""Command -> how many results it has; the others have one for each target."""
ONLY = {"picker consensus": "--at-least 1"}
CHANGES_NOTHING = {"crawl", "detector evaluate", "unpicker evaluate", "unpicker suggest", "view"}
"""Commands that print, write one file, or serve until they are ended."""
ELSEWHERE = {
    "detector train": ("detector/test_fit.py", "test_a_training_that_was_killed_comes_to_the_same_weights"),
    "unpicker train": ("unpicker/test_unpicker_training.py", "test_a_killed_training_goes_on_to_the_same_result"),
    "picker pick": ("pickers/test_running.py", "test_stale_output_of_an_earlier_run_is_no_success"),
    "picker train-and-pick": (
        "pickers/test_running.py",
        "test_a_training_that_was_killed_half_way_is_not_taken_for_done",
    ),
    "run": (
        "promises/test_promise_12_long_work.py",
        "test_a_flow_killed_in_each_of_its_stages_goes_on_and_repeats_nothing",
    ),
}
"""Commands whose work is too long for here -> file and test that kills and repeats them."""


def commands(group: App, before: tuple[str, ...] = ()) -> Iterator[tuple[str, App]]:
    """Give the name and the command of each command of a group and of its groups."""
    for name in group:
        if not name.startswith("-"):
            command = group[name]
            if command.default_command:
                yield " ".join((*before, name)), command
            yield from commands(command, (*before, name))


def with_several_targets() -> set[str]:
    assert {name.split()[0] for name, _ in commands(app)} == {name for name, *_ in COMMANDS}
    return {
        name
        for name, command in commands(app)
        if command.default_command
        and any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(command.default_command).parameters.values())
    }


def test_every_command_with_several_targets_has_a_case() -> None:
    assert with_several_targets() == {*CASES, *CHANGES_NOTHING, *ELSEWHERE}
    tests = Path(__file__).parents[1]
    for file, test in ELSEWHERE.values():
        assert f"def {test}" in (tests / file).read_text(), test


def prepared(out: Path, projects: Path) -> None:
    for target in TARGETS:
        project, job = target.split("/")
        Database(out / "DB").add(make_entry(projects.parent / "small", project, job=job.partition("_")[2], n=2))
    (out / "masks").mkdir()
    for i in range(2):
        mask = np.zeros((180, 260), np.float32)
        mask[:90] = 1.0
        write_mrc(out / f"masks/mic_{i}.mrc", mask, 6.0)


@pytest.mark.parametrize("name", CASES)
def test_a_command_that_was_killed_after_its_first_target_is_finished_by_the_same_command(
    name: str, finished_projects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    roots = [str(finished_projects / project) for project in ("CS-demo", "relion")]

    def run(out: Path, n: int) -> None:
        words = CASES[name].format(
            out=out,
            targets=" ".join(TARGETS[:n]),
            roots=" ".join(roots[:n]),
            only=ONLY.get(name, "") if n == 1 else "",
        )
        assert launch([*name.split(), *words.split()]) == ExitCode.OK, words

    for which in ("plain", "killed"):
        (tmp_path / which).mkdir()
        prepared(tmp_path / which, tmp_path / "p")
    run(tmp_path / "plain", 2)
    run(tmp_path / "killed", 1)
    run(tmp_path / "killed", 2)
    done = tree(tmp_path / "killed")
    before = written_files(tmp_path / "killed")
    capsys.readouterr()
    run(tmp_path / "killed", 2)
    assert written_files(tmp_path / "killed") == before
    said = capsys.readouterr()
    assert (said.out + said.err).count(NOTHING_TO_DO.get(name, "unchanged")) >= NEWS.get(name, 2)
    assert leftovers(tmp_path / "killed") == []
    assert verify(tmp_path / "killed/DB") == []
    ours = tree(tmp_path / "plain", ignore=lambda n: ".quarantine" in n or has_times(n.partition("/")[2]))
    assert {n for n in ours if not n.startswith("set")} <= set(done)
