"""Every command line of the documentation is one that the program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts.exceptions import CycloptsError

from cryoflow.cli.main import COMMANDS, FLAGS, app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
GENERATED = "reference"
END = {"|", "||", "&&", ">", ">>", ";", "&"}


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command line in the code blocks of a page."""
    for block in re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            line = re.sub(r"^\s*\$ ", "", line)
            if re.match(r"\s*(\S*/)?cryoflow (?!(entry|picks) \d)", line):  # not the head of a file of a database
                words = shlex.split(line, comments=True)
                ends = [i for i, word in enumerate(words) if word in END]
                yield words[1 : min(ends, default=len(words))]


DOCUMENTED = [(page, words) for page in PAGES if GENERATED not in page.parts for words in commands(page)]


def test_there_are_commands_in_the_documentation() -> None:
    assert len(DOCUMENTED) > 60


@pytest.mark.parametrize(("page", "words"), DOCUMENTED, ids=lambda v: v.name if isinstance(v, Path) else " ".join(v))
def test_a_documented_command_parses(page: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    words = [word for word in words if word not in FLAGS]
    command, *_ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert callable(command), page


@pytest.mark.parametrize(
    "words", [["cleanse"], ["database", "lst"], ["ingest", "/data", "--data-base", "picks"]], ids=" ".join
)
def test_a_command_or_an_option_that_does_not_exist_does_not_parse(words: list[str]) -> None:
    with pytest.raises(CycloptsError):
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_named_in_the_text_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`cryoflow ([a-z][a-z-]*)", text))
    assert named <= {name for name, *_ in COMMANDS}
