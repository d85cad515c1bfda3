"""What a run's page shows of an expected error and of a report."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from prefect import flow, task

from cryoflow.errors import BadInput
from cryoflow.pickers.parameters import ExportParameters
from flows import run_page


def logged(error: Exception, *names: str, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    caplog.clear()
    for name in names:
        logger = logging.getLogger(name)
        logger.addHandler(caplog.handler)
        try:
            raise error
        except Exception:
            logger.exception("Encountered exception during execution: %r", error)
        finally:
            logger.removeHandler(caplog.handler)
    return [r for r in caplog.records if r.name in names]


@pytest.fixture(autouse=True)
def no_propagation(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)


def test_an_expected_error_is_logged_once_and_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    error = BadInput("/data/P12", "holds no job.")
    (record,) = logged(error, "prefect.task_runs", "prefect.flow_runs", caplog=caplog)
    assert record.getMessage() == "/data/P12: holds no job."
    assert not record.exc_info


def test_a_defect_and_debugging_keep_the_traceback(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(r.exc_info for r in logged(ValueError("x"), "prefect.task_runs", "prefect.flow_runs", caplog=caplog))
    monkeypatch.setenv("CRYOFLOW_DEBUG", "1")
    found = logged(BadInput("/d", "no."), "prefect.task_runs", "prefect.flow_runs", caplog=caplog)
    assert len(found) == 2
    assert all(r.exc_info for r in found)


@pytest.mark.parametrize(
    ("is_deployed", "expected"),
    [
        (True, "Give diameter_A, or overwrite = no; `cryoflow export --box` and its --other program."),
        (False, "Give --diameter, or --no-overwrite; `cryoflow export --box` and its --other program."),
    ],
)
def test_messages_of_a_run_from_a_form_name_its_fields_and_those_of_the_command_line_its_options(
    is_deployed: bool, expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = expected.replace("--other", "other") if is_deployed else expected
    caplog.handler.addFilter(run_page.InWordsOfForm())
    hint = "Give --diameter, or --no-overwrite; `cryoflow export --box` and its --other program."

    @task
    def fail() -> None:
        if is_deployed:
            monkeypatch.setenv("PREFECT__FLOW_RUN_ID", "of a worker")
        run_page.log.info("topaz --no-overwrite")  # what another program prints
        run_page.log.warning(hint)
        raise BadInput("/data/P1", "has no diameter.", hint)

    @flow
    def small(parameters: ExportParameters) -> None:
        fail()

    form = ExportParameters(picker="topaz", database=Path("/db"), output=Path("/out"))
    state = small(form, return_state=True)
    assert str(state.message).endswith(f"/data/P1: has no diameter. {expected}")
    texts = [record.getMessage() for record in caplog.records]
    assert {"topaz --no-overwrite", expected, f"/data/P1: has no diameter. {expected}"} <= set(texts)


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ('{"viewer": "http://login1:4300", "read_write": ["/data"]}', "(http://login1:4300/reports/data/r.html)"),
        ("{}", "`/data/r.html`"),
    ],
)
def test_a_report_is_linked_by_an_address_that_a_browser_opens(
    site: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setenv("CRYOFLOW_SITE", site)
    monkeypatch.setattr(run_page, "show_artifact", lambda *values: shown.append(values))
    run_page.show_link("report", Path("/data/r.html"), "the report")
    assert expected in shown[0][2]
    assert "file://" not in str(shown)


def test_programs_of_a_picker_are_a_setting_of_the_site_that_the_form_overrules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dataclasses import replace

    from cryoflow.pickers.parameters import TrainAndPickParameters
    from cryoflow.pickers.stages import executor_of

    monkeypatch.setenv("CRYOFLOW_SITE", '{"pickers": {"topaz": {"programs": "/opt/topaz/bin"}}}')
    form = TrainAndPickParameters(picker="topaz", database=Path("/d"), output=Path("/o"), to_pick=("*",))
    assert executor_of(form).programs == Path("/opt/topaz/bin")
    by_hand = replace(form, container="apptainer", image="/t.sif")
    assert (executor_of(by_hand).programs, executor_of(by_hand).image) == (None, "/t.sif")
    assert executor_of(replace(form, picker="epicker")).programs is None
