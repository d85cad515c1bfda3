"""Tables of stages are on their own pages and on that of the run that started them all."""

from __future__ import annotations

from uuid import UUID

import pytest


@pytest.mark.usefixtures("prefect_server")
def test_tables_of_stages_are_on_the_page_of_the_run_that_started_them() -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
    from prefect.runtime import flow_run

    from flows.run_page import show_table, show_text

    ids: dict[str, str] = {}

    @flow
    def stage() -> None:
        ids["stage"] = flow_run.id
        show_table("labels", [{"a": 1}], "labels: 1 positive")
        show_text("note", "all is well")

    @flow
    def whole() -> None:
        ids["whole"] = flow_run.id
        stage()
        show_table("trace", [{"b": 2.5}], "what it cost")

    whole()
    found = {}
    with get_client(sync_client=True) as client:
        for name, run in ids.items():
            which = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(run)]))
            found[name] = sorted((a.key, a.type) for a in client.read_artifacts(artifact_filter=which))
    assert found["stage"] == [("labels", "table"), ("note", "markdown")]
    assert found["whole"] == [("labels", "table"), ("note", "markdown"), ("trace", "table")]
