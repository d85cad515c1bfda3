"""`cryoflow doctor --image`: each thing that can be wrong with an image is told, with what to do."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import stat
from pathlib import Path
from typing import Any

import pytest

from cryoflow.cli.main import launch
from cryoflow.cluster.images import compare_image, examine_image
from cryoflow.cluster.probe import is_read_only, problem_of, write
from cryoflow.doctor import CheckResult
from cryoflow.settings.load import Settings
from cryoflow.settings.site import Site

HERE = {d.metadata["Name"].lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()}
SOUND: dict[str, Any] = {
    "python": platform.python_version(),
    "user": os.getuid(),
    "versions": {name: HERE[name] for name in ("cryoflow-em", "prefect", "numpy")},
    "imports": {"cryoflow": "", "tensorflow": ""},
    "gpus": [],
    "certificates": 148,
    "read": {"/data/projects": ""},
    "read_only": {"/data/projects": True},
    "write": {"/data/picks": ""},
    "server": {"http://login1:4200/api/health": ""},
}


def judged(*, wants_gpu: bool = False, **changes: Any) -> dict[str, CheckResult]:
    return {finding.check: finding for finding in compare_image(SOUND | changes, wants_gpu=wants_gpu)}


def test_a_sound_image_has_nothing_but_the_gpu_missing() -> None:
    found = judged()
    assert {f.check for f in found.values() if f.status != "ok"} == {"gpu"}
    assert found["gpu"].status == "missing"
    assert judged(gpus=["NVIDIA H200"], wants_gpu=True)["gpu"].status == "ok"


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"imports": {"tensorflow": "ImportError: libcudart"}}, "imports", "tensorflow: ImportError: libcudart"),
        ({"versions": SOUND["versions"] | {"prefect": "3.7.0"}}, "versions", f"prefect 3.7.0 (here {HERE['prefect']})"),
        ({"certificates": 0}, "certificates", "no authorities"),
        ({"read": {"/data/projects": "FileNotFoundError: /data/projects"}}, "/data/projects", "FileNotFoundError"),
        ({"read_only": {"/data/projects": False}}, "/data/projects", "not mounted read-only"),
        ({"write": {"/data/picks": "PermissionError: denied"}}, "/data/picks", "PermissionError: denied"),
        ({"server": {"http://login1:4200/api/health": "URLError: refused"}}, "server", "refused"),
    ],
)
def test_what_is_wrong_with_an_image_is_a_failure_that_says_so(changes: dict[str, Any], check: str, words: str) -> None:
    found = judged(**changes)[check]
    assert found.status == "failed"
    assert words in found.found


def test_another_version_of_a_library_is_a_warning_and_tensorflows_cpu_build_is_tensorflow() -> None:
    found = judged(versions=SOUND["versions"] | {"numpy": "1.0"})["versions"]
    assert found.status == "warning"
    assert found.found == f"numpy 1.0 (here {HERE['numpy']})"
    assert judged(versions={"tensorflow-cpu": HERE["tensorflow"]})["versions"].found.startswith("1 packages as on")


def test_a_gpu_that_the_image_does_not_see_is_told_with_what_to_look_for() -> None:
    found = judged(wants_gpu=True)["gpu"]
    assert found.status == "warning"
    assert "GPU image" in found.hint


def test_the_probe_tells_folders_that_cannot_be_written_to(tmp_path: Path) -> None:
    assert problem_of(lambda: write(str(tmp_path))) == ""
    assert list(tmp_path.iterdir()) == []
    assert "FileNotFoundError" in problem_of(lambda: write(str(tmp_path / "not there")))
    assert not is_read_only(str(tmp_path))


def test_an_image_that_does_not_start_is_a_failure_with_the_programs_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "apptainer"
    program.write_text("#!/bin/sh\necho 'FATAL:   could not open image'\nexit 255\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    (found,) = examine_image(str(tmp_path / "no.sif"), Settings())
    assert (found.check, found.status) == ("start", "failed")
    assert "could not open image" in found.found


def test_a_folder_of_the_site_that_is_not_there_is_told_before_an_image_is_started(tmp_path: Path) -> None:
    settings = Settings(site=Site(read_only=(tmp_path / "gone",)))
    found = next(iter(examine_image(str(tmp_path / "no.sif"), settings)))
    assert (found.check, found.status) == (str(tmp_path / "gone"), "failed")


def test_a_database_that_the_first_ingest_will_make_is_no_missing_folder(tmp_path: Path) -> None:
    def first_check(*, read_write: Path) -> str:
        settings = Settings(database=tmp_path / "results" / "picks", site=Site(read_write=(read_write,)))
        return next(iter(examine_image(str(tmp_path / "no.sif"), settings))).check

    (tmp_path / "results").mkdir()
    (tmp_path / "others").mkdir()
    assert first_check(read_write=tmp_path / "others") == str(tmp_path / "results" / "picks")
    assert first_check(read_write=tmp_path / "results") != str(tmp_path / "results" / "picks")


@pytest.mark.apptainer
def test_the_cpu_image_passes_every_check_with_hostile_folders(
    cpu_image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    projects, results = tmp_path / 'It\'s "P12", 50%: é', tmp_path / "re sults"
    projects.mkdir()
    results.mkdir()
    site = {"read_only": [str(projects)], "read_write": [str(results)], "server": "http://127.0.0.1:1"}
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in site.items()]
    file = tmp_path / "cryoflow.toml"
    file.write_text("\n".join(["[site]", *lines]))
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file))
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/on/this/machine.pem")  # must not leak into the image
    assert launch(["doctor", "--image", str(cpu_image), "--json"]) == 0
    found = {row["check"]: row for row in json.loads(capsys.readouterr().out)}
    assert {check for check, row in found.items() if row["status"] != "ok"} <= {"gpu", "versions"}
    assert found[str(projects)]["found"] == "can be read, and not written to"
    assert found[str(results)]["found"] == "can be written to"
    assert found["versions"]["status"] != "failed"
    assert list(projects.iterdir()) == list(results.iterdir()) == []
