"""`cryoflow site init`: a valid cryoflow.toml from what sinfo and sacctmgr print."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cryoflow.cli.main import launch
from cryoflow.cluster.site_init import parse_associations, parse_sinfo
from cryoflow.settings.load import load_settings

SINFO = """cpu*|cpu|2-00:00:00|32|192000|(null)|avx512|100
cpu*|cpu|2-00:00:00|64|384000+|(null)|avx512|20
short|short|30:00|8|16000|(null)|(null)|2
gpu|gpu|12:00:00|48|500000|gpu:a100:4(S:0-1)|a100|10
gpu|gpu|12:00:00|48|500000|gpu:h100:8,lscratch:100|h100|4
"""
ACCOUNTS = "cryoem|normal,long|30|12|\nteaching||||\n"
QOS = "normal|9|4|1-00:00:00|cpu=64,gres/gpu=2\nlong||||\nof-others|1|||\n"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("sinfo", SINFO), ("associations", ACCOUNTS), ("qos", QOS)):
        (tmp_path / name).write_text(text)
    (programs / "sinfo").write_text(f"#!/bin/sh\ncat '{tmp_path}/sinfo'\n")
    (programs / "sacctmgr").write_text(f"#!/bin/sh\ncat '{tmp_path}/'$4\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return programs


def test_the_written_settings_are_valid_and_fit_the_cluster(cluster: Path, tmp_path: Path) -> None:
    file = tmp_path / "cryoflow.toml"
    assert launch(["site", "init", "--output", str(file)]) == 0
    site = load_settings(file).settings.site
    large, gpu = site.resource_class("large"), site.resource_class("gpu")
    assert (large.partition, large.cpus, large.memory_gb, large.account) == ("cpu", 16, 64, "cryoem")
    assert (gpu.partition, gpu.gpus, gpu.time_minutes, gpu.warn_seconds) == ("gpu", 1, 720, 300)
    assert site.shards_at_once == 7  # of the 9 jobs that the quality of service lets a user submit
    text = file.read_text()
    assert '# gpu_type = ["a100", "h100"]' in text
    assert "cpu: 120 nodes of 32 CPUs and 187 GB; 2880 minutes, the default" in text
    assert "cryoem (quality of service normal,long): at most 30 jobs submitted, 12 at the same time" in text
    limits = "at most 9 jobs submitted, 4 at the same time, 1440 minutes each, cpu=64,gres/gpu=2 in all"
    assert [line for line in text.splitlines() if line.startswith(("#   normal", "#   long", "#   of-others"))] == [
        f"#   normal: {limits}",
        "#   long",
    ]


def test_a_file_that_is_there_is_left_alone(cluster: Path, tmp_path: Path) -> None:
    file = tmp_path / "cryoflow.toml"
    file.write_text("mine")
    assert launch(["site", "init", "--output", str(file)]) == 2
    assert file.read_text() == "mine"
    assert launch(["site", "init", "--output", str(file), "--overwrite"]) == 0


def test_a_cluster_without_accounting_and_without_gpus_gets_settings_too(cluster: Path, tmp_path: Path) -> None:
    (tmp_path / "sinfo").write_text("debug*|debug|infinite|2|1900|(null)|(null)|3\n")
    (cluster / "sacctmgr").write_text("#!/bin/sh\nexit 1\n")
    file = tmp_path / "cryoflow.toml"
    assert launch(["site", "init", "--output", str(file)]) == 0
    gpu = load_settings(file).settings.site.resource_class("gpu")
    assert (gpu.partition, gpu.gpus, gpu.cpus, gpu.memory_gb, gpu.time_minutes) == ("debug", 0, 2, 1, 720)


def test_a_machine_without_slurm_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch(["site", "init", "--output", str(tmp_path / "x.toml")]) == 1
    assert "examples/sites" in capsys.readouterr().err


def test_lines_that_are_no_rows_are_left_out() -> None:
    assert parse_sinfo("slurm_load_partitions: hello\n") == []
    assert parse_associations("Welcome|x\n") == []
