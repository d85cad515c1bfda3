"""Promise 11: no micrograph, nor a copy of it in another project, is on both sides of a split."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promise_tools import DIAMETER_A, make_entry

from cryoflow.micrographs.duplicate_files import leaders
from cryoflow.pickers.training_sets.export import export
from cryoflow.pickers.training_sets.manifest import read_manifest
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import PickSet
from cryoflow.preparation.picked_micrograph import PickedMicrograph, picked_micrographs
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.storage.fingerprints import checksum, fingerprint
from cryoflow.unpicker.batches import TrainingBatches
from cryoflow.unpicker.labeled import LabeledSet, split_by_micrograph
from cryoflow.unpicker.patch_cache import CachedMicrograph, prepare

SMALL = TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1)


def copied(entry: PickSet, folder: Path, project: str, rows: list[int], *, shift: int = 0) -> PickSet:
    """An entry of another project whose micrographs are copies, under other names and in another order."""
    names, paths = entry.micrographs["name"].copy(), entry.micrographs["path"].copy()
    (folder / project).mkdir(parents=True)
    for i in range(len(names)):
        j = rows[i] if i < len(rows) else None
        if j is not None:
            path = folder / project / f"{chr(97 + (7 * i + shift) % 26)}_{i}.mrc"
            shutil.copyfile(paths[j], path)
            names[i], paths[i] = f"renamed/{path.name}", str(path)
    keep = range(len(rows))
    micrographs = entry.micrographs.assign(name=names, path=paths).iloc[list(keep)].reset_index(drop=True)
    micrographs["defocus_u_A"] = micrographs["defocus_u_A"].to_numpy()[::-1]
    picks = entry.picks[entry.picks["micrograph"] < len(rows)]
    who = replace(entry.provenance, project=folder / project, project_name=project)
    return PickSet.build(who, micrographs, picks, diameter_A=DIAMETER_A)


def sides(parts: list[tuple[str, Path]]) -> dict[str, set[str]]:
    """Content of a micrograph -> the parts that it is in."""
    found: dict[str, set[str]] = {}
    for part, path in parts:
        found.setdefault(checksum(path), set()).add(part)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_a_training_set_for_pickers_has_no_micrograph_on_two_sides(tmp_path: Path, seed: int) -> None:
    one = make_entry(tmp_path, n=9, seed=1)
    two = copied(one, tmp_path, "Q7", list(range(8, 2, -1)))
    three = copied(one, tmp_path, "A0", [4, 0], shift=3)
    for name in ("topaz", "cryosegnet"):
        out = tmp_path / name
        result = export(
            name, [two, one, three], out, diameter_A=DIAMETER_A, split=Fractions(0.3, 0.3), seed=seed, force=True
        )
        table = read_manifest(result.manifest)
        found = sides([(s, Path(p)) for s, p in zip(table["split"], table["path"], strict=True)])
        assert len(table) == 17
        assert len(found) == 9
        assert [parts for parts in found.values() if len(parts) > 1] == []
        assert set(table["split"]) == {"train", "validation", "test"}
        assert any("copies" in note for note in result.notes)


@pytest.mark.parametrize("seed", range(4))
def test_the_unpickers_training_has_no_micrograph_on_two_sides(tmp_path: Path, seed: int) -> None:
    one = make_entry(tmp_path, n=9, seed=1, labels=True)
    two = copied(one, tmp_path, "Q7", list(range(8, 2, -1)))
    training = LabeledSet.from_picks([one, two])
    split = split_by_micrograph(training, validation=0.3, test=0.3, seed=seed)
    found = sides([(part, m.path) for part, members in split.parts() for m in members])
    assert sum(len(members) for _, members in split.parts()) == 15
    assert len(found) == 9
    assert [parts for parts in found.values() if len(parts) > 1] == []
    assert all(members for _, members in split.parts())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from("pqr")), min_size=1, max_size=14), st.integers(0, 99))
def test_whatever_is_copied_whereto_a_copy_goes_where_its_leader_goes(rows: list[tuple[int, str]], seed: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, (content, _) in enumerate(rows):
            paths.append(Path(folder, str(i)))
            paths[-1].write_bytes(bytes([content]) * 200_000)
        leader = leaders(paths, [group for _, group in rows])
        part = np.random.default_rng(seed).integers(0, 3, len(rows))[leader]
        for content in range(6):
            assert len({part[i] for i, row in enumerate(rows) if row[0] == content}) <= 1
        assert all(leader[leader[i]] == leader[i] for i in range(len(rows)))
        assert all(rows[leader[i]][0] == rows[i][0] for i in range(len(rows)))


def test_missing_and_unreadable_files_follow_nobody(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    paths = [None, tmp_path / "no", tmp_path, tmp_path / "b", "nul\0", tmp_path / "a", None]
    assert leaders(paths, ["p"] * 7).tolist() == [0, 1, 2, 3, 4, 3, 6]


def test_other_pixels_are_no_copy(tmp_path: Path) -> None:
    entry = make_entry(tmp_path, n=2)
    a, b = (Path(p) for p in entry.micrographs["path"])
    assert a.stat().st_size == b.stat().st_size
    assert fingerprint(a) != fingerprint(b)
    assert leaders([a, b], ["p", "q"]).tolist() == [0, 1]


def prepared(entry: PickSet, cache: Path) -> tuple[CachedMicrograph, ...]:
    return prepare(SMALL, picked_micrographs(entry)[0], cache, workers=1).micrographs


def test_a_box_is_normalized_by_its_own_micrograph_alone(tmp_path: Path) -> None:
    """No number is fitted over micrographs, so none can be carried from the test to the training side."""
    entry = make_entry(tmp_path, n=3, labels=True)
    before = [m.load() for m in prepared(entry, tmp_path / "a")]
    other = Path(entry.micrographs["path"][2])
    content = bytearray(other.read_bytes())
    content[1024:] = (np.frombuffer(bytes(content[1024:]), "<f4") * 50 + 7).tobytes()
    other.write_bytes(bytes(content))
    after = [m.load() for m in prepared(entry, tmp_path / "b")]
    for i in (0, 1):
        np.testing.assert_array_equal(before[i], after[i])
    alone = prepare(SMALL, picked_micrographs(entry)[0][:1], tmp_path / "c", workers=1).micrographs[0].load()
    np.testing.assert_array_equal(alone, before[0])


def test_rotations_of_a_pick_stay_with_its_micrograph(tmp_path: Path) -> None:
    """Views are made while training, from boxes of the training part; none is stored, and none can be split off."""
    entry = make_entry(tmp_path, n=6, labels=True)
    split = split_by_micrograph(LabeledSet.from_picks(entry), validation=0.3, test=0.2)
    assert [sum(len(m.labels) for m in members) for _, members in split.parts()] == [
        sum((entry.picks["micrograph"] == i).sum() for i in rows)
        for rows in (
            [entry.micrographs["name"].tolist().index(m.name) for m in members] for _, members in split.parts()
        )
    ]
    train = prepare(SMALL, list(split.train), tmp_path / "cache", workers=1).micrographs
    batches = TrainingBatches(
        train, SMALL, batch=8, seed=0, contrast=0.1, memory_bytes=1 << 20, least_steps=1, workers=1
    )
    elsewhere = {m.key for m in (*split.validation, *split.test)}
    assert {m.micrograph.key for m in batches.micrographs} == {m.key for m in split.train}
    assert not {m.micrograph.key for m in batches.micrographs} & elsewhere


def test_a_model_that_starts_from_another_is_not_tested_on_what_that_one_learned(tmp_path: Path) -> None:
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.evaluate import unseen_micrographs
    from cryoflow.unpicker.model_manifest import ManifestRow
    from cryoflow.unpicker.network import Architecture
    from cryoflow.unpicker.prepared_split import PreparedSplit
    from cryoflow.unpicker.train import rows_learned_before

    cached = prepared(make_entry(tmp_path, n=4, labels=True), tmp_path / "cache")
    rows = tuple(
        ManifestRow.of(part, m) for part, m in zip(("train", "validation", "test", "train"), cached, strict=True)
    )
    start = ModelBundle(Architecture("residual", 12, 2), SMALL, {}, DIAMETER_A, manifest=rows)
    parts = PreparedSplit(cached[2:3], cached[1:2], (cached[0],), ()).without_leaks(start)
    assert (len(parts.train), len(parts.test)) == (2, 0)
    manifest = (*parts.manifest(), *rows_learned_before(parts, start))
    new = replace(start, manifest=manifest)
    unseen: list[PickedMicrograph] = unseen_micrographs(new, [replace(m.micrograph, data_set="other") for m in cached])
    assert unseen == []
