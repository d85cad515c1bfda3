"""The night: ingest, update, gate, promote, and a page; a stage that fails stops no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import learning_projects as small
import pytest
from prefect.deployments.runner import RunnerDeployment

from cryoflow.cluster.deployments import deployments
from cryoflow.cluster.dispatch import StageFailed
from cryoflow.database import Database
from cryoflow.learning.parameters import LearnParameters, UpdateDetectorParameters
from cryoflow.models.registry import ModelRegistry
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.site import Site

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("prefect_server")]


def test_a_night_learns_what_is_new_and_writes_the_page_although_a_stage_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoflow.learning import stage
    from flows.learning import learn

    database = Database(tmp_path / "database")
    small.add_project(database, tmp_path, "A", seed=1)
    (tmp_path / "new").mkdir()
    parameters = LearnParameters(
        roots=(tmp_path / "new",), database=tmp_path / "database", models=tmp_path / "models", unpicker=False
    )
    update = stage.update_detector

    def short(p: UpdateDetectorParameters, **values: Any) -> Any:
        return update(UpdateDetectorParameters(database=p.database, models=p.models, joint_rounds=1, steps=1), **values)

    monkeypatch.setattr(stage, "update_detector", short)
    page = learn(parameters)
    assert "detector@v0001 is in use" in page.read_text()
    current = ModelRegistry(tmp_path / "models").current("detector")
    assert current is not None
    assert [t.project for t in current.card.trained_on] == ["A"]

    with pytest.raises(StageFailed, match="ingest failed"):
        learn(replace(parameters, roots=(tmp_path / "gone",)))
    assert "detector@v0001 is in use" in page.read_text()
    assert "ingest failed" in page.read_text()


def test_it_is_scheduled_with_the_sites_settings_and_off(tmp_path: Path) -> None:
    def learning(site: Site) -> RunnerDeployment:
        offered = deployments(Settings(database=tmp_path / "picks", site=site), ProfileName.LOCAL)
        return next(d for d in offered if d.flow_name == "learn")

    deployment = learning(Site(read_only=(tmp_path / "projects",), models=tmp_path / "models"))
    assert LearnParameters.from_values(deployment.parameters["parameters"]).root == tmp_path / "models"
    assert [(s.schedule.cron, s.active) for s in deployment.schedules or ()] == [("0 3 * * *", False)]
    assert not learning(Site()).schedules
