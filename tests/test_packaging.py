"""What the repository promises about itself: pins, entry points, commands, files."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import cryoflow

ROOT = Path(cryoflow.__file__).parent.parent
GROUPS, PROJECT = map(tomllib.loads((ROOT / "pyproject.toml").read_text()).get, ("dependency-groups", "project"))
PINS = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\n]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[ \[<>=!~;]", requirement, maxsplit=1)[0]).lower()


def test_every_dependency_is_pinned_in_the_lock() -> None:
    groups = [*PROJECT["optional-dependencies"].values(), *GROUPS.values()]
    wanted = [*PROJECT["dependencies"], *(r for group in groups for r in group)]
    assert {_name(r) for r in wanted} <= PINS.keys()


def test_the_lock_names_no_address_and_nothing_but_pins() -> None:
    lines = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.match(r"^[a-z0-9._-]+==[^ /]+( ; .*)?$", line)] == []


def test_fastapi_is_pinned_to_a_version_with_which_prefects_server_starts() -> None:
    major, minor = map(int, PINS["fastapi"].split(".")[:2])
    assert (major, minor) < (0, 151)


def test_the_console_script_is_the_command_line() -> None:
    from cryoflow.cli.main import main

    assert EntryPoint("cryoflow", PROJECT["scripts"]["cryoflow"], "console_scripts").load() is main


def test_the_version_is_printed_and_is_the_packages() -> None:
    done = subprocess.run([sys.executable, "-m", "cryoflow", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == cryoflow.__version__
    assert f"version: {cryoflow.__version__}" in (ROOT / "CITATION.cff").read_text()


@pytest.mark.parametrize("target", ["env", "demo", "test", "lint", "types", "lock"])
def test_make_knows_its_targets_and_each_makes_the_environment_first(target: str) -> None:
    done = subprocess.run(["make", "-n", "-B", "-C", str(ROOT), target], capture_output=True, text=True, check=True)
    assert "sh .ci/env" in done.stdout


def test_the_help_states_the_same_time_of_the_demo_as_the_readme_which_ci_measures() -> None:
    from cryoflow.cli.demo import demo

    stated = re.search(r"the demo takes about (\d+) minute", (ROOT / "README.md").read_text())
    assert stated
    assert f"about {stated[1]} minute on 2 cores" in str(demo.__doc__)
    assert "\nstage demo .ci/demo\n" in (ROOT / ".ci" / "run").read_text()


def _make_env(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    (folder / ".ci").mkdir()
    (folder / ".ci" / "env").write_text((ROOT / ".ci" / "env").read_text())
    (folder / "requirements.lock").write_text("")
    command = ["sh", str(folder / ".ci" / "env")]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "PYTHON": python}
    )


def test_making_the_environment_without_a_fitting_python_says_which_are(tmp_path: Path) -> None:
    done = _make_env(tmp_path, "no-such-python")
    assert done.returncode == 1
    assert "Python 3.11, 3.12 or 3.13" in done.stderr
    assert "no-such-python" in done.stderr


def test_making_the_environment_without_ensurepip_and_pip_names_the_debian_package(tmp_path: Path) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\ncase "$*" in *ensurepip*|*pip*) exit 1;; esac\nexec {sys.executable} "$@"\n')
    bare.chmod(0o755)
    done = _make_env(tmp_path, str(bare))
    assert done.returncode == 1
    assert "python3-venv" in done.stderr


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]), ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+?)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
