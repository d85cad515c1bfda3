"""Promise 6: what lies in the working folder is neither run nor obeyed, since it may be somebody's project."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryoflow.cluster.supervisor import Running, Service
from cryoflow.errors import BadInput
from cryoflow.settings.prefect_files import guard_prefect
from cryoflow.system import programs
from cryoflow.system.working_folder import OURS, SAFE_PATH

MODULES = ("ctypes", "json", "logging", "numpy", "pickle", "random", "signal", "socket", "struct", "tempfile")
"""Names that Python processes import when they start."""
SIZE = "import matplotlib; print('size', matplotlib.rcParams['font.size'])"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with modules that leave a file named `ran` when they are imported."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r})\nraise ImportError\n")
    monkeypatch.chdir(folder)
    monkeypatch.delenv(SAFE_PATH, raising=False)
    return folder


def script(project: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run Python code from another folder, while the project is the working folder."""
    path = project.parent / "script.py"
    path.write_text(text)
    return subprocess.run([sys.executable, path], capture_output=True, text=True, check=False, timeout=300)


READERS = """
from cryoflow.ingest import read_jobs

def size():
    import matplotlib
    return matplotlib.rcParams["font.size"]

if __name__ == "__main__":
    readers = read_jobs._Readers(2)
    read_jobs._read = None
    futures = [readers.submit(None, None) for _ in range(2)]
    print([type(f.exception()).__name__ for f in futures], readers._pool.submit(size).result())
    readers.close()
"""


def test_processes_that_read_jobs_import_nothing_from_there(project: Path) -> None:
    (project / "matplotlibrc").write_text("font.size: 40\n")
    done = script(project, READERS)
    assert not (project.parent / "ran").exists(), (project.parent / "ran").read_text()
    assert done.stdout.splitlines()[-1:] == ["['TypeError', 'TypeError'] 10.0"], done.stderr


def test_services_import_nothing_from_there(project: Path) -> None:
    with Running(project.parent / "logs") as running:
        running.start(Service("own", (sys.executable, "-m", "json.tool", "--help")))
        (_, process), *_ = running.processes
        assert process.wait(60) == 0
    assert not (project.parent / "ran").exists()


def test_programs_of_others_may_import_from_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python predict.py` finds the modules beside the script, unless the user forbade it."""
    for value, is_passed in ((OURS, False), ("1", True)):
        monkeypatch.setenv(SAFE_PATH, value)
        for env in (None, dict(os.environ)):
            assert (SAFE_PATH in programs.run(["env"], env=env)) == is_passed


@pytest.mark.parametrize(
    ("name", "text", "is_refused"),
    [
        ("prefect.toml", "", True),
        (".env", "export prefect_API_URL=http://evil.example", True),
        (".env", "OTHER=1", False),
        ("pyproject.toml", '[tool."pref\\u0065ct".api]\nurl = "http://evil.example"', True),
        ("pyproject.toml", "tool = 3", False),
        ("pyproject.toml", "[tool.ruff]", False),
        ("pyproject.toml", "a = [", True),
    ],
)
def test_settings_of_prefect_are_refused(
    project: Path, name: str, text: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server would get the user's secret, and its file for logs names functions to call."""
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    (project / name).write_text(text)
    if is_refused:
        with pytest.raises(BadInput, match="Prefect would obey this file") as caught:
            guard_prefect()
        assert caught.value.path == project / name
    else:
        guard_prefect()
        assert os.environ[SAFE_PATH] == OURS  # for the server that Prefect starts
        os.environ.pop(SAFE_PATH)


def test_a_pipe_in_the_place_of_such_a_file_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    os.mkfifo(project / ".env")
    with pytest.raises(BadInput, match="Prefect would obey this file"):
        guard_prefect()


@pytest.mark.parametrize("package", ["flows", "cryoflow.cluster"])
def test_packages_that_import_prefect_refuse_them_first(project: Path, package: str) -> None:
    (project / "prefect.toml").write_text("[api]\nurl = 'http://evil.example'\n")
    done = script(project, f"import {package}")
    assert "Prefect would obey this file" in done.stderr


@pytest.mark.parametrize("is_pipe", [False, True])
def test_a_style_of_matplotlib_is_not_used(project: Path, is_pipe: bool) -> None:
    rc = project / "matplotlibrc"
    os.mkfifo(rc) if is_pipe else rc.write_text("font.size: 40\n")
    done = script(project, f"from cryoflow.cli.main import launch\nassert launch(['settings']) == 0\n{SIZE}")
    assert done.stdout.splitlines()[-1] == "size 10.0"
    assert "matplotlibrc: not used" in done.stderr
