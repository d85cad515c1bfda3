"""Held-out micrographs never move, whatever name or project they come back under."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cryoflow.errors import BadInput
from cryoflow.models.held_out import FILES, LEAST, SHARE, HeldOut, is_drawn, known_registries, without_held_out
from cryoflow.storage.fingerprints import checksum


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


def test_a_removed_record_is_an_error_where_held_out_micrographs_are_kept(tmp_path: Path) -> None:
    held_out = HeldOut(tmp_path)
    (tmp_path / FILES).mkdir()
    assert held_out.read() == {}
    held_out.draw({"A": fingerprints("A", 40)})
    (tmp_path / FILES / "A-1.npz").write_bytes(b"")
    held_out.path.unlink()
    for read in (held_out.read, held_out.read_ends, lambda: held_out.draw({"B": fingerprints("B", 40)})):
        with pytest.raises(BadInput, match=r"held_out\.json: is missing, although .* Restore it from a copy"):
            read()
    assert not held_out.path.exists()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Micrographs of one size, alike but for a byte in the middle of some and at the end of others."""
    (tmp_path / "images").mkdir()
    made = []
    for i in range(8):
        path = tmp_path / "images" / f"{i}.mrc"
        raw = bytearray(300_000)
        raw[150_000 if i < 4 else -1] = i + 1
        path.write_bytes(raw)
        made.append(path)
    return made


@pytest.mark.parametrize("with_ends", [True, False])
def test_files_are_told_from_held_out_ones_by_their_whole_content(
    tmp_path: Path, files: list[Path], *, with_ends: bool
) -> None:
    contents = {checksum(path): path for path in files}
    home = tmp_path / "models" / "detector"
    drawn = HeldOut(home).draw({"A": contents}, paths=contents if with_ends else None)["A"]
    assert len(HeldOut(home).read_ends()) == (len(drawn) if with_ends else 0)
    copy = tmp_path / "other_name.mrc"
    copy.write_bytes(contents[min(drawn)].read_bytes())
    left = without_held_out([*files, copy, None, tmp_path / "gone.mrc"], lambda path: path, [tmp_path / "models"])
    assert left == [*(path for path in files if checksum(path) not in drawn), None, tmp_path / "gone.mrc"]


def test_files_whose_ends_differ_from_those_held_out_are_not_read_whole(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = {checksum(path): path for path in files[:2]}
    HeldOut(tmp_path / "models" / "detector").draw({"A": contents}, paths=contents)
    read: list[Path] = []
    monkeypatch.setattr("cryoflow.models.held_out.checksum", lambda path: read.append(path) or "")
    without_held_out(files, lambda path: path, [tmp_path / "models"])
    assert read
    assert set(read) <= set(files[:4])


def test_ends_become_known_when_an_older_record_has_none(tmp_path: Path, files: list[Path]) -> None:
    contents = {checksum(path): path for path in files}
    drawn = HeldOut(tmp_path).draw({"A": contents})["A"]
    assert HeldOut(tmp_path).draw({"A": contents}, paths=contents)["A"] == drawn
    assert HeldOut(tmp_path).read_ends().keys() == drawn
    written = HeldOut(tmp_path).path.read_text()
    HeldOut(tmp_path).draw({"A": contents}, paths=contents)
    assert HeldOut(tmp_path).path.read_text() == written


def test_registries_are_those_given_those_of_the_site_and_the_one_beside_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert known_registries() == ()
    site = tmp_path / "cryoflow.toml"
    site.write_text(f'[site]\nmodels = "{tmp_path}/of_site"\n')
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(site))
    found = known_registries(tmp_path / "given", database=tmp_path / "picks")
    assert found == (tmp_path / "given", tmp_path / "of_site", tmp_path / "models")
