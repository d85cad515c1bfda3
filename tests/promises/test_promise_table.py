"""The command that counts attacks runs, and docs/promises.md has its table."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from types import ModuleType

import pytest

pytestmark = pytest.mark.forks

ROOT = Path(__file__).parents[2]
QUICK = (
    "process killed at a step of a write",
    "bit flipped in a file of a database",
    "entry, project, mark or list exchanged, copied, deleted",
    "folder swapped for a link during a write",
    "random bytes in a sound file, through a reader",
)
"""The others run in processes of their own, which other tests start."""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "tests/database"))
    spec = importlib.util.spec_from_file_location("counted_promises", ROOT / "benchmarks/promises.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", QUICK)
def test_an_attack_of_the_command_is_tried_and_held(name: str, command: ModuleType, tmp_path: Path) -> None:
    attack, _ = command.ATTACKS[name]
    assert next(attack(tmp_path, random.Random(0)))


def test_the_page_has_a_row_for_each_attack_and_none_got_through(command: ModuleType) -> None:
    lines = (ROOT / "docs/promises.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert [(name, what) for name, _, _, what in rows] == [(n, what) for n, (_, what) in command.ATTACKS.items()]
    assert [name for name, tried, held, _ in rows if tried != held or int(tried) < 50] == []
