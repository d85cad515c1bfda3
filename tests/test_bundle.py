"""The bundle for sites without the internet: made from a commit, checked, and installed with no package index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "cryoflow-em"
version = "7.8.9"
[project.optional-dependencies]
cryosparc = []
[tool.setuptools]
packages = ["cryoflow"]
"""
BUILD = """#!/bin/sh
# Stands in for containers/build --apptainer --output FOLDER ...: an image takes minutes.
[ "$1 $2" = "--apptainer --output" ] || exit 2
mkdir "$3" && printf '%s\\n' "$@" > "$3/cryoflow-cpu.sif"
"""
CONF = """
from pathlib import Path
project = "cryoflow"
def setup(app):  # as notebooks do
    (Path(app.outdir).parent / "jupyter_execute").mkdir()
"""
NO_NETWORK = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_INDEX": "0"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small project of the same name, committed, whose environment is this one: the real one has 700 MB of wheels."""
    folder = tmp_path / "check out"
    for name in ("containers", "cryoflow", "docs", ".venv/bin"):
        (folder / name).mkdir(parents=True)
    shutil.copy(ROOT / "containers" / "bundle", folder / "containers")
    (folder / "containers/build").write_text(BUILD)
    (folder / "containers/build").chmod(0o755)
    (folder / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "cryoflow/__init__.py").write_text('__version__ = "7.8.9"\n')
    (folder / "requirements.lock").touch()
    (folder / "docs/conf.py").write_text(CONF)
    (folder / "docs/index.rst").write_text("cryoflow\n========\n")
    (folder / ".gitignore").write_text(".venv\n")
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return folder


def run(*argv: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | NO_NETWORK | variables
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=300)


def bundle(checkout: Path, output: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run(checkout / "containers" / "bundle", output, *(options or ("--no-images",)))


def test_a_bundle_with_images_installs_without_a_package_index(checkout: Path, tmp_path: Path) -> None:
    output, site = tmp_path / "the bundle", tmp_path / "s i te"
    done = bundle(checkout, output, "--", "--base", "/a base.sif", "cpu")
    assert done.returncode == 0, done.stderr
    assert sorted(os.listdir(output)) == ["SHA256SUMS", "docs", "images", "install.sh", "source", "wheels"]
    assert "images/cryoflow-cpu.sif" in (output / "SHA256SUMS").read_text()
    installed = run("sh", output / "install.sh", site, PYTHON=sys.executable)
    assert installed.returncode == 0, installed.stderr
    where = "import cryoflow; print(cryoflow.__version__, cryoflow.__file__)"
    found = run(site / "venv/bin/python", "-P", "-c", where).stdout
    assert found.startswith(f"7.8.9 {site}/venv/lib/")
    assert (site / "images/cryoflow-cpu.sif").read_text().endswith("\n--base\n/a base.sif\ncpu\n")
    assert (site / "docs/index.html").is_file()
    assert (site / "source/pyproject.toml").is_file()
    assert [path.name for path in tmp_path.glob("the bundle*")] == ["the bundle"]


def test_a_bundle_has_what_another_release_of_the_same_python_needs(checkout: Path, tmp_path: Path) -> None:
    minor = f"{sys.version_info[0]}.{sys.version_info[1]}"
    needs = {
        "of_this": "python_version > '3'",
        "of_older": f"python_full_version < '{minor}.1'",
        "of_none": "extra == 'x'",
    }
    lines = [f"{name}; {marker}" for name, marker in needs.items()]
    text = PYPROJECT.replace("[project.opt", f"dependencies = {lines}\n[project.opt")
    (checkout / "pyproject.toml").write_text(text)
    git = ["git", "-c", "user.name=n", "-c", "user.email=e@example.org", "commit", "-qam", "needs"]
    subprocess.run(git, cwd=checkout, check=True)
    for name in needs:
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            about = f"{name}-1.0.dist-info"
            wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{about}/RECORD", "")
    done = run(checkout / "containers" / "bundle", tmp_path / "b", "--no-images", PIP_FIND_LINKS=str(tmp_path))
    assert done.returncode == 0, done.stderr
    wheels = sorted(path.name.partition("-")[0] for path in (tmp_path / "b/wheels").glob("*.whl"))
    assert wheels == ["cryoflow_em", "of_older", "of_this"]
    assert not (tmp_path / "b/more.txt").exists()


def test_a_bundle_damaged_on_the_way_is_not_installed(checkout: Path, tmp_path: Path) -> None:
    assert bundle(checkout, tmp_path / "b").returncode == 0
    (wheel,) = (tmp_path / "b/wheels").glob("*.whl")
    wheel.write_bytes(wheel.read_bytes()[:-1])
    done = run("sh", tmp_path / "b/install.sh", tmp_path / "site", PYTHON=sys.executable)
    assert done.returncode != 0
    assert wheel.name in done.stdout + done.stderr
    assert not (tmp_path / "site").exists()


def test_a_bundle_is_complete_or_absent_and_of_a_commit(checkout: Path, tmp_path: Path) -> None:
    (checkout / "cryoflow/new.py").touch()
    done = bundle(checkout, tmp_path / "b")
    assert (done.returncode, "commit your changes" in done.stderr) == (1, True)
    (checkout / "cryoflow/new.py").unlink()
    (checkout / ".venv/bin/python").write_text("#!/bin/sh\nexit 3\n")
    assert bundle(checkout, tmp_path / "b").returncode != 0
    assert list(tmp_path.glob("b*")) == []
    (tmp_path / "b").mkdir()
    assert "name a new folder" in bundle(checkout, tmp_path / "b").stderr
