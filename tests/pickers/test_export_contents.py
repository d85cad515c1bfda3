"""An export is checked before it is called done: what was deleted, cut or edited is found, told and written again."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cryoflow.errors import BadInput, NewerFormat
from cryoflow.pickers.registry import pickers
from cryoflow.pickers.training_sets import contents, links, manifest
from cryoflow.pickers.training_sets.export import ExportResult, export
from cryoflow.pickers.training_sets.split import Fractions
from cryoflow.picks import PickSet
from cryoflow.storage.sealing import sealed

SPLIT = Fractions(0.3)
SETTINGS = {name: {"pixel_size": 8.0} if name == "warp" else {} for name in pickers()}
"""Picker -> settings for small pictures."""


def write(name: str, entry: PickSet, out: Path, **options: object) -> ExportResult:
    return export(name, [entry], out, split=SPLIT, settings=SETTINGS[name] | dict(options))


def of_export(out: Path) -> list[Path]:
    """All files and links of an export, except its record."""
    return sorted(p for p in out.rglob("*") if (p.is_symlink() or p.is_file()) and p.name != contents.NAME)


def state(out: Path) -> dict[str, bytes | str]:
    return {str(p.relative_to(out)): str(p.readlink()) if p.is_symlink() else p.read_bytes() for p in of_export(out)}


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    """Half of a file; a link becomes an empty file."""
    old = b"" if path.is_symlink() else path.read_bytes()
    path.unlink()
    path.write_bytes(old[: len(old) // 2] if old else b"")


def edit(path: Path) -> None:
    """One byte of a file, of the same size where it has one; a link leads to another file."""
    if path.is_symlink():
        path.unlink()
        path.symlink_to("/dev/null")
        return
    old = bytearray(path.read_bytes() or b"\0")
    old[len(old) // 2] ^= 1
    path.write_bytes(old)


@pytest.mark.parametrize("damage", [delete, cut, edit])
@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_each_damaged_file_is_found_and_all_are_restored(
    make_entry: Callable[..., PickSet], tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write(name, entry, out)
    before, record = state(out), (out / contents.NAME).read_bytes()
    assert contents.verify(out) == []
    damaged = []
    for path in of_export(out):
        if damage is cut and not path.is_symlink() and not path.stat().st_size:
            continue  # it is empty, and stays as it is
        kept = path.with_name("kept")
        path.rename(kept)
        if kept.is_symlink():
            path.symlink_to(kept.readlink())
        else:
            path.write_bytes(kept.read_bytes())
        damage(path)
        assert [c.path for c in contents.verify(out)] == [str(path.relative_to(out))]
        path.unlink(missing_ok=True)
        kept.rename(path)
        damaged.append(path)
    assert contents.verify(out) == []
    assert len(damaged) >= 3
    for path in damaged:
        damage(path)
    (out / "model.h5").write_bytes(b"a trained model")
    result = write(name, entry, out)
    assert result.reused
    assert len(result.restored) == len(damaged)
    assert f"Deleted or changed files are written again ({len(damaged)})" in result.notes[-1]
    assert (out / "model.h5").read_bytes() == b"a trained model"
    kept_files = {p for p in of_export(out) if contents.REPLACED in p.parts}
    assert {k: v for k, v in state(out).items() if out / k not in kept_files} == before | {
        "model.h5": b"a trained model"
    }
    assert (out / contents.NAME).read_bytes() == record
    assert contents.verify(out) == []
    again = write(name, entry, out)
    assert again.reused
    assert again.restored == ()
    assert [(s.name, s.value) for s in again.settings] == [(s.name, s.value) for s in result.settings]


def test_edited_files_are_kept(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write("cryolo", entry, out)
    config = out / "config_cryolo.json"
    for text in ("mine", "mine, too"):
        config.write_text(text)
        write("cryolo", entry, out)
    kept = sorted(p.read_text() for p in (out / contents.REPLACED).iterdir())
    assert kept == ["mine", "mine, too"]
    assert config.read_text().startswith("{")


def test_deleted_folders_are_found_and_restored(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write("topaz", entry, out)
    (out / "models").rmdir()
    assert [str(c) for c in contents.verify(out)] == ["models is missing"]
    assert write("topaz", entry, out).restored == (contents.Change("models", "is missing"),)
    assert (out / "models").is_dir()


@pytest.mark.parametrize("lost", [("contents.json",), ("manifest.tsv",), ("settings.tsv", "manifest.tsv")])
def test_lost_tables_are_restored(make_entry: Callable[..., PickSet], tmp_path: Path, lost: tuple[str, ...]) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write("epicker", entry, out)
    before = state(out)
    for name in lost:
        (out / name).unlink()
    assert write("epicker", entry, out).reused
    assert state(out) == before
    assert contents.verify(out) == []


def test_a_damaged_record_is_told_and_restored(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write("epicker", entry, out)
    record = out / contents.NAME
    sound = record.read_bytes()
    record.write_bytes(sound.replace(b"labels/", b"lables/", 1))
    with pytest.raises(BadInput, match="Export into the folder again"):
        contents.verify(out)
    write("epicker", entry, out)
    assert record.read_bytes() == sound
    record.write_text(sealed({"format": contents.FORMAT + 1}))
    with pytest.raises(NewerFormat):
        write("epicker", entry, out)


def test_a_record_whose_names_leave_the_folder_is_not_used(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write("epicker", entry, out)
    record = {"format": 1, "made_with": "x", "files": {"../x": "1 2"}, "links": {}, "folders": [], "micrographs": {}}
    (out / contents.NAME).write_text(sealed(record))
    assert contents.read_contents(out) is None


def test_micrographs_that_change_after_the_export_are_told(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    entry, out = make_entry(n=3), tmp_path / "set"
    write("cryolo", entry, out)
    path = str(entry.micrographs["path"].iloc[0])
    os.utime(path, (1, 1))
    assert [(c.path, c.what) for c in contents.verify(out)] == [(path, "was changed since the export")]
    assert write("cryolo", entry, out).reused
    assert contents.verify(out) == []


def test_copies_are_the_exports_own(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    entry = make_entry(n=3)
    linked, copied = write("cryolo", entry, tmp_path / "a"), write("cryolo", entry, tmp_path / "b", micrographs="copy")
    assert "WARNING" in (linked.folder / "README.txt").read_text()
    assert "WARNING" not in (copied.folder / "README.txt").read_text()
    pictures = sorted(copied.folder.glob("*_image/*.mrc"))
    assert len(pictures) == 3
    assert not any(p.is_symlink() for p in pictures)
    originals = manifest.read_manifest(copied.folder).set_index("stem")["path"]
    for picture in pictures:
        original = Path(originals[picture.stem])
        assert picture.read_bytes() == original.read_bytes()
        with picture.open("r+b") as file:
            file.truncate(10)
        assert original.stat().st_size > 10
    assert len(write("cryolo", entry, tmp_path / "b", micrographs="copy").restored) == 3


def test_a_reflink_that_the_file_system_cannot_make_is_one_clear_error(
    make_entry: Callable[..., PickSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(links.fcntl, "ioctl", refuse)
    with pytest.raises(BadInput, match=r"cannot be reflinked.*--copy") as caught:
        write("epicker", make_entry(n=3), tmp_path / "set", micrographs="reflink")
    assert str(caught.value).count("--copy") == 1
    assert not (tmp_path / "set").exists()


def test_other_ways_to_get_micrographs_are_refused(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="link or copy or reflink"):
        write("epicker", make_entry(n=3), tmp_path / "set", micrographs="hardlink")


def test_relion_gets_one_file_per_micrograph_whatever_their_names(
    make_entry: Callable[..., PickSet], tmp_path: Path
) -> None:
    names = [".", "..", "/", "a.mrc", "a.tif", "x/../a.mrc", "./a.mrc"]
    names += ["y" * 251 + ".mrc", "y" * 250 + "z.mrc", "é" * 125 + ".mrc", "folder/" * 600 + "a.mrc"]
    entry = make_entry(n=len(names), n_empty=0)
    table = entry.micrographs.assign(name=pd.Series(names, dtype=object))
    moved = PickSet.build(entry.provenance, table, entry.picks, diameter_A=entry.diameter_A)
    out = export("relion", [moved], tmp_path / "set").folder
    files = sorted(out.glob("AutoPick/*/**/*_autopick.star"))
    files = [f for f in files if f.name != "coords_suffix_autopick.star"]
    assert len(files) == len(names)
    rows = sum(line[:1].isdigit() for f in files for line in f.read_text().splitlines())
    assert rows == len(entry.picks)


def test_no_cell_is_a_formula_and_names_come_back(make_entry: Callable[..., PickSet], tmp_path: Path) -> None:
    names = ["=cmd|' /C calc'!A0", "+1+1", "-2+3+cmd|'x'!A0", "@SUM(A1)", '"=1+1"', "\\=1", "-12.5", "plain.mrc"]
    entry = make_entry(n=len(names), n_empty=0)
    table = entry.micrographs.assign(name=pd.Series(names, dtype=object))
    moved = PickSet.build(entry.provenance, table, entry.picks, diameter_A=entry.diameter_A)
    out = export("relion", [moved], tmp_path / "set").folder
    cells = [c for line in (out / manifest.NAME).read_text().splitlines() for c in line.split("\t")]
    assert [c for c in cells if c[:1] in '=+@"' and c] == []
    assert [c for c in cells if c.startswith("-")] == ["-12.5"]
    assert sorted(manifest.read_manifest(out)["name"]) == sorted(names)


@pytest.mark.parametrize("bad", ["\x1b[2Jx", "a\tb", "a\nb", "a\udce9", "a\u2028b"])
def test_micrographs_whose_names_no_table_can_hold_are_left_out_and_counted(
    make_entry: Callable[..., PickSet], tmp_path: Path, bad: str
) -> None:
    entry = make_entry(n=3, n_empty=0)
    table = entry.micrographs.assign(name=pd.Series(["mics/a.mrc", f"mics/{bad}.mrc", "mics/c.mrc"], dtype=object))
    moved = PickSet.build(entry.provenance, table, entry.picks, diameter_A=entry.diameter_A)
    result = write("cryolo", moved, tmp_path / "set")
    (skipped,) = result.skipped
    assert skipped.micrograph.isprintable()
    assert result.n_micrographs == 2
    assert b"\x1b" not in (result.folder / manifest.NAME).read_bytes()
