"""Held-out micrographs never move, whatever name or project they come back under."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cryoflow.errors import BadInput
from cryoflow.models.held_out import LEAST, SHARE, HeldOut, is_drawn


def fingerprints(project: str, n: int) -> list[str]:
    return [hashlib.blake2b(f"{project}{i}".encode(), digest_size=16).hexdigest() for i in range(n)]


def test_a_share_of_the_micrographs_is_held_out(tmp_path: Path) -> None:
    drawn = HeldOut(tmp_path).draw({"A": fingerprints("A", 2000)})["A"]
    assert len(drawn) == pytest.approx(2000 * SHARE, rel=0.15)


@pytest.mark.parametrize(("n", "least"), [(1, 0), (2, 1), (3, 1), (4, 2), (9, 2)])
def test_a_small_project_holds_out_some_but_never_more_than_half_to_reach_them(
    tmp_path: Path, n: int, least: int
) -> None:
    marks = [m for m in fingerprints("small", 100) if not is_drawn(m)][:n]
    assert len(HeldOut(tmp_path).draw({"small": marks})["small"]) == least <= LEAST


def test_what_was_drawn_stays_drawn_when_micrographs_come_and_go(tmp_path: Path) -> None:
    marks = [m for m in fingerprints("A", 400) if not is_drawn(m)][:10]
    first = HeldOut(tmp_path).draw({"A": marks})["A"]
    second = HeldOut(tmp_path).draw({"A": marks[5:] + fingerprints("more", 50)})["A"]
    assert first <= second
    assert second - first == {m for m in fingerprints("more", 50) if is_drawn(m)}
    HeldOut(tmp_path).draw({"B": fingerprints("B", 40)})
    assert HeldOut(tmp_path).read()["A"] == second


def test_a_micrograph_that_was_learned_from_is_never_held_out_later(tmp_path: Path) -> None:
    marks = fingerprints("A", 40)
    learned = [m for m in marks if is_drawn(m)] + marks[:10]
    drawn = HeldOut(tmp_path).draw({"A": marks}, learned)["A"]
    assert drawn
    assert not drawn & set(learned)


def test_the_same_file_in_another_project_is_held_out_there_too(tmp_path: Path) -> None:
    held_out = HeldOut(tmp_path)
    few = [m for m in fingerprints("A", 100) if not is_drawn(m)][:6]
    chosen = held_out.draw({"A": few})["A"]
    assert chosen <= held_out.all_fingerprints()  # a training of project "copy of A" leaves these out
    assert len(chosen) == LEAST


def test_a_changed_record_is_an_error_and_not_an_empty_one(tmp_path: Path) -> None:
    held_out = HeldOut(tmp_path)
    held_out.draw({"A": fingerprints("A", 40)})
    held_out.path.write_text(held_out.path.read_text().replace('"A"', '"B"'))
    with pytest.raises(BadInput, match="checksum"):
        held_out.all_fingerprints()
