"""Where settings come from, and which source wins."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import cryoflow
from cryoflow.cli.main import launch
from cryoflow.errors import BadInput
from cryoflow.settings.load import Settings, find_file, load_settings
from cryoflow.settings.trust import trust

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
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(path))
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


@pytest.fixture
def homes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A work folder below a project, and folders of a user and a site without settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr("cryoflow.settings.load.SITE_FOLDER", tmp_path / "etc")
    monkeypatch.delenv("CRYOFLOW_CONFIG", raising=False)
    work = tmp_path / "project" / "below"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    return tmp_path


def write(folder: Path, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cryoflow.toml").write_text(text)
    return folder / "cryoflow.toml"


def test_the_users_file_comes_before_the_sites_and_a_trusted_one_of_the_work_folder_before_both(homes: Path) -> None:
    assert find_file() is None
    site = write(homes / "etc")
    assert find_file() == site
    user = write(homes / "config" / "cryoflow")
    assert find_file() == user
    above = write(homes / "project")
    trust(above, b"")
    assert find_file() == above
    near = write(homes / "project" / "below")
    trust(near, b"")
    assert find_file() == near


EVIL = 'database = "DB"\n[site]\nserver = "http://evil.example"\nsetup = "touch PWNED"\n'


def test_a_file_of_a_project_is_named_and_not_used(homes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its server would get the user's secret, its setup lines would run on a node."""
    evil = write(homes / "project", EVIL)
    assert launch(["settings", "--json"]) == 0
    captured = capsys.readouterr()
    assert "evil.example" not in captured.out
    assert f"cryoflow settings trust {evil}" in captured.err
    assert find_file() is None
    assert load_settings().settings.site.setup == ""


def test_a_trusted_file_is_used_until_its_content_changes(homes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(homes / "project", "workers = 3\n")
    assert launch(["settings", "trust"]) == 0
    assert load_settings().settings.workers == 3
    assert launch(["settings", "trusted"]) == 0
    assert f"{file}\ttrusted" in capsys.readouterr().out
    file.write_text("workers = 4\n")
    assert find_file() is None
    assert launch(["settings", "trusted"]) == 0
    assert f"{file}\tchanged" in capsys.readouterr().out
    file.write_text("workers = 3\n")
    assert find_file() == file
    assert launch(["settings", "untrust", str(file)]) == 0
    assert find_file() is None


def test_a_file_with_an_error_is_not_trusted(homes: Path) -> None:
    write(homes / "project", "wrokers = 3\n")
    assert launch(["settings", "trust"]) == 1
    assert not (homes / "state").exists()


def test_a_trusted_file_in_a_folder_that_is_crawled_is_not_used(
    homes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(homes / "project", 'database = "evil"\n')
    assert launch(["settings", "trust", str(file)]) == 0
    for root in (homes, homes / "project"):
        assert launch(["crawl", str(root)]) == 0
        assert "it lies in a folder that is being crawled" in capsys.readouterr().err
        assert load_settings(crawled=[root]).file is None
    assert load_settings(crawled=[homes / "project" / "below"]).file == file  # a database may lie beside the projects


def test_the_command_line_names_a_file_and_verbose_says_which_is_used(
    homes: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_CONFIG", "")  # put back after the test
    file = write(homes / "elsewhere", "workers = 3\n[site]\nsetup = 'module load x'\n")
    assert launch(["settings", "--config", str(file), "-v", "--json"]) == 0
    captured = capsys.readouterr()
    assert f"settings file: {file}" in captured.err
    rows = {row["setting"]: (row["value"], row["from"]) for row in json.loads(captured.out)}
    assert rows["workers"] == (3, str(file))
    assert rows["site.setup"] == ("module load x", str(file))
    assert rows["site.server"][1] == "default"
    assert launch(["settings", f"--config={homes / 'none.toml'}"]) == 1
    assert launch(["settings", "--config"]) == 2


@pytest.mark.parametrize("value", ["{", "[" * 100_000, "1" * 5000, '{"server": 3}', "{}x"])
def test_a_broken_variable_is_one_error_that_names_it(
    homes: Path, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CRYOFLOW_SITE", value)
    assert launch(["settings"]) == 1
    told = capsys.readouterr().err
    assert "defect" not in told
    assert "site" in told.lower()


@pytest.mark.parametrize("text", ["a=" + "[" * 100_000, "workers=" + "1" * 5000, "a." * 100_000 + "a=1", "\0"])
def test_a_file_that_is_a_bomb_is_one_error_that_names_it(
    homes: Path, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(homes / "config" / "cryoflow", text)
    assert launch(["settings"]) == 1
    told = capsys.readouterr().err
    assert "defect" not in told
    assert str(file) in told


def test_the_home_of_an_account_that_does_not_exist_is_one_error(
    homes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(homes / "config" / "cryoflow", "[site]\nlog_folder = '~no-such-account/logs'\n")
    assert launch(["settings"]) == 1
    assert "is not an absolute path" in capsys.readouterr().err


@pytest.mark.parametrize("is_trusted", [False, True])
def test_a_file_that_cannot_be_read_ends_a_command_only_if_it_was_trusted(
    homes: Path, is_trusted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(homes / "project", "workers = 3\n")
    if is_trusted:
        assert launch(["settings", "trust"]) == 0
    os.truncate(file, 1 << 40)
    assert launch(["settings"]) == int(is_trusted)
    assert "not used" in capsys.readouterr().err or is_trusted
    assert launch(["settings", "trust", str(file)]) == 1
    assert "it has more than 256 KiB" in capsys.readouterr().err
    assert launch(["settings", "trusted"]) == 0
    assert ("changed" in capsys.readouterr().out) == is_trusted


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


def test_the_number_of_workers_is_each_commands_own_where_nothing_sets_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text('database = "DB"\n')
    assert load_settings().settings.workers is None
    assert launch(["settings"]) == 0
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["workers"][:2] == ["-", "default"]
    assert "each command's own" in rows["workers"][-1]
    assert launch(["unpicker", "suggest", "--help"]) == 0
    assert "--workers --num-cores" in capsys.readouterr().out


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
