"""Work in shards: what is done is skipped, and a shard that fails does not keep the others from being tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow import shards
from cryoflow.errors import BadInput, NotWritten
from cryoflow.shards import Shard


@pytest.fixture
def three(tmp_path: Path) -> list[Shard]:
    return [shards.shard(i, i + 2, tmp_path, "entry", ("model", i), ".json") for i in (0, 2, 4)]


def test_done_shards_are_skipped_and_count_as_progress_at_once(three: list[Shard]) -> None:
    three[1].result.write_text("")
    seen: list[tuple[int, int]] = []
    assert shards.run(three, lambda s: s.result.write_text(""), on_progress=lambda *n: seen.append(n)) == []
    assert seen == [(2, 6), (4, 6), (6, 6)]
    assert shards.remaining(three) == []


def test_a_failed_shard_is_returned_and_the_others_are_written(three: list[Shard]) -> None:
    def write(shard: Shard) -> None:
        if shard.first == 0:
            raise BadInput("mic.mrc", "is damaged.")
        shard.result.write_text("")

    assert [str(error) for error in shards.run(three, write)] == ["mic.mrc: is damaged."]
    assert shards.remaining(three) == three[:1]


def test_a_full_disk_ends_the_work_at_once(three: list[Shard]) -> None:
    tried = []

    def write(shard: Shard) -> None:
        tried.append(shard)
        raise NotWritten(shard.result, "is on a full disk.")

    with pytest.raises(NotWritten):
        shards.run(three, write)
    assert len(tried) == 1


def test_other_content_is_another_shard(tmp_path: Path) -> None:
    names = {shards.shard(0, 2, tmp_path, "entry", content).result.name for content in (("a",), ("b",), (b"a",), ())}
    assert len(names) == 4


def test_results_are_found_by_their_names_and_nothing_else_is(three: list[Shard], tmp_path: Path) -> None:
    for each in three:
        each.result.write_text("")
    for other in ("entry-1-2-0123456789abcdef.json", "notes.json", f"{three[0].result.name}.tmp"):
        (tmp_path / other).write_text("")
    assert shards.in_folder(tmp_path, ".json") == [s.result for s in three]
    assert shards.range_of(three[2].result.stem) == (4, 6)
    assert shards.in_folder(tmp_path / "absent") == []


def test_a_range_is_unfinished_until_all_its_shards_are_done(three: list[Shard]) -> None:
    ranges = [(0, 4), (4, 6)]
    three[0].result.write_text("")
    assert shards.unfinished(ranges, three) == ranges
    three[1].result.write_text("")
    assert shards.unfinished(ranges, three) == [(4, 6)]
