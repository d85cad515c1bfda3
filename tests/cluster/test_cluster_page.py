"""What docs/cluster.md tells an administrator to write down is valid, and names what exists."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cryoflow.settings.load import load_settings
from cryoflow.settings.profiles import ProfileName

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_settings_of_the_page_are_settings(tmp_path: Path) -> None:
    from cryoflow.cluster.deployments import STAGES, job_variables

    file = tmp_path / "cryoflow.toml"
    file.write_text("\n".join(blocks("toml")))
    slurm, docker = load_settings(file).settings, load_settings(file, profile="docker").settings
    assert slurm.place == ProfileName.SLURM
    assert slurm.site.resource_class("gpu").gpu_type == "a100"
    for stage in STAGES:
        job_variables(stage, slurm, ProfileName.SLURM)
        job_variables(stage, docker, ProfileName.DOCKER)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
def test_systemd_accepts_the_units_of_the_page(tmp_path: Path) -> None:
    server, worker = (re.sub(r"/opt/cryoflow/src/.venv/bin/\w+", sys.executable, text) for text in blocks("ini"))
    (tmp_path / "cryoflow-server.service").write_text(server)
    (tmp_path / "cryoflow-worker@.service").write_text(worker)
    units = ["cryoflow-server.service", "cryoflow-worker@cryoflow-slurm.service"]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cryoflow-" not in done.stderr  # unknown keys are told, and are no failure


def test_prefect_knows_the_variables_of_the_page() -> None:
    from prefect.settings import Settings as PrefectSettings
    from prefect.settings.legacy import _get_valid_setting_names  # noqa: PLC2701  # Prefect has no public list

    named = set(re.findall(r"^(PREFECT_\w+)=", PAGE, re.MULTILINE))
    assert {"PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING", "PREFECT_API_URL"} <= named
    assert named <= set(_get_valid_setting_names(PrefectSettings))
