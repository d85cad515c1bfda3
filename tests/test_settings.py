"""Where settings come from, and which source wins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cryoflow
from cryoflow.cli.main import launch
from cryoflow.errors import BadInput
from cryoflow.settings.load import Settings, find_file, load_settings

FILE = """
profile = "cluster"
workers = 4
database = "DB"

[profiles.cluster]
workers = 5
chunk_micrographs = 500
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "no config"))
    path = tmp_path / "cryoflow.toml"
    path.write_text(FILE)
    return path


def test_command_line_over_environment_over_file_over_profile_over_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_settings()
    assert loaded.settings.workers == 4
    assert loaded.settings.chunk_micrographs == 500
    assert loaded.settings.min_free_gb == 10
    assert loaded.origins["workers"] == str(file)
    assert loaded.origins["chunk_micrographs"] == f"profile cluster in {file}"
    assert loaded.origins["min_free_gb"] == "default"
    monkeypatch.setenv("CRYOFLOW_WORKERS", "6")
    assert load_settings().settings.workers == 6
    assert load_settings().origins["workers"] == "environment"
    assert load_settings(workers=7).settings.workers == 7
    assert load_settings(workers=7).origins["workers"] == "command line"
    assert load_settings(workers=None).settings.workers == 6


def test_a_relative_database_in_a_file_is_relative_to_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    below = file.parent / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert load_settings().settings.database == file.parent / "DB"


def test_the_nearest_file_wins_then_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr("cryoflow.settings.load.FILE_NAME", "only-in-this-test.toml")
    work = tmp_path / "work" / "below"
    work.mkdir(parents=True)
    assert find_file(work) is None
    for folder in (tmp_path / "config" / "cryoflow", tmp_path / "work", work):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "only-in-this-test.toml").write_text("")
        assert find_file(work) == folder / "only-in-this-test.toml"


def test_a_variable_chooses_the_profile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_PROFILE", "local")
    assert load_settings().settings.chunk_micrographs == 100


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("workers = 0", "workers"),
        ("wrokers = 2", "wrokers"),
        ('profile = "nowhere"', "nowhere"),
        ("workers =", "TOML"),
        ("profiles = 3", "profiles"),
    ],
)
def test_a_bad_file_is_one_error_that_names_it_and_what_is_wrong(file: Path, text: str, named: str) -> None:
    file.write_text(text)
    with pytest.raises(BadInput, match=named) as caught:
        load_settings()
    assert str(file) in str(caught.value)


def test_a_bad_variable_names_its_setting(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_WORKERS", "many")
    with pytest.raises(BadInput, match=r"environment: setting workers.*'many'"):
        load_settings()


def test_a_named_file_that_is_missing_is_an_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file.parent / "gone.toml"))
    with pytest.raises(BadInput, match="not there"):
        load_settings()


def test_the_command_shows_where_each_value_comes_from(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_WORKERS", "6")
    assert launch(["settings"]) == 0
    rows = {line.split("\t")[0]: line.split("\t")[1:3] for line in capsys.readouterr().out.splitlines()}
    assert rows["workers"] == ["6", "environment"]
    assert rows["database"] == [str(file.parent / "DB"), str(file)]


def test_the_documentation_lists_every_setting() -> None:
    text = (Path(cryoflow.__file__).parent.parent / "docs" / "configuration.md").read_text()
    assert [name for name in Settings.model_fields if f"| `{name}` |" not in text] == []


PLACES = """
profile = "slurm"

[site]
server = "http://login1:4200"
read_only = ["/data/projects"]

[site.resources.gpu]
partition = "gpu"

[profiles.slurm.site]
cpu_image = "/opt/images/cryoflow-cpu.sif"

[profiles.slurm.site.resources.gpu]
partition = "not this: [site] comes first"
account = "cryoem"

[profiles.docker.site]
cpu_image = "cryoflow:cpu"

[profiles.docker.site.resources.gpu]
gpus = 0
"""


def test_one_file_says_what_is_the_same_everywhere_and_what_each_place_has_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "cryoflow.toml"
    file.write_text(PLACES)
    slurm = load_settings(file).settings
    docker = load_settings(file, profile="docker").settings
    local = load_settings(file, profile="local").settings
    assert [s.site.cpu_image for s in (slurm, docker, local)] == ["/opt/images/cryoflow-cpu.sif", "cryoflow:cpu", None]
    assert {s.site.server for s in (slurm, docker, local)} == {"http://login1:4200"}
    gpu = slurm.site.resource_class("gpu")
    assert (gpu.partition, gpu.account) == ("gpu", "cryoem")
    assert docker.site.resource_class("gpu").gpus == 0


def test_what_a_file_does_not_say_of_a_resource_class_is_as_in_its_default(tmp_path: Path) -> None:
    file = tmp_path / "cryoflow.toml"
    file.write_text('[site.resources.gpu]\npartition = "gpu"\n')
    gpu = load_settings(file).settings.site.resource_class("gpu")
    assert (gpu.partition, gpu.gpus, gpu.memory_gb) == ("gpu", 1, 32)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('read_only = ["projects"]', "site.read_only.0: .*not an absolute path"),
        ('scratch = "scratch"', "site.scratch: .*not an absolute path"),
        ("[site.resources.large]\ncpus = 0", "site.resources.large.cpus"),
        ("[site.resources.huge]\ncpus = 1", "site.resources.huge"),
        ('sever = "http://login1:4200"', "site.sever"),
    ],
)
def test_what_is_wrong_in_the_table_of_the_site_is_named(tmp_path: Path, line: str, words: str) -> None:
    file = tmp_path / "cryoflow.toml"
    file.write_text(f"[site]\n{line}\n")
    with pytest.raises(BadInput, match=words):
        load_settings(file)


def test_the_settings_are_shown_without_the_databases_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "cryoflow.toml"
    file.write_text('[site]\nserver = "http://login1:4200"\nserver_database = "postgresql+asyncpg://u:geheim@h/db"\n')
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file))
    assert launch(["settings", "--json"]) == 0
    shown = capsys.readouterr().out
    assert "geheim" not in shown
    site = next(row["value"] for row in json.loads(shown) if row["setting"] == "site")
    assert site["server"] == "http://login1:4200"
    assert site["server_database"] == "**********"
