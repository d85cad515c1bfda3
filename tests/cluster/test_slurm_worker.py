"""The worker against a Prefect server and a SLURM that is a folder: no run is lost, none is run twice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from fake_rest import fake_rest
from slurm_folder import VIOLATES, FakeSlurm

pytestmark = pytest.mark.usefixtures("prefect_server", "quick")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYOFLOW_SLURM_POLL_SECONDS", "0.2")
    monkeypatch.setenv("CRYOFLOW_SITE", '{"lost_after_seconds": 1.5, "attempts": 1}')
    monkeypatch.setattr("cryoflow.cluster.submission.LIMIT_PAUSE_S", 0.2)
    monkeypatch.setattr("cryoflow.cluster.slurm_worker.RECOVER_EVERY_S", 0.4)
    monkeypatch.setattr("cryoflow.cluster.slurm_worker.API_PATIENCE_S", 0.1)


class Site:
    """One pool with one deployment, and what tests do to its runs."""

    def __init__(self, client: Any, folder: Path) -> None:
        self.client = client
        self.pool = f"pool-{uuid.uuid4()}"
        self.folder = folder
        self.deployment_id: uuid.UUID | None = None

    async def make(self) -> None:
        from prefect import flow
        from prefect.client.schemas.actions import WorkPoolCreate

        from cryoflow.cluster.slurm_worker import SlurmWorker

        template = SlurmWorker.get_default_base_job_template()
        template["variables"]["properties"]["log_folder"]["default"] = str(self.folder / "lo gs")
        await self.client.create_work_pool(
            WorkPoolCreate(name=self.pool, type="cryoflow-slurm", base_job_template=template)
        )

        @flow(name=f"stage-{self.pool}", validate_parameters=False)
        def stage(parameters: Any = None) -> None: ...

        flow_id = await self.client.create_flow(stage)
        self.deployment_id = await self.client.create_deployment(flow_id, "d", work_pool_name=self.pool)

    @contextlib.asynccontextmanager
    async def worker(self, **options: Any) -> AsyncIterator[Any]:
        """A started worker, killed at the end: nothing of it gets a chance to tidy up."""
        from cryoflow.cluster.slurm_worker import SlurmWorker

        worker = SlurmWorker(work_pool_name=self.pool, name="w", **options)
        with mock.patch("prefect.workers.base.PREFECT_WORKER_QUERY_SECONDS") as query:
            query.value.return_value = 0.3
            task = asyncio.create_task(worker.start(printer=lambda *_: None))
            try:
                yield worker
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def new_run(self, **variables: Any) -> uuid.UUID:
        run = await self.client.create_flow_run_from_deployment(self.deployment_id, job_variables=variables)
        return uuid.UUID(str(run.id))

    async def until(self, run_id: uuid.UUID, condition: Callable[[Any], bool]) -> Any:
        for _ in range(1200):
            run = await self.client.read_flow_run(run_id)
            if condition(run):
                return run
            await asyncio.sleep(0.15)
        raise AssertionError(f"waited too long; the run is {run.state!r}, labels {run.labels}")

    async def log_of(self, run_id: uuid.UUID, text: str) -> str:
        from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

        only = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run_id]))
        for _ in range(1200):
            lines = "\n".join(log.message for log in await self.client.read_logs(only, limit=200, offset=0))
            if text in lines:
                return lines
            await asyncio.sleep(0.1)
        raise AssertionError(f"{text!r} did not reach the server; there is: {lines}")


Scene = Callable[[Site, FakeSlurm], Awaitable[None]]


@pytest.fixture
def play(fake_slurm: FakeSlurm, tmp_path: Path) -> Callable[[Scene], None]:
    """Play a scene: an async function of a site and its SLURM."""
    from prefect.client.orchestration import get_client

    async def whole(scene: Scene) -> None:
        async with get_client() as client:
            site = Site(client, tmp_path)
            await site.make()
            await scene(site, fake_slurm)

    return lambda scene: asyncio.run(whole(scene))


def queued(run: Any) -> bool:
    return bool(run.state.name == "Queued" and run.infrastructure_pid and run.labels.get("slurm.job"))


def ended(run: Any) -> bool:
    return bool(run.labels.get("slurm.end"))


async def running(site: Site, slurm: FakeSlurm, run: Any) -> None:
    """What the engine in the job does when it starts."""
    from prefect.states import Running

    slurm.set(int(run.infrastructure_pid), state="RUNNING", reason="None")
    await site.client.set_flow_run_state(run.id, Running())


def test_one_run_is_one_job_whose_number_and_log_are_with_the_run(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Completed

        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            assert slurm.numbers() == [int(run.infrastructure_pid)]
            assert slurm.job(100)["comment"] == f"cryoflow:{run.id}"
            assert slurm.job(100)["env"] == {"PREFECT__FLOW_RUN_ID": str(run.id)}
            assert run.labels["slurm.job"] == "100"
            assert run.labels["slurm.log"] == slurm.job(100)["output"]
            await running(site, slurm, run)
            await site.client.set_flow_run_state(run.id, Completed())
            slurm.set(100, state="COMPLETED")
            run = await site.until(run.id, ended)
        assert run.state.name == "Completed"
        assert run.labels["slurm.end"] == "done"

    play(scene)


@pytest.mark.parametrize(
    ("job", "reason", "end"),
    [
        ({"state": "FAILED", "exit": "0:9"}, "ended OUT_OF_MEMORY on node1 after 0:01:01", "memory"),
        ({"state": "TIMEOUT", "exit": "0:15"}, "ended TIMEOUT", "time"),
        ({"state": "NODE_FAIL"}, "ended NODE_FAIL", "node"),
        ({"state": "CANCELLED"}, "ended CANCELLED", "cancelled"),
        ({"state": "FAILED", "exit": "143:0"}, "The node failed or was taken away", "node"),
        ({"state": "FAILED", "exit": "137:0"}, "ended OUT_OF_MEMORY", "memory"),
        ({"state": "FAILED", "exit": "75:0"}, "server did not answer the node", "server"),
        ({"state": "FAILED", "exit": "127:0"}, "exit code 127", "done"),
    ],
)
def test_a_job_that_died_crashes_its_run_with_slurms_reason_and_the_end_of_its_log(
    play: Callable[[Scene], None], job: dict[str, str], reason: str, end: str
) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            await running(site, slurm, run)
            Path(str(slurm.job(100)["output"])).write_text("slurmstepd: error: the last words\n")
            slurm.set(100, **job)
            run = await site.until(run.id, ended)
            assert run.state.type == "CRASHED"
            assert reason in run.state.message
            assert run.labels["slurm.end"] == end
            assert "the last words" in await site.log_of(run.id, "the last words")

    play(scene)


def test_a_crash_that_the_engine_reported_without_a_reason_gets_slurms(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Crashed

        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            await running(site, slurm, run)
            await site.client.set_flow_run_state(run.id, Crashed(message="a termination signal"))
            slurm.set(100, state="TIMEOUT", exit="0:15")
            run = await site.until(run.id, ended)
            assert "ended TIMEOUT" in run.state.message

    play(scene)


def test_a_flow_that_failed_by_itself_stays_failed(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Failed

        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            await running(site, slurm, run)
            await site.client.set_flow_run_state(run.id, Failed(message="BadInput: no picks"))
            slurm.set(100, state="FAILED", exit="1:0")
            await site.until(run.id, ended)
            await asyncio.sleep(0.5)
            run = await site.client.read_flow_run(run.id)
            assert (run.state.name, run.state.message) == ("Failed", "BadInput: no picks")

    play(scene)


def test_a_server_that_fails_while_the_job_is_noted_is_told_later(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        import httpx
        from prefect.client.orchestration import PrefectClient

        set_labels, update = PrefectClient.update_flow_run_labels, PrefectClient.update_flow_run
        failures = {"labels": 0, "number": 0}

        def fails_twice(what: str) -> None:
            if failures[what] < 2:
                failures[what] += 1
                raise httpx.ReadTimeout("the database is busy")

        async def labels_fail(client: Any, run_id: uuid.UUID, labels: dict[str, str]) -> None:
            if "slurm.job" in labels:
                fails_twice("labels")
            await set_labels(client, run_id, labels)

        async def number_fails(client: Any, run_id: uuid.UUID, **values: Any) -> Any:
            if "infrastructure_pid" in values:
                fails_twice("number")
            return await update(client, run_id, **values)

        with (
            mock.patch.object(PrefectClient, "update_flow_run_labels", labels_fail),
            mock.patch.object(PrefectClient, "update_flow_run", number_fails),
        ):
            async with site.worker():
                run = await site.until(await site.new_run(), queued)
        assert failures == {"labels": 2, "number": 2}
        assert (run.labels["slurm.job"], run.infrastructure_pid) == ("100", "100")

    play(scene)


def test_a_worker_that_died_before_it_noted_the_log_leaves_that_to_the_next(play: Callable[[Scene], None]) -> None:
    """Without the log's name, no crash shows the end of the log, and a member of a pack is not cancelled alone."""

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        import httpx
        from prefect.client.orchestration import PrefectClient

        set_labels = PrefectClient.update_flow_run_labels

        async def fails(client: Any, run_id: uuid.UUID, labels: dict[str, str]) -> None:
            if "slurm.log" in labels:
                raise httpx.ReadTimeout("the database is busy")
            await set_labels(client, run_id, labels)

        with mock.patch.object(PrefectClient, "update_flow_run_labels", fails):
            async with site.worker():
                run = await site.until(await site.new_run(), lambda run: run.infrastructure_pid)
        async with site.worker():
            run = await site.until(run.id, queued)
        assert run.labels["slurm.log"] == slurm.job(100)["output"]

    play(scene)


@pytest.mark.parametrize("is_running", [False, True])
def test_cancelling_a_run_ends_its_job_queued_or_running(play: Callable[[Scene], None], is_running: bool) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling, Crashed

        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            if is_running:
                await running(site, slurm, run)
                slurm.flag("lingers")
            await site.client.set_flow_run_state(run.id, Cancelling())
            if is_running:  # the engine hears SIGTERM and says so, before its job leaves the queue
                while not slurm.calls("scancel"):
                    await asyncio.sleep(0.1)
                await site.client.set_flow_run_state(run.id, Crashed(message="a termination signal"), force=True)
                slurm.set(100, state="CANCELLED", exit="0:15")
            run = await site.until(run.id, lambda run: run.state.name == "Cancelled")
            assert slurm.job(100)["state"] == "CANCELLED"
            assert run.labels["slurm.end"] == "cancelled"

    play(scene)


def test_the_end_of_a_cancelled_job_is_looked_for_more_often(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_SLURM_POLL_SECONDS", "60")
    monkeypatch.setattr("cryoflow.cluster.slurm_worker.QUIET_S", 100.0)  # the site allows calls between these
    monkeypatch.setattr("cryoflow.cluster.slurm_worker.QUICK_POLL_S", 0.2)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling

        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            slurm.flag("lingers")
            await site.client.set_flow_run_state(run.id, Cancelling())
            while not slurm.calls("scancel"):
                await asyncio.sleep(0.1)
            slurm.set(100, state="CANCELLED", exit="0:15")
            start = time.monotonic()
            await site.until(run.id, lambda run: run.state.name == "Cancelled")
            assert time.monotonic() - start < 30  # the next poll at the site's interval comes after 60 s

    play(scene)


@pytest.mark.parametrize("is_another_users", [False, True])
def test_a_cancelled_run_whose_job_slurm_has_forgotten_holds_up_no_other(
    play: Callable[[Scene], None], is_another_users: bool
) -> None:
    """As when a worker was away for longer than SLURM remembers a job: scancel then fails for it.

    Its number may even have been given to a job of somebody else.
    """

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling

        if is_another_users:
            slurm.flag("denied")
        async with site.worker():
            forgotten, other = [await site.until(await site.new_run(), queued) for _ in range(2)]
        slurm.set(int(forgotten.infrastructure_pid), state="COMPLETED", purged=True)
        await site.client.set_flow_run_state(forgotten.id, Cancelling())
        async with site.worker():
            slurm.set(int(other.infrastructure_pid), state="NODE_FAIL")
            assert (await site.until(other.id, ended)).labels["slurm.end"] == "node"
            await site.until(forgotten.id, lambda run: run.state.name == "Cancelled")
        assert slurm.calls("scancel")

    play(scene)


def test_runs_that_are_cancelled_at_once_are_ended_by_one_scancel(play: Callable[[Scene], None]) -> None:
    """One call for each of a hundred would take minutes at a site whose controller is busy."""

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling, Running

        runs = []
        for number in range(100, 120):
            run = await site.client.create_flow_run_from_deployment(site.deployment_id, state=Running())
            await site.client.update_flow_run(run.id, infrastructure_pid=str(number))
            await site.client.set_flow_run_state(run.id, Cancelling())
            slurm.set(number, state="RUNNING", comment=f"cryoflow:{run.id}")
            runs.append(run)
        async with site.worker():
            for run in runs:
                await site.until(run.id, lambda run: run.state.name == "Cancelled")
        assert set(slurm.calls("scancel")[0].split()[1:]) >= {str(number) for number in slurm.numbers()}
        assert {slurm.job(number)["state"] for number in slurm.numbers()} == {"CANCELLED"}

    play(scene)


def test_a_job_that_sbatch_refuses_crashes_its_run_in_sbatchs_words(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        slurm.flag("next-sbatch", "Requested partition configuration not available now")
        async with site.worker():
            run = await site.until(await site.new_run(partition="nowhere"), lambda run: run.state.is_final())
            assert run.state.name == "Crashed"
            assert "Requested partition configuration" in run.state.message
        assert len(slurm.calls("sbatch")) == 1

    play(scene)


@pytest.mark.parametrize("answer", ["Socket timed out", "submitted: Socket timed out"])
def test_a_lost_answer_of_sbatch_makes_neither_two_jobs_nor_none(play: Callable[[Scene], None], answer: str) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        slurm.flag("next-sbatch", answer)
        async with site.worker():
            run = await site.until(await site.new_run(), queued)
        assert slurm.numbers() == [100]
        assert run.infrastructure_pid == "100"

    play(scene)


def templates() -> dict[str, Any]:
    """The stand-ins as a scheduler that is described by templates; its queue shows numbers and states alone."""
    return {
        "script": "#SBATCH --output={log}",
        "submit": "sbatch {script}",
        "job_id": r"(\d+)\s*$",
        "status": "squeue --user={user}",
        "status_line": r"^(?P<id>\d+)\|(?P<state>[A-Z]+)\|",
        "states": {"PENDING": "pending", "RUNNING": "running"},
        "cancel": "scancel {job_ids}",
    }


def use_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    site = {"lost_after_seconds": 1.5, "attempts": 1, "scheduler": templates()}
    monkeypatch.setenv("CRYOFLOW_SITE", json.dumps(site))


def test_jobs_of_another_scheduler_are_found_by_the_next_worker_cancelled_and_waited_for(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_templates(monkeypatch)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling, Completed

        async with site.worker():
            runs = [await site.until(await site.new_run(), queued) for _ in range(2)]
        async with site.worker() as worker:
            while len(worker.attended) < 2:
                await asyncio.sleep(0.1)
            await running(site, slurm, runs[0])
            await site.client.set_flow_run_state(runs[0].id, Completed())
            slurm.set(int(runs[0].infrastructure_pid), state="COMPLETED")
            assert (await site.until(runs[0].id, ended)).state.name == "Completed"
            await site.client.set_flow_run_state(runs[1].id, Cancelling())
            await site.until(runs[1].id, lambda run: run.state.name == "Cancelled")
        assert slurm.job(int(runs[1].infrastructure_pid))["state"] == "CANCELLED"
        assert slurm.numbers() == [100, 101]

    play(scene)


@pytest.mark.parametrize("scheduler", ["templates", "SLURM without comments"])
def test_a_lost_answer_makes_no_second_job_where_the_queue_does_not_show_whose_job_is_whose(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch, scheduler: str
) -> None:
    if scheduler == "templates":
        use_templates(monkeypatch)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Completed, Running

        slurm.flag("next-sbatch", "submitted: Socket timed out")
        async with site.worker():
            variables = {} if scheduler == "templates" else {"leave_out": ["comment"]}
            run = await site.until(await site.new_run(**variables), lambda run: run.state.is_final())
            assert run.state.name == "Crashed"
            assert "may have been submitted" in run.state.message
            # the job starts all the same: its log tells its number, and the worker waits for it
            slurm.set(100, state="RUNNING")
            Path(str(slurm.job(100)["output"])).write_text("cryoflow: job 100 on node1, now\n")
            await site.client.set_flow_run_state(run.id, Running())
            await site.until(run.id, lambda run: run.infrastructure_pid == "100")
            await site.client.set_flow_run_state(run.id, Completed())
            slurm.set(100, state="COMPLETED")
            assert (await site.until(run.id, ended)).state.name == "Completed"
        assert slurm.numbers() == [100]

    play(scene)


def test_a_worker_that_died_while_it_submitted_makes_no_second_job_either(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_templates(monkeypatch)
    monkeypatch.setattr("cryoflow.cluster.recovery.GRACE_S", 0.5)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Pending

        run_id = await site.new_run()
        await site.client.set_flow_run_state(run_id, Pending())
        (tmp_path / "lo gs").mkdir()
        (tmp_path / "lo gs" / f"x.{run_id}.sbatch").touch()
        async with site.worker():
            run = await site.until(run_id, lambda run: run.state.is_final())
        assert run.state.name == "Crashed"
        assert "may have been submitted" in run.state.message
        assert slurm.numbers() == []

    play(scene)


def test_a_refused_submission_is_made_again_where_the_queue_does_not_show_whose_job_is_whose(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the next worker, where the first died while it waited for a limit to pass."""
    use_templates(monkeypatch)
    monkeypatch.setattr("cryoflow.cluster.recovery.GRACE_S", 0.5)
    monkeypatch.setattr("cryoflow.cluster.submission.LIMIT_PAUSE_S", 600)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        slurm.flag("next-sbatch", f"AssocMaxSubmitJobLimit\n{VIOLATES}")
        async with site.worker():
            run_id = await site.new_run()
            await site.log_of(run_id, "accepts no more jobs")
        async with site.worker():
            run = await site.until(run_id, queued)
        assert (slurm.numbers(), run.infrastructure_pid) == ([100], "100")

    play(scene)


def test_a_submission_that_never_reached_slurm_is_made_again_where_the_queue_does_not_show_whose_job_is_whose(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_templates(monkeypatch)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        slurm.flag("next-sbatch", "Unable to contact slurm controller (connect failure)")
        async with site.worker():
            run = await site.until(await site.new_run(), queued)
        assert (slurm.numbers(), run.infrastructure_pid, len(slurm.calls("sbatch"))) == ([100], "100", 2)

    play(scene)


def test_a_run_whose_variables_fit_no_form_is_told_and_holds_up_no_cancelling(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an upgrade that refuses what it took before."""
    monkeypatch.setattr("cryoflow.cluster.recovery.GRACE_S", 0.5)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling, Pending

        broken, cancelled = [await site.new_run(extra_directives=["--clusters=a"]) for _ in range(2)]
        for run_id in (broken, cancelled):
            await site.client.set_flow_run_state(run_id, Pending())
        async with site.worker():
            run = await site.until(broken, lambda run: run.state.is_final())
            assert (run.state.name, "--clusters" in run.state.message) == ("Crashed", True)
            await site.client.set_flow_run_state(cancelled, Cancelling(), force=True)
            good = await site.until(await site.new_run(), queued)
            await site.client.set_flow_run_state(good.id, Cancelling())
            await site.until(good.id, lambda run: run.state.name == "Cancelled")
            await site.until(cancelled, lambda run: run.state.is_final())
        assert slurm.job(100)["state"] == "CANCELLED"

    play(scene)


@pytest.mark.parametrize("limit", ["AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit"])
def test_a_submit_limit_is_waited_for(play: Callable[[Scene], None], limit: str) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Completed

        slurm.flag("limit", "2")
        slurm.flag("refusal", f"{limit}\n{VIOLATES}")
        async with site.worker():
            ids = [await site.new_run() for _ in range(6)]
            while len(slurm.numbers()) < 2:
                await asyncio.sleep(0.1)
            for run_id in ids:
                await site.until(run_id, lambda run: run.state is not None and run.state.name == "Queued")
            assert len(slurm.numbers()) == 2
            done: set[uuid.UUID] = set()
            while len(done) < len(ids):
                for run_id in set(ids) - done:
                    run = await site.client.read_flow_run(run_id)
                    if queued(run):
                        await site.client.set_flow_run_state(run_id, Completed())
                        slurm.set(int(run.infrastructure_pid), state="COMPLETED")
                        assert (await site.until(run_id, ended)).state.name == "Completed"
                        done.add(run_id)
                await asyncio.sleep(0.1)
        assert len(slurm.numbers()) == 6

    play(scene)


def test_a_limit_that_no_waiting_changes_crashes_the_run(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        slurm.flag("next-sbatch", f"QOSMaxWallDurationPerJobLimit\n{VIOLATES}")
        async with site.worker():
            run = await site.until(await site.new_run(), lambda run: run.state.is_final())
        assert run.state.name == "Crashed"
        assert "QOSMaxWallDurationPerJobLimit" in run.state.message
        assert len(slurm.calls("sbatch")) == 1

    play(scene)


def test_a_run_that_is_cancelled_while_it_waits_for_a_submit_limit_gets_no_job(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling

        slurm.flag("limit", "0")
        slurm.flag("refusal", f"AssocMaxSubmitJobLimit\n{VIOLATES}")
        async with site.worker():
            run_id = await site.new_run()
            await site.log_of(run_id, "accepts no more jobs")
            await site.client.set_flow_run_state(run_id, Cancelling())
            run = await site.until(run_id, lambda run: run.state.is_final())
            assert run.state.name == "Cancelled"
        assert slurm.numbers() == []

    play(scene)


def test_a_misspelt_job_variable_is_refused_by_name(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            run = await site.until(await site.new_run(memry_gb=64), lambda run: run.state.is_final())
        assert "'memry_gb'" in run.state.message
        assert "memory_gb?" in run.state.message
        assert slurm.numbers() == []

    play(scene)


@pytest.mark.parametrize(
    ("folder", "problem"), [("a file/logs", "Not a directory"), ("logs", "No space left on device")]
)
def test_a_job_script_that_cannot_be_written_crashes_its_run_and_names_the_file(
    play: Callable[[Scene], None], tmp_path: Path, folder: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").touch()
    if folder == "logs":

        def full(path: Path, _text: str) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

        monkeypatch.setattr("cryoflow.cluster.submission.write_atomically", full)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            run = await site.until(
                await site.new_run(log_folder=str(tmp_path / folder)), lambda run: run.state.is_final()
            )
        assert run.state.name == "Crashed"
        assert problem in run.state.message
        assert str(tmp_path / folder) in run.state.message
        assert slurm.numbers() == []

    play(scene)


def test_a_run_started_by_hand_is_retried_with_more_on_another_node_and_preemption_does_not_count(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_SITE", '{"attempts": 3}')

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Completed

        deaths: list[dict[str, str]] = [
            {"state": "PREEMPTED"}, {"state": "OUT_OF_MEMORY"}, {"state": "PREEMPTED"}, {"state": "NODE_FAIL"},
        ]  # fmt: skip
        async with site.worker():
            run_id = await site.new_run()
            for number, death in enumerate(deaths, 100):
                run = await site.until(run_id, lambda run, n=number: run.infrastructure_pid == str(n) and queued(run))
                await running(site, slurm, run)
                slurm.set(number, **death)
            run = await site.until(run_id, lambda run: run.infrastructure_pid == "104" and queued(run))
            assert run.job_variables == {"memory_factor": 2.0, "exclude_nodes": ["node1"]}
            text = Path(str(slurm.job(104)["output"])).with_suffix(".sbatch").read_text()
            assert "--mem=8192M" in text
            assert "--exclude=node1" in text
            await running(site, slurm, run)
            await site.client.set_flow_run_state(run.id, Completed())
            slurm.set(104, state="COMPLETED")
            await site.until(run_id, ended)

    play(scene)


def test_attempts_of_a_run_started_by_hand_come_to_an_end(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_SITE", '{"attempts": 2}')

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            run_id = await site.new_run()
            for number in (100, 101):
                run = await site.until(run_id, lambda run, n=number: run.infrastructure_pid == str(n) and queued(run))
                await running(site, slurm, run)
                slurm.set(number, state="TIMEOUT")
            run = await site.until(run_id, lambda run: run.state.is_final())
        assert "ended TIMEOUT" in run.state.message
        assert len(slurm.numbers()) == 2

    play(scene)


def test_a_node_is_allowed_again_where_no_other_can_run_the_job(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        slurm.flag("next-sbatch", "Batch job submission failed: Requested node configuration is not available")
        async with site.worker():
            run = await site.until(await site.new_run(exclude_nodes=["gpu1"]), queued)
        text = Path(str(run.labels["slurm.log"])).with_suffix(".sbatch").read_text()
        assert "--exclude" not in text

    play(scene)


def test_a_site_that_forbids_frequent_polling_gets_no_second_squeue_within_its_interval(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_SLURM_POLL_SECONDS", "30")
    monkeypatch.setattr("cryoflow.cluster.slurm_worker.CANCEL_EVERY_S", 0.2)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling

        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            await site.client.set_flow_run_state(run.id, Cancelling())
            while not slurm.calls("scancel"):  # noticed at once all the same
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            assert len(slurm.calls("squeue")) <= 1

    play(scene)


def test_a_silent_controller_crashes_nothing(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            slurm.flag("silent")
            await asyncio.sleep(1)
            assert (await site.client.read_flow_run(run.id)).state.name == "Queued"
            slurm.unflag("silent")
            slurm.set(100, state="NODE_FAIL")
            assert (await site.until(run.id, ended)).labels["slurm.end"] == "node"

    play(scene)


def test_a_job_that_slurm_forgot_ends_its_run_after_some_patience(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            run = await site.until(await site.new_run(), queued)
            slurm.set(100, state="COMPLETED", purged=True)
            run = await site.until(run.id, ended)
        assert run.labels["slurm.end"] == "lost"
        assert run.state.name == "Crashed"

    play(scene)


def test_a_path_that_the_image_will_not_see_is_told_before_the_job_starts(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        image = {"image": "/i.sif", "read_only": ["/data"], "read_write": ["/picks"]}
        async with site.worker():
            run = await site.client.create_flow_run_from_deployment(
                site.deployment_id,
                parameters={"parameters": {"roots": ["/data/P12"], "database": "/home/ann/new picks"}},
                job_variables=image,
            )
            said = await site.log_of(run.id, "may not see")
        assert "may not see /home/ann/new picks: " in said

    play(scene)


def test_many_jobs_cost_one_squeue_a_round(play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker() as worker:
            for _ in range(4):
                await site.new_run()
            while len(worker.poller) < 4:
                await asyncio.sleep(0.15)
            looks = 0
            original = worker.poller.poll

            async def counted() -> None:
                nonlocal looks
                looks += 1
                await original()

            worker.poller.poll = counted
            before = len(slurm.calls("squeue"))
            while looks < 3:
                await asyncio.sleep(0.1)
            assert looks - 1 <= len(slurm.calls("squeue")) - before <= looks + 1

    play(scene)


def test_a_killed_worker_finds_its_jobs_again(play: Callable[[Scene], None]) -> None:
    """One runs on, one ended meanwhile, one number was never written down, one crashed without a reason."""

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Crashed

        async with site.worker():
            ids = [await site.new_run() for _ in range(4)]
            runs = [await site.until(i, queued) for i in ids]
            for run in runs:
                await running(site, slurm, run)
        jobs = [int(run.infrastructure_pid) for run in runs]
        slurm.set(jobs[1], state="TIMEOUT", exit="0:15")
        await site.client._client.patch(f"/flow_runs/{ids[2]}", json={"infrastructure_pid": None})
        await site.client.set_flow_run_state(ids[3], Crashed(message="a termination signal"))
        slurm.set(jobs[3], state="OUT_OF_MEMORY", exit="0:125")
        async with site.worker():
            assert "ended TIMEOUT" in (await site.until(ids[1], ended)).state.message
            assert "ended OUT_OF_MEMORY" in (await site.until(ids[3], ended)).state.message
            await site.until(ids[2], lambda run: run.infrastructure_pid == str(jobs[2]))
            for i in (0, 2):
                slurm.set(jobs[i], state="NODE_FAIL")
                assert "NODE_FAIL" in (await site.until(ids[i], ended)).state.message
        assert len(slurm.numbers()) == 4

    play(scene)


def test_a_run_whose_worker_died_before_it_had_a_job_starts_anew_and_a_young_one_is_left_alone(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Pending

        run_id = await site.new_run()
        await site.client.set_flow_run_state(run_id, Pending())
        async with site.worker():
            await asyncio.sleep(1)
            assert slurm.numbers() == []
            monkeypatch.setattr("cryoflow.cluster.recovery.GRACE_S", 0.5)
            run = await site.until(run_id, queued)
            assert slurm.numbers() == [int(run.infrastructure_pid)]

    play(scene)


def test_a_run_that_ended_while_the_server_listed_the_runs_is_not_taken_for_lost(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy server takes seconds; to conclude a run twice would undo what came after its end."""
    from prefect.states import Completed

    from cryoflow.cluster import recovery

    monkeypatch.setattr("cryoflow.cluster.slurm_worker.RECOVER_EVERY_S", 600)  # the worker's own search would wait, too

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker() as worker:
            run = await site.until(await site.new_run(), queued)
            await running(site, slurm, run)
            read = recovery.runs_in

            async def slow(*arguments: Any) -> Any:
                found = await read(*arguments)
                await site.client.set_flow_run_state(run.id, Completed())
                slurm.set(100, state="COMPLETED")
                while run.id in worker.attended:
                    await asyncio.sleep(0.1)
                return found

            monkeypatch.setattr("cryoflow.cluster.recovery.runs_in", slow)
            await asyncio.wait_for(worker.recovery.find_lost_runs(first=False), 60)
            assert run.id not in worker.attended

    play(scene)


def test_a_run_that_was_cancelled_while_sbatch_was_at_work_leaves_no_job(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.states import Cancelled

    from cryoflow.execution.slurm import Scheduler

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        loop = asyncio.get_running_loop()
        original = Scheduler.submit

        def slow(self: Scheduler, script: Path, environment: Any) -> int:
            run_id = uuid.UUID(script.name.split(".")[1])
            cancelled = site.client.set_flow_run_state(run_id, Cancelled(), force=True)
            asyncio.run_coroutine_threadsafe(cancelled, loop).result()
            return original(self, script, environment)

        monkeypatch.setattr(Scheduler, "submit", slow)
        async with site.worker():
            run = await site.until(await site.new_run(), ended)
        assert slurm.job(100)["state"] == "CANCELLED"
        assert run.state.name == "Cancelled"

    play(scene)


def test_sigterm_stops_the_worker_and_leaves_its_jobs(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from cryoflow.cluster.slurm_worker import SlurmWorker

        worker = SlurmWorker(work_pool_name=site.pool)
        with mock.patch("prefect.workers.base.PREFECT_WORKER_QUERY_SECONDS") as query:
            query.value.return_value = 0.3
            task = asyncio.create_task(worker.start(printer=lambda *_: None))
            run = await site.until(await site.new_run(), queued)
            os.kill(os.getpid(), signal.SIGTERM)
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(task, 60)
        assert slurm.job(100)["state"] == "PENDING"
        assert (await site.client.read_flow_run(run.id)).state.name == "Queued"

    play(scene)


def test_the_underscored_hooks_of_prefect_that_the_worker_leans_on_are_there(play: Callable[[Scene], None]) -> None:
    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.workers.base import BaseWorker

        methods = ("_initialize_after_sync", "_cancel_run", "_mark_flow_run_as_cancelled")
        assert all(callable(vars(BaseWorker).get(name)) for name in methods)
        async with site.worker() as worker:
            names = ("_runs_task_group", "_submitting_flow_run_ids", "_work_pool", "_work_pool_name", "_logger")
            assert all(name in vars(worker) for name in names)

    play(scene)


def test_prefect_finds_the_worker_by_its_type() -> None:
    from prefect.workers.base import BaseWorker

    from cryoflow.cluster.slurm_worker import SlurmWorker

    assert BaseWorker.get_worker_class_from_type("cryoflow-slurm") is SlurmWorker


def test_a_number_in_a_log_is_that_of_the_last_job(tmp_path: Path) -> None:
    from cryoflow.cluster.recovery import job_in_log

    log = tmp_path / "x.log"
    assert job_in_log(log) is None
    log.write_text("cryoflow: SLURM job 7 on cpu1, now\ncryoflow: no\ncryoflow: SLURM job 12 on cpu2, later\n")
    assert job_in_log(log) == 12


def test_members_of_a_pack_share_a_job_and_have_ends_of_their_own(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoflow.cluster.packs.GATHER_S", 300.0)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        from prefect.states import Cancelling, Completed

        def log(run: Any) -> Path:
            return Path(str(run.labels["slurm.log"]))

        async with site.worker():
            ids = [await site.new_run(pack=4) for _ in range(4)]
            runs = [await site.until(run_id, queued) for run_id in ids]
            assert slurm.numbers() == [100]
            assert [run.infrastructure_pid for run in runs] == ["100"] * 4
            for run in runs:
                await running(site, slurm, run)
            # one ends well, one is killed for memory, one is cancelled: the job goes on with the fourth
            await site.client.set_flow_run_state(ids[0], Completed())
            log(runs[0]).with_suffix(".end").write_text("0 node1 3\n")
            log(runs[1]).with_suffix(".end").write_text("137 node1 3\n")
            await site.client.set_flow_run_state(ids[2], Cancelling())
            assert (await site.until(ids[0], ended)).labels["slurm.end"] == "done"
            killed = await site.until(ids[1], ended)
            assert (killed.labels["slurm.end"], killed.state.name) == ("memory", "Crashed")
            while not log(runs[2]).with_suffix(".cancel").exists():
                await asyncio.sleep(0.1)
            log(runs[2]).with_suffix(".end").write_text("143 node1 3\n")
            await site.until(ids[2], lambda run: run.state.name == "Cancelled")
        async with site.worker():  # another worker finds the member that is left
            assert slurm.job(100)["state"] == "RUNNING"
            assert not slurm.calls("scancel")
            await site.client.set_flow_run_state(ids[3], Cancelling())  # the last one takes the job along
            await site.until(ids[3], lambda run: run.state.name == "Cancelled")
            assert slurm.job(100)["state"] == "CANCELLED"

    play(scene)


def test_a_member_of_a_pack_that_was_killed_for_memory_is_tried_again_with_more_and_no_other(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRYOFLOW_SITE", '{"attempts": 3}')
    monkeypatch.setattr("cryoflow.cluster.packs.GATHER_S", 300.0)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            runs = [await site.until(i, queued) for i in [await site.new_run(pack=2) for _ in range(2)]]
            for run in runs:
                await running(site, slurm, run)
            monkeypatch.setattr("cryoflow.cluster.packs.GATHER_S", 0.3)
            Path(str(runs[0].labels["slurm.log"])).with_suffix(".end").write_text("137 node1 3\n")
            again = await site.until(runs[0].id, lambda run: run.infrastructure_pid == "101" and queued(run))
            other = await site.client.read_flow_run(runs[1].id)
        assert again.job_variables == {"pack": 2, "memory_factor": 2.0}
        assert (other.state.name, other.infrastructure_pid, other.job_variables) == ("Running", "100", {"pack": 2})
        assert "--mem=8192M" in Path(str(slurm.job(101)["output"])).with_suffix(".sbatch").read_text()
        assert slurm.job(100)["state"] == "RUNNING"

    play(scene)


def test_a_run_goes_to_its_end_over_slurmrestd(play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_rest() as rest:
        monkeypatch.setenv("CRYOFLOW_SITE", json.dumps({"slurmrestd": rest.address, "lost_after_seconds": 1.5}))

        async def scene(site: Site, slurm: FakeSlurm) -> None:
            from prefect.states import Completed, Running

            rest.answers["POST", "/slurm/v0.0.38/job/submit"] = (200, {"errors": [], "job_id": 7})
            rest.jobs({"job_id": 7, "job_state": "PENDING"})
            async with site.worker():
                run = await site.until(await site.new_run(), queued)
                assert run.infrastructure_pid == "7"
                rest.jobs({"job_id": 7, "job_state": "RUNNING"})
                await site.client.set_flow_run_state(run.id, Running())
                await site.client.set_flow_run_state(run.id, Completed())
                rest.jobs({"job_id": 7, "job_state": "COMPLETED", "exit_code": 0})
                run = await site.until(run.id, ended)
            assert (run.state.name, run.labels["slurm.end"]) == ("Completed", "done")
            (job,) = [body["job"] for method, _, body, _ in rest.asked if method == "POST"]
            assert job["comment"] == f"cryoflow:{run.id}"
            assert not slurm.calls("sbatch")

        play(scene)


def test_where_the_job_of_a_pack_dies_its_reason_is_that_of_each_member_still_at_work(
    play: Callable[[Scene], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cryoflow.cluster.packs.GATHER_S", 300.0)

    async def scene(site: Site, slurm: FakeSlurm) -> None:
        async with site.worker():
            ids = [await site.new_run(pack=2) for _ in range(2)]
            runs = [await site.until(run_id, queued) for run_id in ids]
            # the number of one was never written down, as when the worker died
            await site.client._client.patch(f"/flow_runs/{ids[1]}", json={"infrastructure_pid": None})
        async with site.worker():
            await site.until(ids[1], lambda run: run.infrastructure_pid == "100")
            for run in runs:
                await running(site, slurm, run)
            slurm.set(100, state="NODE_FAIL")
            assert [(await site.until(run_id, ended)).labels["slurm.end"] for run_id in ids] == ["node", "node"]

    play(scene)
