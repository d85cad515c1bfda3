"""Promise 2: killed anywhere, run again, the same result: exports, model bundles, caches, and the whole way to them.

The database's own writes are killed at every named fault point in tests/database/test_database_faults.py. Here the
process also ends at every call that changes a file, named or not (`promise_tools.on_each_change`).
"""

from __future__ import annotations

import io
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from killed import KILLED, at, die, fault_hook, fork, in_child, points_of
from promise_tools import DIAMETER_A, changes_of, has_times, leftovers, make_entry, on_each_change, tree

from cryoflow.database import Database, verify
from cryoflow.errors import BadInput
from cryoflow.pickers.registry import names, picker
from cryoflow.pickers.training_sets.build import build_training_set
from cryoflow.pickers.training_sets.export import cut_export, export, write_set
from cryoflow.pickers.training_sets.export_shards import write_shard
from cryoflow.pickers.training_sets.manifest import read_manifest
from cryoflow.picks import PickSet
from cryoflow.preparation.picked_micrograph import picked_micrographs
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.report.page import write_report
from cryoflow.storage import fault_points, stale_files
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.label import label_star_folder
from cryoflow.unpicker.network import Architecture
from cryoflow.unpicker.patch_cache import prepare

pytestmark = pytest.mark.forks

PICKERS = names()
SMALL = TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1)


def small_bundle(scale: float = 1.0) -> ModelBundle:
    weights = {"a/kernel": np.full((3, 4), scale, np.float32), "a/bias": np.zeros(4, np.float32)}
    return ModelBundle(Architecture("residual", 12, 2), SMALL, weights, DIAMETER_A, versions={"cryoflow": "0"})


# ---- every fault point has a case ---------------------------------------------------------------------------------


def test_every_fault_point_has_a_case_here_or_in_the_databases_tests(tmp_path: Path) -> None:
    """What the cases below pass, with what the cases of tests/database pass (replace, add, relink, mark, repair)."""
    entry = make_entry(tmp_path)
    passed: set[str] = set()

    def database_work() -> None:
        database = Database(tmp_path / "DB")
        for turn in range(2):
            micrographs = entry.micrographs.copy()
            if turn:  # a copy in another folder: its link is moved
                micrographs.loc[0, "path"] = str(shutil.copy(micrographs.loc[0, "path"], tmp_path / "elsewhere.mrc"))
            database.add(type(entry).build(entry.provenance, micrographs, entry.picks))
        database.mark("P1/Homo_J5", "stale", "x")
        database.unmark("P1/Homo_J5")
        database.remove("P1/Homo_J5")

    for work in (database_work, lambda: export("topaz", [entry], tmp_path / "topaz", diameter_A=DIAMETER_A)):
        passed |= set(points_of(work, tmp_path / "points"))
    assert passed == fault_points.FAULT_POINTS


# ---- exports ------------------------------------------------------------------------------------------------------


def exporter(picker_name: str, entries: list[PickSet], output: Path) -> Callable[[], object]:
    """What writes a training set; what comes before the writing (the look at the pixels) is done once."""
    target = picker(picker_name)
    training = build_training_set(entries, diameter_A=DIAMETER_A, link=target.links_micrographs)
    return lambda: write_set(target, training, output, {}, "seed 0", overwrite=True)


def kill_at_each_change(work: Callable[[], object], where: Path, expected: dict[str, str], n_changes: int) -> None:
    """Kill the work at each change: its set is then absent or complete, and the next run makes what is expected."""
    for number in range(n_changes):
        empty(where)

        def killed(number: int = number) -> None:
            on_each_change(where, at(number, die))
            work()

        assert in_child(killed) == KILLED
        assert not (where / "set").exists() or tree(where / "set") == tree_below(expected, "set")
        assert in_child(work) == 0
        assert tree(where) == expected, f"killed at change {number} of {n_changes}"


@pytest.mark.parametrize("name", PICKERS)
def test_an_export_killed_at_any_change_is_absent_and_the_next_gives_the_same_bytes(name: str, tmp_path: Path) -> None:
    where = tmp_path / "sets"
    where.mkdir()
    work = exporter(name, [make_entry(tmp_path, n=2)], where / "set")
    n_changes = len(changes_of(work, where, tmp_path / "log"))
    expected = tree(where)
    assert n_changes >= 5
    kill_at_each_change(work, where, expected, n_changes)


def test_an_export_in_parts_killed_at_any_change_is_absent_and_the_next_gives_the_same_bytes(tmp_path: Path) -> None:
    where = tmp_path / "sets"
    where.mkdir()
    entries = [make_entry(tmp_path, n=2)]

    def work() -> None:
        parts = cut_export("topaz", entries, where / "set", 1, diameter_A=DIAMETER_A)
        for part in parts[1:]:  # the first is left to the gathering
            write_shard(part)
        export("topaz", entries, where / "set", diameter_A=DIAMETER_A)

    n_changes = len(changes_of(work, where, tmp_path / "log"))
    expected = tree(where)
    assert {name.partition("/")[0] for name in expected} == {"set"}
    empty(where)
    assert in_child(lambda: export("topaz", entries, where / "set", diameter_A=DIAMETER_A)) == 0
    assert tree(where) == expected
    kill_at_each_change(work, where, expected, n_changes)


def test_an_export_that_replaces_another_killed_at_any_point_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    where = tmp_path / "sets"
    write_old = exporter("topaz", [make_entry(tmp_path, n=2)], where / "set")
    write_new = exporter("topaz", [make_entry(tmp_path, "P2", n=2, seed=1)], where / "set")
    states = []
    for write in (write_new, write_old):
        assert in_child(write) == 0
        states.append(tree(where))
    assert states[0] != states[1]
    points = points_of(write_new, tmp_path / "points")
    assert {"folder.moved_aside", "folder.renamed", "folder.cleaned"} <= set(points)
    for number in range(len(points)):
        assert in_child(write_old) == 0

        def killed(number: int = number) -> None:
            with fault_hook(at(number, die)):
                write_new()

        assert in_child(killed) == KILLED
        stands = [tree_below(state, "set") for state in states]
        there = tree(where / "set") if (where / "set").exists() else tree(stale_files.aside_of(where / "set"))
        assert there in stands
        assert in_child(write_new) == 0
        assert tree(where) == states[0], f"killed at {points[number]} ({number})"


def empty(folder: Path) -> None:
    import shutil

    for path in folder.iterdir():
        shutil.rmtree(path)


def tree_below(whole: dict[str, str], name: str) -> dict[str, str]:
    return {k.removeprefix(f"{name}/"): v for k, v in whole.items() if k.startswith(f"{name}/") and k != f"{name}/"}


# ---- models and caches --------------------------------------------------------------------------------------------


def test_a_model_killed_at_any_change_is_no_model_or_whole_and_saving_again_gives_the_same_bytes(
    tmp_path: Path,
) -> None:
    where = tmp_path / "models"

    def before() -> None:
        small_bundle(1.0).save(where / "m")

    def work() -> None:
        small_bundle(2.0).save(where / "m")

    assert in_child(before) == 0  # in children, since a process sweeps a folder once
    n_changes = len(changes_of(work, where, tmp_path / "log"))
    expected = tree(where)
    assert n_changes >= 9
    for number in range(n_changes):
        assert in_child(before) == 0

        def killed(number: int = number) -> None:
            on_each_change(where, at(number, die))
            work()

        assert in_child(killed) == KILLED
        try:
            weights = ModelBundle.load(where / "m").weights["a/kernel"]
            assert set(weights.ravel()) in ({1.0}, {2.0})
        except BadInput:
            assert not (where / "m/bundle.json").exists()
        assert in_child(work) == 0
        assert tree(where) == expected, f"killed at change {number}"


def test_boxes_in_the_cache_killed_at_any_change_are_absent_or_whole(tmp_path: Path) -> None:
    micrographs, _ = picked_micrographs(make_entry(tmp_path, n=2))
    where = tmp_path / "cache"
    where.mkdir()

    def work() -> None:
        assert not prepare(SMALL, micrographs, where, workers=1).failed

    n_changes = len(changes_of(work, where, tmp_path / "log"))
    expected = tree(where)
    for number in range(n_changes):
        empty(where)

        def killed(number: int = number) -> None:
            on_each_change(where, at(number, die))
            work()

        assert in_child(killed) == KILLED
        for file in where.rglob("*.npy"):
            if not file.name.startswith("."):
                assert np.load(file, allow_pickle=False).ndim == 4
        assert in_child(work) == 0
        assert {k: v for k, v in tree(where).items() if ".tmp-" not in k} == expected, f"killed at change {number}"


# ---- the whole way ------------------------------------------------------------------------------------------------


def test_the_whole_way_killed_at_random_times_ends_at_the_same_bytes(finished_projects: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, over and over; after each, what stands in the database is complete and loads.

    Ingest, exports, labels, the cache of boxes, a model, the report. Training and un-picking are killed in
    test_promise_12_long_work.py.
    """
    from cryoflow.ingest import ingest

    def work(out: Path) -> None:
        database = Database(out / "DB")
        assert ingest(finished_projects, database, check_orientation=False).exit_code == 0
        picks = database.load("CS-demo/NonUniform_J11")
        export("cryolo", [picks], out / "cryolo", diameter_A=150, force=True)
        export("relion", [picks], out / "relion", diameter_A=150)
        labels = out / "stars"
        labels.mkdir(exist_ok=True)
        for suffix, rows in (("_autopick", "1 2\n30 40\n"), ("_autopick_correct", "1 2\n")):
            head = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
            (labels / f"a{suffix}.star").write_text(head + rows)
        label_star_folder(labels, out / "labels")
        prepare(SMALL, picked_micrographs(picks, diameter_A=150)[0], out / "cache", workers=1)
        small_bundle().save(out / "model")
        write_report(out / "report.html", "Report", [])

    begun = time.monotonic()
    assert in_child(lambda: work(tmp_path / "plain")) == 0
    whole_s = time.monotonic() - begun
    rng = random.Random(0)
    root = tmp_path / "killed"
    n_killed = 0
    end = time.monotonic() + 15
    while (time.monotonic() < end or n_killed < 3) and n_killed < 16:
        pid = fork()
        if pid == 0:
            try:
                sys.stderr = io.StringIO()
                work(root)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0, 0.9 * whole_s) if n_killed % 2 else rng.uniform(0, 0.2 * whole_s))
        os.kill(pid, signal.SIGKILL)
        n_killed += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        database = Database(root / "DB")
        for entry in database.entries():
            assert len(database.load(entry)) == entry.n_picks
        if (root / "DB").exists() and database.exists:
            damage = [f for f in verify(database) if f.severity == "damage" and f.path.parent.name != "Micrographs"]
            assert damage == []
    assert in_child(lambda: work(root)) == 0
    wanted = tree(tmp_path / "plain/DB", ignore=has_times)
    assert tree(root / "DB", ignore=has_times) == wanted
    for name in ("cryolo", "relion"):
        assert (
            read_manifest(root / name)
            .drop(columns="path")
            .equals(read_manifest(tmp_path / "plain" / name).drop(columns="path"))
        )
    for name in ("labels", "cache", "model"):
        assert tree(root / name) == tree(tmp_path / "plain" / name)
    assert leftovers(root) == []
