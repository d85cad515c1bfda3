"""A picker of another package: found, offered everywhere, run; a broken one is named and left out."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryoflow.database import Database
from cryoflow.pickers.base import Picker
from cryoflow.pickers.registry import GROUP, names, picker, pickers, registry
from cryoflow.picks import PickSet

ROOT = Path(__file__).parents[2]
EXAMPLE = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "pickers.md").read_text(), re.DOTALL)
PROGRAM = """#!/bin/sh
# train FOLDER ... -o MODEL, or pick FOLDER ... -o FOLDER: one box in the corner of each micrograph
for last in "$@"; do :; done
if [ "$1" = train ]; then cat train/*.box > "$last"; exit; fi
for image in "$2"/*.mrc; do
    printf '10\\t20\\t30\\t30\\n' > "$last/$(basename "${image%.mrc}").box"
done
"""


def package(folder: Path, name: str, source: str, *, distribution: str = "other-lab") -> Path:
    """A package as an installer leaves it, with its entry point."""
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_cryoflow.py").write_text(source)
    info = folder / f"{distribution.replace('-', '_')}_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {name}_cryoflow\n")
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path of modules, and a registry that forgets it afterwards."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    registry.cache_clear()
    yield folder
    registry.cache_clear()
    for name in [n for n in sys.modules if n.endswith("_cryoflow")]:
        del sys.modules[name]


def command(site: Path, *argv: str) -> str:
    """What a new process prints, with the plug-ins of `site` installed."""
    path = os.pathsep.join([str(site), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_example_of_the_docs_is_listed_exported_trained_and_run(
    site: Path, make_entry: Callable[..., PickSet], tmp_path: Path
) -> None:
    assert EXAMPLE
    package(site, "gausspick", EXAMPLE[1])
    Database(tmp_path / "DB").add(make_entry("P1", n=5))
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gausspick").write_text(PROGRAM)
    (programs / "gausspick").chmod(0o755)
    cryoflow = ("-m", "cryoflow")
    listed = {row["name"]: row for row in json.loads(command(site, *cryoflow, "picker", "list", "--json"))}
    assert listed["gausspick"]["train"]
    assert listed["gausspick"]["pick"]
    train_and_pick = ("picker", "train-and-pick", "gausspick", "P1/Homo_J51", "--to-pick", "P1/Homo_J51")
    where = ("--programs", str(programs), "--gpus", "none", "--database", str(tmp_path / "DB"))
    command(site, *cryoflow, *train_and_pick, *where, "--output", str(tmp_path / "run"), "--set", "filter=median")
    picks = Database(tmp_path / "DB").load("P1/AutoPick_gausspick")
    assert len(picks) == len(picks.micrographs) == 5
    assert set(map(tuple, picks.centers_xy_px.tolist())) == {(25.0, 35.0)}
    export = ("export", "gausspick", "P1/Homo_J51", "--database", str(tmp_path / "DB"), "--output", str(tmp_path / "b"))
    assert "GaussPick's default" in command(site, *cryoflow, *export)


@pytest.mark.slow
def test_the_example_of_the_docs_is_in_forms_and_parametrized_tests(site: Path) -> None:
    assert EXAMPLE
    package(site, "gausspick", EXAMPLE[1])
    schema = (
        "from pydantic import TypeAdapter; from cryoflow.pickers.parameters import ExportParameters as P; import json;"
        "print(json.dumps(TypeAdapter(P).json_schema()))"
    )
    assert '"gausspick"' in command(site, "-c", schema)
    tests = [
        "tests/pickers/test_formats.py",
        "tests/pickers/test_export_shards.py",
        "tests/pickers/test_training_set.py",
    ]
    out = command(site, "-m", "pytest", *tests, "-q", "-p", "no:cacheprovider", "-k", "gausspick")
    assert out.splitlines()[-1].split()[0].count(".") >= 3


BROKEN = {
    "an error on import": ("raise OSError('no library')", "OSError: no library"),
    "an end on import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "no picker": ("PICKER = 3", "TypeError: it is no Picker but int"),
    "no title": (
        "from cryoflow.pickers.base import Picker\nclass A(Picker):\n    name = help = 'a'\nPICKER = A",
        "it has no title",
    ),
    "a taken name": (
        "from cryoflow.pickers.base import Picker\nclass A(Picker):\n    name = help = title = 'cryolo'\nPICKER = A()",
        "its name cryolo is taken by cryoflow.pickers.programs.cryolo",
    ),
    "a reserved name": (
        "from cryoflow.pickers.base import Picker\nclass A(Picker):\n    name = help = title = 'verify'\nPICKER = A()",
        "its name verify is taken by a command",
    ),
    "a name that is a path": (
        "from cryoflow.pickers.base import Picker\nclass A(Picker):\n    name = help = title = '../x'\nPICKER = A()",
        "its name '../x' is not of the form",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_plugin_is_named_once_and_left_out(site: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    source, said = BROKEN[what]
    before = names()
    registry.cache_clear()
    package(site, "broken", source)
    with caplog.at_level(logging.WARNING):
        assert names() == before
        assert list(pickers()) == list(before)
    (record,) = caplog.records
    assert record.getMessage().startswith("1 picker plug-in(s) left out: broken of other-lab-broken 1.0 (")
    assert said in record.getMessage()
    assert [b.plugin for b in registry().broken] == ["broken of other-lab-broken 1.0"]


def test_the_first_of_two_plugins_of_one_name_is_taken(site: Path) -> None:
    source = (
        "from cryoflow.pickers.base import Picker\nclass A(Picker):\n    name = help = title = 'same'\nPICKER = A()"
    )
    package(site, "one", source)
    package(site, "two", source)
    assert type(pickers()["same"]).__module__ == "one_cryoflow"
    (broken,) = registry().broken
    assert broken.plugin.startswith("two of ")


def test_a_plugin_may_be_a_class_a_picker_or_a_module(site: Path) -> None:
    source = "from cryoflow.pickers.base import Picker\nclass A(Picker):\n    name = help = title = '{}'\n{}"
    for name, end in (("first", "PICKER = A"), ("second", "PICKER = A()")):
        package(site, name, source.format(name, end))
    assert {"first", "second"} < set(names())
    assert "first" not in names("train")


def test_the_registry_needs_no_numpy() -> None:
    heavy = "print(sorted({'numpy', 'pandas', 'scipy', 'pydantic', 'tensorflow', 'prefect'} & set(sys.modules)))"
    code = f"import sys; from cryoflow.pickers.registry import names; names('train'), names('pick'); {heavy}"
    assert command(ROOT, "-c", code).strip() == "[]"


@pytest.mark.parametrize("name", sorted(pickers()))
def test_every_picker_describes_itself(name: str) -> None:
    picker = pickers()[name]
    assert picker.name == name
    assert picker.title
    assert picker.help.endswith(".")
    assert picker.formats
    assert all(suffix.startswith((".", "_")) for suffix in picker.suffixes)
    assert "export" in picker.abilities


def test_a_picker_that_is_not_installed_is_given_as_the_object() -> None:
    class Mine(Picker):
        name = "mine"

    mine = Mine()
    assert picker(mine) is mine
    assert "mine" not in pickers()
