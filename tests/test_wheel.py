"""The built wheel, installed away from the checkout, holds everything that runs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".html", ".j2", ".css", ".js", ".json", ".yaml", ".typed", ".npz", ".svg", ".md")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that nothing is left in the checkout."""
    import shutil

    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("cryoflow", "flows"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q"]
    subprocess.run([*command, "-w", str(folder), str(source)], check=True, timeout=300)
    (built,) = folder.glob("cryoflow_em-*.whl")
    return built


def test_the_wheel_holds_every_module_and_every_data_file(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    tracked = [p for folder in ("cryoflow", "flows") for p in (ROOT / folder).rglob("*") if p.is_file()]
    wanted = {
        str(p.relative_to(ROOT)) for p in tracked if p.suffix in (".py", *SUFFIXES) and "__pycache__" not in p.parts
    }
    assert wanted - packed == set()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone; a `.pth` file adds the packages that it depends on."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python")]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "-q", str(wheel)], check=True, timeout=300)
    # after the installation: pip must not find, and replace, the checkout that the dependencies lie beside
    (packages,) = folder.glob("lib/python*/site-packages")
    packages.joinpath("dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


@pytest.fixture
def run(installed: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of the environment in a folder of its own, with nothing of the checkout in reach."""

    def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(installed / program), *arguments],
            cwd=tmp_path,
            env=environment_of(tmp_path) | environment,
            capture_output=True,
            text=True,
            timeout=500,
        )

    return run


def environment_of(home: Path) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": str(home),
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }


def test_an_installed_wheel_runs_from_any_folder(installed: Path, run: Callable[..., Any]) -> None:
    files = run("python", "-c", "import cryoflow, flows; print(cryoflow.__file__, flows.__file__)")
    assert files.stdout.count(str(installed.parent)) == 2, files.stderr
    listed = run("cryoflow", "picker", "list")
    assert listed.returncode == 0, listed.stderr
    assert "topaz" in listed.stdout


@pytest.mark.slow
def test_an_installed_wheel_runs_the_demo_and_serves_its_pages(
    installed: Path, run: Callable[..., Any], tmp_path: Path
) -> None:
    demo = run("cryoflow", "demo", "--output", "demo", "--micrographs", "5", "--epochs", "1")
    assert demo.returncode == 0, demo.stderr
    assert "data:image" in (tmp_path / "demo" / "report.html").read_text()
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    named = set(re.findall(r"`(demo/[\w./]+)`", tutorial))
    assert len(named) > 4
    assert {name for name in named if not (tmp_path / name).exists()} == set()
    entries = re.findall(r"database show (\S+)", tutorial)
    assert entries
    assert all(
        run("cryoflow", "database", "show", entry, "--database", "demo/database").returncode == 0 for entry in entries
    )
    command = [str(installed / "cryoflow"), "view", "--database", "demo/database", "--port", "0", "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment_of(tmp_path), stdout=subprocess.PIPE, text=True
    ) as viewer:
        try:
            assert viewer.stdout is not None
            address = json.loads("".join(viewer.stdout.readline() for _ in range(4)))["read"]
            browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            with browser.open(address, timeout=60) as page:
                assert page.status == 200
                assert b"relion-barrel" in page.read()
        finally:
            viewer.terminate()


@pytest.mark.slow
def test_an_installed_wheel_deploys_its_flows(run: Callable[..., Any], prefect_server: None, tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL

    server = str(PREFECT_API_URL.value()).removesuffix("/api")
    site = tmp_path / "site.toml"
    site.write_text(f'database = "{tmp_path}/picks"\n[site]\nserver = "{server}"\nread_write = ["{tmp_path}"]\n')
    deployed = run("cryoflow", "deploy", "--profile", "local", "--config", str(site))
    assert deployed.returncode == 0, deployed.stderr
    assert "pipeline (local)" in deployed.stdout
