"""Progress that the viewer reads of a training: from a real Prefect server."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL

from cryoflow.settings.profiles import ProfileName
from cryoflow.view.training import RunProgress, Trainings
from flows.run_page import shown_progress


def test_the_viewer_reads_the_state_and_the_progress_of_a_run(tmp_path: Path) -> None:
    server = str(PREFECT_API_URL.value()).removesuffix("/api")
    trainings = Trainings(tmp_path / "DB", server, ProfileName.LOCAL, tmp_path / "models")
    seen: list[RunProgress] = []

    @flow
    def training() -> str:
        run = str(flow_run.id)
        seen.append(trainings.progress(UUID(run)))
        with shown_progress("training", "steps"):
            seen.append(trainings.progress(UUID(run)))
        return run

    run = training()
    assert seen == [RunProgress("Running", False, None), RunProgress("Running", False, 0.0)]
    assert trainings.progress(UUID(run)) == RunProgress("Completed", True, 100.0)
