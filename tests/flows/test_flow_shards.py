"""Cutting heavy stages into shards: each micrograph in one shard, and no job where one is enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import flow

from cryoflow.cluster.dispatch import Done, Work
from cryoflow.database import Database
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.ingest.parameters import IngestParameters
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.shards import cut
from cryoflow.storage.files import write_atomically
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.network import Architecture
from cryoflow.unpicker.parameters import UnpickParameters
from cryoflow.unpicker.unpick_shards import entry_shards
from flows.ingest import group_projects, ingest, ingest_in_shards, plan_what_to_read
from flows.scoring import score_in_shards

ENTRY = "CS-barrel/AutoPick_J4"


@pytest.fixture
def dispatched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Work]]]:
    """What would have become runs of deployments, stage by stage."""
    seen: list[tuple[str, list[Work]]] = []

    def run_shards(stage: str, works: Sequence[Work], *, on_done: Callable[[Done], None]) -> tuple[Done, ...]:
        seen.append((stage, list(works)))
        done = tuple(Done(w.name, "Failed" if i else "Completed", "", 1, "id") for i, w in enumerate(works))
        for each in done:
            on_done(each)
        return done

    monkeypatch.setattr("flows.shards.run_shards", run_shards)
    monkeypatch.setattr("flows.shards.dispatches", lambda: True)
    return seen


@given(st.integers(0, 5000), st.integers(1, 2000), st.integers(1, 300))
def test_each_micrograph_is_in_one_range_of_whole_chunks(n: int, a_job: int, chunk: int) -> None:
    ranges = list(cut(n, a_job, chunk))
    assert [i for first, last in ranges for i in range(first, last)] == list(range(n))
    assert all((last - first) % chunk == 0 for first, last in ranges[:-1])
    assert all(last - first <= max(a_job, chunk) for first, last in ranges)


def test_shards_cover_an_entry_and_one_that_fails_is_told_and_stops_nothing(
    project: Path, tmp_path: Path, dispatched: list[tuple[str, list[Work]]]
) -> None:
    database = tmp_path / "DB"
    ingest(IngestParameters(roots=(project.parent,), database=database))
    parameters = UnpickParameters(
        database=database, entries=(ENTRY,), model=tmp_path, work=tmp_path, chunk_micrographs=2
    )
    assert score_in_shards(parameters, 6) == ()  # six micrographs are one job, the stage itself
    assert dispatched == []
    done = flow(name="parent")(lambda: score_in_shards(parameters, 4))()
    assert [d.succeeded for d in done] == [True, False]
    ((stage, works),) = dispatched
    assert stage == "score"
    assert [(w.parameters.first, w.parameters.last) for w in works] == [(0, 4), (4, 6)]  # type: ignore[attr-defined]
    assert {w.parameters.entry for w in works} == {ENTRY}  # type: ignore[attr-defined]
    assert Database(database).entries()


def test_shards_that_are_scored_make_no_job(
    project: Path, tmp_path: Path, dispatched: list[tuple[str, list[Work]]]
) -> None:
    database, work = tmp_path / "DB", tmp_path / "work"
    ingest(IngestParameters(roots=(project.parent,), database=database))
    weights = {"kernel": np.zeros(3, np.float32)}
    bundle = ModelBundle(Architecture("residual", 48, 2), TwoChannelPreprocessing(), weights, diameter_A=160.0)
    bundle.save(tmp_path / "model")
    _, shards = entry_shards(bundle, load_with_diameter(Database(database), ENTRY), 2, work)
    write_atomically(shards[0].result, "{}")
    parameters = UnpickParameters(
        database=database, entries=(ENTRY,), model=tmp_path / "model", work=work, chunk_micrographs=2
    )
    flow(name="parent")(lambda: score_in_shards(parameters, 2))()
    assert [(w.parameters.first, w.parameters.last) for w in dispatched.pop()[1]] == [(2, 4), (4, 6)]  # type: ignore[attr-defined]
    replace(bundle, temperature=2.0).save(tmp_path / "model")  # another model scores anew
    flow(name="parent")(lambda: score_in_shards(parameters, 2))()
    assert len(dispatched.pop()[1]) == 3


def test_projects_are_grouped_until_a_job_is_large_enough(
    project: Path, tmp_path: Path, dispatched: list[tuple[str, list[Work]]]
) -> None:
    roots = tmp_path / "projects"
    roots.mkdir()
    for name in ("CS-a", "CS-b", "CS-c"):
        (roots / name).symlink_to(project)
    parameters = IngestParameters(roots=tuple(sorted(roots.iterdir())), database=tmp_path / "DB")
    plan = plan_what_to_read(parameters)
    sizes = [len(group) for group in group_projects(plan, 12)]
    assert sum(sizes) == len({planned.job.project for planned in plan.jobs})
    assert len(group_projects(plan, 1_000)) == 1
    assert flow(name="parent")(lambda: ingest_in_shards(parameters, 1_000))() == ()
    assert dispatched == []
    ingest(parameters)
    assert group_projects(plan_what_to_read(parameters), 1) == []  # nothing is new


def test_where_stages_run_in_this_process_nothing_is_cut(tmp_path: Path) -> None:
    parameters = IngestParameters(roots=(tmp_path,), database=tmp_path / "DB")
    assert ingest_in_shards(parameters, 1) == ()
