"""Exports in shards: the same bytes as in one piece, a bad micrograph costs its shard, and nothing old is taken."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.pickers.registry import picker, pickers
from cryoflow.pickers.training_sets.export import cut_export, export
from cryoflow.pickers.training_sets.export_shards import folder_of_shards, plan_of, shards_in, write_shard
from cryoflow.pickers.training_sets.links import read_any
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import PickSet

NAMES = ["mic 0.mrc", "mic 1.mrc", "mic_2.tiff", "mic_3.mrc", "mic_4.mrc"]  # in the order of a pick set
CUT = sorted(name for name, picker in pickers().items() if picker.writes_micrographs)
SPLIT = Fractions(0.2, 0.2)


def tree(folder: Path) -> dict[str, object]:
    """Bytes of files, targets of links, names of folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        what = path.readlink() if path.is_symlink() else None if path.is_dir() else path.read_bytes()
        found[str(path.relative_to(folder))] = what
    return found


@pytest.fixture
def entries(make_entry: Callable[..., PickSet]) -> list[PickSet]:
    """Two entries of other pixels and shapes: wrong and unknown picks, names with blanks, files to be converted."""
    first = make_entry("P 1", names=[name.replace(".tiff", ".mrc") for name in NAMES])
    paths = first.micrographs["path"].tolist()
    tiff = Path(paths[2]).with_suffix(".tiff")
    tifffile.imwrite(tiff, read_any(paths[2]))
    with mrcfile.open(paths[3], "r+") as file:
        file.header.ispg = 1
    micrographs = first.micrographs.assign(path=[*paths[:2], str(tiff), *paths[3:]], name=[f"mics/{n}" for n in NAMES])
    label = np.array([1, 1, -1, 1, 0, 1], np.int8)[np.arange(len(first)) % 6]
    labeled = PickSet.build(first.provenance, micrographs, first.picks.assign(label=label), diameter_A=100.0)
    return [labeled, make_entry("P2", "J7", n=4, pixel_size_A=5.0, shape_yx=(600, 400), seed=1)]


def cut(name: str, entries: list[PickSet], output: Path, n: int = 4, **settings: object) -> list[Path]:
    return [shard.result for shard in cut_export(name, entries, output, n, split=SPLIT, settings=settings)]


def writing(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stems whose files are written from now on."""
    stems: list[str] = []
    write = type(picker(name)).write_micrographs

    def noted(self: object, some: object, folder: Path, settings: object) -> None:
        stems.extend(some.micrographs["stem"])  # type: ignore[attr-defined]
        write(self, some, folder, settings)  # type: ignore[arg-type]

    monkeypatch.setattr(type(picker(name)), "write_micrographs", noted)
    return stems


@pytest.mark.parametrize("links", ["hard links", "copies"])
@pytest.mark.parametrize("name", sorted(pickers()))
def test_shards_give_byte_for_byte_the_export_in_one_piece(
    name: str, links: str, entries: list[PickSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "set"
    in_one_piece = export(name, entries, output, split=SPLIT)
    expected = tree(output)
    shutil.rmtree(output)
    if links == "copies":

        def no_links(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "this file system has no second names")

        monkeypatch.setattr(os, "link", no_links)
    folders = cut(name, entries, output)
    assert len(folders) == (3 if name in CUT else 0)
    shards = shards_in(output)
    assert [(shard.first, shard.last) for shard in shards] == [(0, 4), (4, 8), (8, 9)][: len(folders)]
    for shard in shards[1:]:
        write_shard(shard)
    stems = writing(name, monkeypatch) if name in CUT else []
    gathered = export(name, entries, output, split=SPLIT)
    assert len(stems) == (4 if name in CUT else 0)  # the shard that nobody had written
    assert tree(output) == expected
    assert os.listdir(output.parent) == ["set"]
    assert (gathered.settings, gathered.splits, gathered.n_picks) == (
        in_one_piece.settings,
        in_one_piece.splits,
        in_one_piece.n_picks,
    )
    assert cut(name, entries, output) == []  # it is there
    assert export(name, entries, output, split=SPLIT).reused


def test_all_pickers_that_get_micrographs_can_be_cut() -> None:
    assert {name for name, picker in pickers().items() if picker.links_micrographs} | {"warp"} == set(CUT)


def test_a_bad_micrograph_costs_its_part_only_and_mended_it_is_all_that_is_written_again(
    entries: list[PickSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "set"
    expected = (export("warp", entries, output, split=SPLIT), tree(output))[1]
    shutil.rmtree(output)
    bad = [Path(entries[0].micrographs["path"][i]) for i in (0, 1)]
    sound = [path.read_bytes() for path in bad]
    for path in bad:
        write_mrc(path, np.ones((384, 576), np.float32), 4.0)
    cut("warp", entries, output, 3)
    first, *others = shards_in(output)
    for shard in others:
        write_shard(shard)
    with pytest.raises(BadInput, match=r"2 of 3 micrographs: .*mic 0.mrc: has one gray.*mic 1.mrc: has one gray"):
        write_shard(first)
    assert not first.is_done
    stems = writing("warp", monkeypatch)
    with pytest.raises(BadInput, match=r"2 of 3 micrographs: .*mic 0.mrc: .*mic 1.mrc: "):
        export("warp", entries, output, split=SPLIT)
    assert len(stems) == 3
    assert not output.exists()
    assert [shard.is_done for shard in shards_in(output)] == [False, True, True]

    for path, content in zip(bad, sound, strict=True):
        path.write_bytes(content)
    cut("warp", entries, output, 3)
    assert [shard.is_done for shard in shards_in(output)] == [False, True, True]
    stems.clear()
    export("warp", entries, output, split=SPLIT)
    assert len(stems) == 3
    written = tree(output)
    assert written.pop("contents.json") != expected.pop("contents.json")  # the micrographs are of another time
    assert written == expected
    assert os.listdir(output.parent) == ["set"]


def test_in_one_piece_every_bad_micrograph_is_named_at_once(entries: list[PickSet], tmp_path: Path) -> None:
    for i in (0, 4):
        write_mrc(Path(entries[0].micrographs["path"][i]), np.ones((384, 576), np.float32), 4.0)
    with pytest.raises(BadInput, match=r"2 of 9 micrographs: .*mic 0.mrc: .*mic_4.mrc: "):
        export("warp", entries, tmp_path / "set")
    assert not (tmp_path / "set").exists()


def test_shards_of_other_settings_or_changed_micrographs_are_not_taken(
    entries: list[PickSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "set"
    cut("warp", entries, output, pixel_size=10.0)
    for shard in shards_in(output):
        write_shard(shard)
    old = {plan_of(shard).name for shard in shards_in(output)}
    cut("warp", entries, output)
    shards = shards_in(output)
    assert not old & {plan_of(shard).name for shard in shards}
    assert sorted(os.listdir(folder_of_shards(output))) == sorted(plan_of(shard).name for shard in shards)
    for shard in shards:
        write_shard(shard)
    path = Path(entries[1].micrographs["path"][0])
    write_mrc(path, -read_any(str(path)), 5.0)  # the same size at another time
    stems = writing("warp", monkeypatch)
    export("warp", entries, output, split=SPLIT, force=True)
    assert len(stems) == 4  # those of its shard
    shown = tree(output)
    shutil.rmtree(output)
    export("warp", entries, output, split=SPLIT, force=True)
    assert tree(output) == shown


def test_other_sizes_of_shards_leave_none_of_the_earlier_ones(entries: list[PickSet], tmp_path: Path) -> None:
    output = tmp_path / "set"
    cut("cryolo", entries, output, 2)
    for shard in shards_in(output):
        write_shard(shard)
    cut("cryolo", entries, output, 4)
    assert [(shard.first, shard.last) for shard in shards_in(output)] == [(0, 4), (4, 8), (8, 9)]
    assert cut("cryolo", entries, output, 9) == []
    assert shards_in(output) == []


def test_a_damaged_part_is_told_and_gathering_does_without_it(entries: list[PickSet], tmp_path: Path) -> None:
    output = tmp_path / "set"
    cut("topaz", entries, output)
    shard = shards_in(output)[0]
    for damage in (b"", b"PK\3\4 no archive", plan_of(shard).read_bytes()[:-200]):
        plan_of(shard).write_bytes(damage)
        with pytest.raises(BadInput, match="is no shard of an export"):
            write_shard(shard)
    assert export("topaz", entries, output, split=SPLIT).n_micrographs == 9


def test_an_export_whose_settings_are_wrong_is_not_cut(entries: list[PickSet], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no setting batchsize"):
        cut("cryolo", entries, tmp_path / "set", batchsize=2)
    assert not folder_of_shards(tmp_path / "set").exists()


def test_shards_lie_where_a_linked_output_leads(entries: list[PickSet], tmp_path: Path) -> None:
    (tmp_path / "disk" / "real").mkdir(parents=True)
    output = tmp_path / "set"
    output.symlink_to(tmp_path / "disk" / "real")
    (folder, *_) = cut("eman2", entries, output)
    assert folder.is_relative_to(tmp_path / "disk")
    export("eman2", entries, output, split=SPLIT)
    assert os.listdir(tmp_path / "disk") == ["real"]
    assert (tmp_path / "disk" / "real" / "manifest.tsv").exists()
